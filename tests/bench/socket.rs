//! What calls over the Unix socket cost, against a bare tonic server in a process of its own that answers with as many bytes.

use std::{path::Path, pin::Pin, time::Instant};

use bytes::Bytes;
use p2pd_api::v1::{
    CallProtocolRequest, CallProtocolResponse, Durable, ExchangeStreamRequest, ExchangeStreamResponse, GetInfoRequest,
    GetInfoResponse, HandleProtocolRequest, HandleProtocolResponse, OpenProtocolStream, PublishManyRequest,
    PublishRequest, ServeProtocolRequest, ServeProtocolResponse, SetTopicRequest, SubscribeRequest, TopicSettings,
    exchange_stream_request::Item,
    exchange_stream_response::Event,
    node_service_client::NodeServiceClient,
    protocol_service_client::ProtocolServiceClient,
    protocol_service_server::{ProtocolService, ProtocolServiceServer},
    pub_sub_service_client::PubSubServiceClient,
    subscribe_request::Contract,
    subscribe_response,
};
use prost::Message;
use tempfile::TempDir;
use tokio::{net::UnixListener, process::Child, sync::mpsc};
use tokio_stream::{
    Empty, Stream, StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Server},
};

use crate::{
    bare::other_process,
    daemon::Daemon,
    numbers::{Latencies, now_us},
    way::Told,
};

const ROUNDS: usize = 4;
const CALLS: usize = 1_000;
/// Payload, and messages in a log of it.
const SIZES: [(usize, usize, &str); 3] = [(160, 20_000, "160 B"), (1024, 20_000, "1 KiB"), (65_536, 500, "64 KiB")];

/// Messages that go to a log before it is asked whether they are there: more than the disk takes would be lost.
const AT_ONCE: usize = 100;

/// Gives back what it gets; to `accept` as many bytes as that says, without an end.
struct Echo;

fn data(data: Bytes) -> Result<ExchangeStreamResponse, Status> {
    Ok(ExchangeStreamResponse { event: Some(Event::Data(data)) })
}

#[tonic::async_trait]
impl ProtocolService for Echo {
    type ExchangeStreamStream = Pin<Box<dyn Stream<Item = Result<ExchangeStreamResponse, Status>> + Send>>;

    async fn exchange_stream(
        &self,
        request: Request<Streaming<ExchangeStreamRequest>>,
    ) -> Result<Response<Self::ExchangeStreamStream>, Status> {
        let mut items = request.into_inner();
        if let Some(ExchangeStreamRequest { item: Some(Item::Accept(size)) }) = items.message().await? {
            let same = Bytes::from(vec![7; size as usize]);
            return Ok(Response::new(Box::pin(tokio_stream::iter(std::iter::repeat_with(move || data(same.clone()))))));
        }
        Ok(Response::new(Box::pin(items.map(|item| match item?.item {
            Some(Item::Data(bytes)) => data(bytes),
            _ => Err(Status::invalid_argument("only data")),
        }))))
    }

    async fn call_protocol(
        &self,
        request: Request<CallProtocolRequest>,
    ) -> Result<Response<CallProtocolResponse>, Status> {
        let data = request.into_inner().data;
        Ok(Response::new(CallProtocolResponse { data, ..CallProtocolResponse::default() }))
    }

    type HandleProtocolStream = Empty<Result<HandleProtocolResponse, Status>>;

    async fn handle_protocol(
        &self,
        _: Request<HandleProtocolRequest>,
    ) -> Result<Response<Self::HandleProtocolStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type ServeProtocolStream = Empty<Result<ServeProtocolResponse, Status>>;

    async fn serve_protocol(
        &self,
        _: Request<Streaming<ServeProtocolRequest>>,
    ) -> Result<Response<Self::ServeProtocolStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// The serving process.
pub async fn serve(socket: &str) {
    let listener = UnixListener::bind(socket).unwrap();
    println!("ready");
    let server = Server::builder().add_service(ProtocolServiceServer::new(Echo));
    server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
}

/// A bare tonic server.
pub struct BareTonic {
    client: ProtocolServiceClient<Channel>,
    _server: Child,
    _place: TempDir,
}

impl BareTonic {
    pub async fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("echo.sock");
        let (server, mut lines) = other_process("bare-tonic", socket.to_str().unwrap());
        lines.next_line().await.unwrap();
        let client = ProtocolServiceClient::new(p2pd_api::connect(Path::new(&socket)).await.unwrap());
        BareTonic { client, _server: server, _place: place }
    }

    async fn exchange(
        &mut self,
        first: Item,
    ) -> (mpsc::Sender<ExchangeStreamRequest>, Streaming<ExchangeStreamResponse>) {
        let (items, requests) = mpsc::channel(64);
        items.send(ExchangeStreamRequest { item: Some(first) }).await.unwrap();
        (items, self.client.exchange_stream(ReceiverStream::new(requests)).await.unwrap().into_inner())
    }

