//! Streams on protocols of programs: how long one takes to open and give back a byte, and how many bytes go through; two
//! daemons, bare rust-libp2p and two Go p2pd in turns.

use std::time::Instant;

use bytes::Bytes;
use p2pd_api::v1::{
    ExchangeStreamRequest, ExchangeStreamResponse, HandleProtocolRequest, HandleProtocolResponse, OpenProtocolStream,
    exchange_stream_request::Item, exchange_stream_response::Event, protocol_service_client::ProtocolServiceClient,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::{bare_stream, daemon::Daemon, go, numbers::Latencies, socket::BareTonic};

pub const PROTOCOL: &str = "/bench/1";
/// Bytes that a program writes at once.
pub const CHUNK: usize = 64 * 1024;
const ROUNDS: usize = 3;
const OPENED: usize = 150;
const BULK: usize = 256 << 20;

/// Two daemons; a program at the first one opens streams to one at the other.
struct Ours {
    from: ProtocolServiceClient<Channel>,
    to: ProtocolServiceClient<Channel>,
    peer: String,
    handler: u64,
    /// A call that waits for the next stream.
    ahead: JoinHandle<Result<Exchange, Status>>,
    _inbound: Streaming<HandleProtocolResponse>,
    _daemons: [Daemon; 2],
}

type Exchange = (mpsc::Sender<ExchangeStreamRequest>, Streaming<ExchangeStreamResponse>);

/// Waits for the next stream; fails when the daemon stops.
async fn accept(mut client: ProtocolServiceClient<Channel>, handler: u64) -> Result<Exchange, Status> {
    let (items, requests) = mpsc::channel(16);
    items.send(ExchangeStreamRequest { item: Some(Item::AcceptNext(handler)) }).await.unwrap();
    let replies = client.exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    Ok((items, replies))
}

/// Reads so many bytes.
async fn read(replies: &mut Streaming<ExchangeStreamResponse>, count: usize) {
    let mut got = 0;
    while got < count {
        match replies.message().await.unwrap().unwrap().event.unwrap() {
            Event::Data(data) => got += data.len(),
            Event::Opened(_) => {}
            Event::RemoteClosed(_) => panic!("closed after {got} bytes"),
        }
    }
}

impl Ours {
    async fn start() -> Self {
        let b = Daemon::start(&[]);
        let a = Daemon::start(&[&b.address]);
        let mut to = ProtocolServiceClient::new(b.channel().await);
        let request = HandleProtocolRequest { protocol: PROTOCOL.into(), ..HandleProtocolRequest::default() };
        let mut inbound = to.handle_protocol(request).await.unwrap().into_inner();
        let handler = inbound.message().await.unwrap().unwrap().handler_id;
        let from = ProtocolServiceClient::new(a.channel().await);
        let peer = b.address.rsplit('/').next().unwrap().to_owned();
        let ahead = tokio::spawn(accept(to.clone(), handler));
        Ours { from, to, peer, handler, ahead, _inbound: inbound, _daemons: [a, b] }
    }

    async fn transfer(&mut self, count: usize) {
        let open = OpenProtocolStream { peer_id: self.peer.clone(), protocols: vec![PROTOCOL.into()] };
        let (items, requests) = mpsc::channel(16);
        // Whoever opens need not wait for that before it writes.
        let writing = async {
            items.send(ExchangeStreamRequest { item: Some(Item::Open(open)) }).await.unwrap();
            let chunk = Bytes::from(vec![7; CHUNK]);
            let mut left = count;
            while left > 0 {
                let part = left.min(CHUNK);
                items.send(ExchangeStreamRequest { item: Some(Item::Data(chunk.slice(..part))) }).await.unwrap();
                left -= part;
            }
        };
        let answer = async {
            let mut replies = self.from.exchange_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
            read(&mut replies, 1).await;
        };
        let receiving = async {
            let (items, mut replies) = (&mut self.ahead).await.unwrap().unwrap();
            read(&mut replies, count).await;
            items.send(ExchangeStreamRequest { item: Some(Item::Data(Bytes::from_static(b"."))) }).await.unwrap();
            (items, replies)
        };
        tokio::join!(writing, answer, receiving);
        self.ahead = tokio::spawn(accept(self.to.clone(), self.handler));
    }
}

#[derive(Default)]
struct Side {
    opened: Latencies,
    seconds: f64,
}

impl Side {
    /// Takes the times of `transfer`.
    async fn measure(&mut self, mut transfer: impl AsyncFnMut(usize)) {
        transfer(1).await;
        let mut took = Vec::new();
        for _ in 0..OPENED {
            let began = Instant::now();
            transfer(1).await;
            took.push(began.elapsed().as_micros() as u64);
        }
        self.opened.extend(took);
        let began = Instant::now();
        transfer(BULK).await;
        self.seconds += began.elapsed().as_secs_f64();
    }

    fn rate(&self) -> f64 {
        (BULK * ROUNDS) as f64 / 1e6 / self.seconds
    }

    fn print(&self, name: &str) {
        println!("{:<27}{}", format!("a stream opened, {name}"), self.opened.show());
        println!("{:<27}{:>8.0} MB/s one way", format!("a stream, {name}"), self.rate());
    }
}

pub async fn streams() {
    let (mut ours, mut bare, mut go, mut hops) = (Side::default(), Side::default(), None, Latencies::default());
    for _ in 0..ROUNDS {
        let mut daemons = Ours::start().await;
        ours.measure(async |count| daemons.transfer(count).await).await;
        let mut peers = bare_stream::Bare::start().await;
        bare.measure(async |count| peers.transfer(count).await).await;
        hops.extend(BareTonic::start().await.two_hops(OPENED, 8, 1_000).await);
        if let Some(mut daemons) = go::Streams::start().await {
            go.get_or_insert_with(Side::default).measure(async |count| daemons.transfer(count).await).await;
        }
    }
    ours.print("p2pd");
    bare.print("bare");
    let ratios = |other: &Side| (ours.opened.at(50) / other.opened.at(50), ours.rate() / other.rate());
    let (opened, rate) = ratios(&bare);
    println!("ratio to bare              {opened:>8.2} to open in the median, {rate:.2} of the MB/s");
    println!(
        "the least there can be     {:>8.0} us to open: bare, and four tonic hops",
        bare.opened.at(50) + 2.0 * hops.at(50)
    );
    if let Some(go) = go {
        go.print("go p2pd");
        let (opened, rate) = ratios(&go);
        println!(
            "ratio to go                {opened:>8.2} to open in the median, {rate:.2} of the MB/s   goals 0.6, and 0.9 or more"
        );
    }
}