    /// There and back over streams that stand, in time: what any daemon between two programs costs at the least.
    pub async fn two_hops(&mut self, count: usize, size: usize, rate: u64) -> Vec<u64> {
        let (items, mut replies) = self.exchange(Item::Open(OpenProtocolStream::default())).await;
        let mut tick = tokio::time::interval(std::time::Duration::from_micros(1_000_000 / rate));
        let mut took = Vec::new();
        for _ in 0..count {
            tick.tick().await;
            let mut bytes = vec![7; size];
            bytes[..8].copy_from_slice(&now_us().to_be_bytes());
            items.send(ExchangeStreamRequest { item: Some(Item::Data(bytes.into())) }).await.unwrap();
            let Some(Event::Data(back)) = replies.message().await.unwrap().unwrap().event else { panic!("no data") };
            if let Told::Took(us) = Told::took(&back) {
                took.push(us);
            }
        }
        took
    }

    /// Messages a second.
    async fn flood(&mut self, size: usize, count: usize) -> f64 {
        let (_items, mut replies) = self.exchange(Item::Accept(size as u64)).await;
        let began = Instant::now();
        for _ in 0..count {
            replies.message().await.unwrap().unwrap();
        }
        count as f64 / began.elapsed().as_secs_f64()
    }

    async fn call(&mut self, size: usize) {
        let request = CallProtocolRequest { data: vec![7; size].into(), ..CallProtocolRequest::default() };
        self.client.call_protocol(request).await.unwrap();
    }
}

fn topic(size: usize) -> String {
    format!("log-{size}")
}

/// Fills a log with messages.
async fn fill(client: &mut PubSubServiceClient<Channel>, size: usize, count: usize) {
    let settings = Some(TopicSettings { max_message_bytes: 1 << 20, ..TopicSettings::default() });
    client.set_topic(SetTopicRequest { topic: topic(size), settings }).await.unwrap();
    let durable = Some(Contract::Durable(Durable::default()));
    let request = SubscribeRequest { topic: topic(size), contract: durable };
    let mut log = client.subscribe(request).await.unwrap().into_inner();
    log.message().await.unwrap();
    let (items, requests) = mpsc::channel(64);
    let mut answers = client.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    let data = Bytes::from(vec![7; size]);
    for _ in 0..count / AT_ONCE {
        for _ in 0..AT_ONCE {
            let message = PublishRequest { topic: topic(size), data: data.clone(), wait_ms: 0 };
            items.send(PublishManyRequest { message: Some(message) }).await.unwrap();
        }
        for _ in 0..AT_ONCE {
            log.message().await.unwrap().unwrap();
        }
    }
}

/// Reads a log from its oldest message on; messages a second.
async fn replay(client: &mut PubSubServiceClient<Channel>, size: usize, count: usize) -> f64 {
    let contract = Some(Contract::Durable(Durable { after: None, from_oldest: true }));
    let mut log = client.subscribe(SubscribeRequest { topic: topic(size), contract }).await.unwrap().into_inner();
    log.message().await.unwrap();
    let began = Instant::now();
    for _ in 0..count {
        let event = log.message().await.unwrap().unwrap().event;
        assert!(matches!(event, Some(subscribe_response::Event::Message(_))), "{event:?}");
    }
    count as f64 / began.elapsed().as_secs_f64()
}

pub async fn socket() {
    let daemon = Daemon::start(&[]);
    let mut bare = BareTonic::start().await;
    let mut node = NodeServiceClient::new(daemon.channel().await);
    let info: GetInfoResponse = node.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    let (mut ours, mut echo) = (Latencies::default(), Latencies::default());
    for _ in 0..ROUNDS {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..CALLS {
            let began = now_us();
            node.get_info(GetInfoRequest {}).await.unwrap();
            times[0].push(now_us() - began);
        }
        for _ in 0..CALLS {
            let began = now_us();
            bare.call(info.encoded_len()).await;
            times[1].push(now_us() - began);
        }
        let [a, b] = times;
        ours.extend(a);
        echo.extend(b);
    }
    println!("GetInfo                    {}", ours.show());
    println!("bare tonic echo            {}", echo.show());
    let (p50, p99) = (ours.at(50) / echo.at(50), ours.at(99) / echo.at(99));
    println!("ratio                      {p50:>8.2} in the median, {p99:.2} at p99   goal 3 at p99");

    let mut pubsub = PubSubServiceClient::new(daemon.channel().await);
    for (size, count, name) in SIZES {
        fill(&mut pubsub, size, count).await;
        let (mut ours, mut floods) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            ours += replay(&mut pubsub, size, count).await / ROUNDS as f64;
            floods += bare.flood(size, count).await / ROUNDS as f64;
        }
        let show = |rate: f64| format!("{rate:>8.0} messages/s, {:.0} MB/s", rate * size as f64 / 1e6);
        println!("{:<27}{}", format!("a log of {name}"), show(ours));
        println!("{:<27}{}", "the same, bare tonic", show(floods));
        println!("ratio                      {:>8.2}", ours / floods);
    }
}
