//! Streams between programs on protocols of their own, over two daemons.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        ConnectRequest, DisconnectRequest, ExchangeStreamRequest, ExchangeStreamResponse, GetPeerRequest,
        HandleProtocolRequest, HandleProtocolResponse, ListPeersRequest, OpenProtocolStream,
        exchange_stream_request::Item, exchange_stream_response::Event, handle_protocol_response,
        peer_service_client::PeerServiceClient, protocol_service_client::ProtocolServiceClient,
    },
};

use crate::support::{self, DEADLINE, channel, id, pair, peers, protocols, standstill, start, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

const PROTOCOL: &str = "/test/1.0.0";

/// One program's end of a stream.
struct End {
    items: mpsc::Sender<ExchangeStreamRequest>,
    replies: Streaming<ExchangeStreamResponse>,
}

async fn exchange(daemon: &Daemon, first: Item) -> Result<(End, String), Status> {
    open_over(channel(daemon).await, first).await
}

async fn open_over(channel: Channel, first: Item) -> Result<(End, String), Status> {
    let (items, requests) = mpsc::channel(4);
    items.send(ExchangeStreamRequest { item: Some(first) }).await.unwrap();
    let mut replies =
        ProtocolServiceClient::new(channel).exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    let Some(Event::Opened(opened)) = replies.message().await?.unwrap().event else { panic!("opened comes first") };
    assert!(opened.address.starts_with("/ip4/127.0.0.1/"), "{}", opened.address);
    Ok((End { items, replies }, opened.protocol))
}

fn opening(peer: &str, protocols: &[&str]) -> Item {
    let protocols = protocols.iter().map(ToString::to_string).collect();
    Item::Open(OpenProtocolStream { peer_id: peer.into(), protocols })
}

async fn handle(daemon: &Daemon, protocol: &str) -> Result<Streaming<HandleProtocolResponse>, Status> {
    let request = HandleProtocolRequest { protocol: protocol.into(), ..Default::default() };
    let mut told = protocols(daemon).await.handle_protocol(request).await?.into_inner();
    told.message().await?;
    Ok(told)
}

async fn accept(daemon: &Daemon, told: &mut Streaming<HandleProtocolResponse>) -> End {
    accept_over(channel(daemon).await, told).await
}

async fn accept_over(channel: Channel, told: &mut Streaming<HandleProtocolResponse>) -> End {
    let reply = tokio::time::timeout(DEADLINE, told.message()).await.unwrap().unwrap().unwrap();
    let Some(handle_protocol_response::Event::Inbound(inbound)) = reply.event else { panic!("an inbound stream") };
    assert!(inbound.address.starts_with("/ip4/127.0.0.1/"), "{}", inbound.address);
    open_over(channel, Item::Accept(inbound.stream_id)).await.unwrap().0
}

impl End {
    async fn send(&self, data: Vec<u8>) -> bool {
        self.items.send(ExchangeStreamRequest { item: Some(Item::Data(data.into())) }).await.is_ok()
    }

    /// Closes our side; the other end goes on.
    fn close(self) -> Streaming<ExchangeStreamResponse> {
        self.replies
    }
}

/// What comes until the other side closes.
async fn rest(replies: &mut Streaming<ExchangeStreamResponse>) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let reply = tokio::time::timeout(DEADLINE, replies.message()).await.expect("in time").unwrap();
        match reply.expect("not the end").event {
            Some(Event::Data(data)) => all.extend_from_slice(&data),
            Some(Event::RemoteClosed(_)) => return all,
            other => panic!("{other:?}"),
        }
    }
}

/// The error that ends a stream.
async fn broken(replies: &mut Streaming<ExchangeStreamResponse>) -> Status {
    loop {
        match tokio::time::timeout(DEADLINE, replies.message()).await.expect("the end is told") {
            Ok(Some(reply)) => assert!(matches!(reply.event, Some(Event::Data(_))), "{reply:?}"),
            Ok(None) => panic!("an orderly end"),
            Err(status) => return status,
        }
    }
}

/// Two daemons with one connection.
async fn connected(transport: &str) -> (Daemon, Daemon) {
    let (a, b) = (start(&[]).await, start(&[]).await);
    let address = a.addresses.iter().find(|a| a.contains(transport) && !a.contains("/ws/")).unwrap().clone();
    peers(&b).await.connect(ConnectRequest { address }).await.unwrap();
    (a, b)
}

/// A stream from b to a; b's end first.
async fn joined(a: &Daemon, b: &Daemon) -> (End, End) {
    let mut told = handle(a, PROTOCOL).await.unwrap();
    let peer = id(a);
    let opened =
        until("the connection", async || exchange(b, opening(&peer, &["/other/1", PROTOCOL])).await.ok()).await;
    assert_eq!(opened.1, PROTOCOL, "the first that both speak");
    let accepted = accept(a, &mut told).await;
    (opened.0, accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_closes_for_itself() {
    let (a, b) = pair().await;
    let (ours, theirs) = joined(&a, &b).await;
    ours.send(b"question".to_vec()).await;
    let mut ours = ours.close();
    let End { items, mut replies } = theirs;
    assert_eq!(rest(&mut replies).await, b"question");
    // The other direction is still open.
    items.send(ExchangeStreamRequest { item: Some(Item::Data(b"answer".to_vec().into())) }).await.unwrap();
    drop(items);
    assert_eq!(rest(&mut ours).await, b"answer");
    assert!(ours.message().await.unwrap().is_none(), "the call ends with the second side");
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_mebibytes_go_each_way_at_once() {
    const CHUNK: usize = 128 * 1024;
    const CHUNKS: usize = 160;
    let (a, b) = pair().await;
    let (one, two) = joined(&a, &b).await;
    let run = |end: End| async move {
        let End { items, mut replies } = end;
        let sending = async move {
            for n in 0..CHUNKS {
                let data = vec![n as u8; CHUNK].into();
                items.send(ExchangeStreamRequest { item: Some(Item::Data(data)) }).await.unwrap();
            }
        };
        let (_, all) = tokio::join!(sending, rest(&mut replies));
        assert!(replies.message().await.unwrap().is_none(), "the call ends when all was sent");
        all
    };
    let (first, second) = tokio::join!(run(one), run(two));
    for all in [first, second] {
        assert_eq!(all.len(), CHUNK * CHUNKS);
        assert!(all.chunks(CHUNK).enumerate().all(|(n, chunk)| chunk.iter().all(|byte| *byte == n as u8)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_back_the_writer_and_nothing_else() {
    let (a, b) = pair().await;
    let (writer, mut reader) = joined(&a, &b).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..800 {
            writer.send(vec![1; 64 * 1024]).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
        // Closed, not cancelled: what was sent is still on its way.
        writer.close()
    });
    // It comes to a stop by itself, when what lies between is full.
    let held = standstill(&sent).await;
    assert!(held < 400, "{held} of 800 chunks of 64 KiB were taken although nobody read");
    // Meanwhile other calls answer.
    for daemon in [&a, &b] {
        let asked = tokio::time::timeout(DEADLINE, async {
            support::peers(daemon).await.list_peers(ListPeersRequest {}).await
        });
        assert_eq!(asked.await.expect("an answer").unwrap().into_inner().peers.len(), 1);
    }
    assert_eq!(rest(&mut reader.replies).await.len(), 800 * 64 * 1024);
    drop(writing.await.unwrap());
}

/// Nor do the readers of other streams have to take turns, where one program has them all over one connection to its daemon.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_leave_room_for_others_of_the_same_program() {
    for transport in ["/tcp/", "/quic-v1/"] {
        leave_room(transport).await;
    }
}

async fn leave_room(transport: &str) {
    let (a, b) = connected(transport).await;
    let mut told = handle(&a, PROTOCOL).await.unwrap();
    let (here, there, peer) = (channel(&b).await, channel(&a).await, id(&a));
    let mut open = async || {
        let (end, _) = open_over(here.clone(), opening(&peer, &[PROTOCOL])).await.unwrap();
        (end, accept_over(there.clone(), &mut told).await)
    };
    let sent = Arc::new(AtomicUsize::new(0));
    let mut unread = Vec::new();
    for _ in 0..4 {
        let (one, other) = open().await;
        for End { items, replies } in [one, other] {
            let count = sent.clone();
            tokio::spawn(async move {
                let chunk = || ExchangeStreamRequest { item: Some(Item::Data(vec![0; 64 * 1024].into())) };
                while items.send(chunk()).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
            unread.push(replies);
        }
    }
    standstill(&sent).await;
    for channel in [&here, &there] {
        let mut peers = PeerServiceClient::new(channel.clone());
        let asked = tokio::time::timeout(DEADLINE, peers.list_peers(ListPeersRequest {}));
        assert!(asked.await.expect("an answer").is_ok());
    }
    let (mut one, mut other) = tokio::time::timeout(DEADLINE, open()).await.expect("another stream");
    for (items, replies) in [(one.items, &mut other.replies), (other.items, &mut one.replies)] {
        let data = Item::Data(vec![7; 60_000].into());
        items.send(ExchangeStreamRequest { item: Some(data) }).await.unwrap();
        drop(items);
        assert_eq!(rest(replies).await.len(), 60_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_has_one_handler_and_is_free_again_after_it() {
    let (a, b) = pair().await;
    let told = handle(&a, PROTOCOL).await.unwrap();
    let taken = handle(&a, PROTOCOL).await.unwrap_err();
    assert_eq!((taken.code(), reason_of(&taken)), (Code::AlreadyExists, Some(Reason::ProtocolTaken)));
    drop(told);
    until("the release", async || handle(&a, PROTOCOL).await.ok()).await;
    let mut setup = support::setup(&[]);
    setup.config.network.dht_protocol = "/table/1".into();
    let dht = Daemon::start(setup).await.unwrap();
    let refused = handle(&dht, "/table/1").await.unwrap_err();
    assert!(refused.message().contains("reserved for the daemon"), "{refused}");
    for bad in ["chat", "", "/meshsub/1.1.0", "/ipfs/ping/1.0.0"] {
        let refused = handle(&a, bad).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::FieldInvalid)), "{bad}");
    }
    let peer = id(&a);
    let unknown = until("the refusal", async || {
        let refused = exchange(&b, opening(&peer, &["/nobody/1"])).await.err()?;
        (reason_of(&refused) == Some(Reason::ProtocolUnsupported)).then_some(refused)
    })
    .await;
    assert!(unknown.message().contains("/nobody/1"), "{unknown}");
    let gone = exchange(&a, Item::Accept(4711)).await.err().expect("refused");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_resets_its_stream() {
    // QUIC's library makes an end of it.
    let (a, b) = connected("/tcp/").await;
    let mut told = handle(&a, PROTOCOL).await.unwrap();
    let (socket, peer) = (b.socket.clone(), id(&a));
    // A program of its own: when its runtime ends, its connection to the daemon is cut, as by kill -9.
    let program = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let opened = program.spawn(async move {
        open_over(p2pd_api::connect(Path::new(&socket)).await.unwrap(), opening(&peer, &[PROTOCOL])).await
    });
    let (theirs, _) = opened.await.unwrap().unwrap();
    let ours = accept(&a, &mut told).await;
    program.shutdown_background();
    let End { items, mut replies } = ours;
    let writing = tokio::spawn(async move {
        while items.send(ExchangeStreamRequest { item: Some(Item::Data(vec![0; 1024].into())) }).await.is_ok() {}
    });
    assert_eq!(reason_of(&broken(&mut replies).await), Some(Reason::StreamReset), "an orderly end looks different");
    tokio::time::timeout(DEADLINE, writing).await.expect("and nothing more is taken").unwrap();
    drop(theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_resets_its_streams_on_both_sides() {
    for transport in ["/tcp/", "/quic-v1/"] {
        let (a, b) = connected(transport).await;
        let (mut ours, mut theirs) = joined(&a, &b).await;
        let of_a = GetPeerRequest { peer_id: id(&a) };
        let kept = async || peers(&b).await.get_peer(of_a.clone()).await.unwrap().into_inner().peer.unwrap().kept;
        until("the stream to speak for the peer", async || kept().await.contains(&"stream".to_owned()).then_some(()))
            .await;
        peers(&b).await.disconnect(DisconnectRequest { peer_id: id(&a) }).await.unwrap();
        for end in [&mut ours, &mut theirs] {
            let reason = reason_of(&broken(&mut end.replies).await);
            assert_eq!(reason, Some(Reason::StreamReset), "{transport}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_come_at_once_are_all_taken() {
    const STREAMS: usize = 40;
    let (a, b) = pair().await;
    let mut told = handle(&a, PROTOCOL).await.unwrap();
    let peer = id(&a);
    let opening = (0..STREAMS).map(|_| exchange(&b, opening(&peer, &[PROTOCOL])));
    let opened = futures::future::join_all(opening).await;
    for end in opened {
        let (end, _) = end.unwrap();
        let accepted = accept(&a, &mut told).await;
        end.send(b"x".to_vec()).await;
        drop((end, accepted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_accepts_is_reset_and_so_is_one_too_many() {
    const WAITING: usize = 64;
    // Over QUIC a reset reads as an end.
    let (a, b) = connected("/tcp/").await;
    let _told = handle(&a, PROTOCOL).await.unwrap();
    let (peer, began) = (id(&a), Instant::now());
    let mut opened = Vec::new();
    for _ in 0..=WAITING {
        opened.push(until("a stream", async || exchange(&b, opening(&peer, &[PROTOCOL])).await.ok()).await.0);
    }
    let mut last = opened.pop().unwrap();
    assert_eq!(reason_of(&broken(&mut last.replies).await), Some(Reason::StreamReset));
    assert!(began.elapsed() < Duration::from_secs(10), "one too many waited, too");
    let ends = opened.iter_mut().map(async |end| {
        assert_eq!(reason_of(&broken(&mut end.replies).await), Some(Reason::StreamReset));
        began.elapsed()
    });
    for after in futures::future::join_all(ends).await {
        assert!(after >= Duration::from_secs(10), "reset after {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_over_tcp_learn_at_once_of_a_protocol_and_of_its_end() {
    let a = start(&[]).await;
    let tcp = support::tcp(&a);
    let b = start(std::slice::from_ref(&tcp)).await;
    let speaks = async || {
        let list = support::peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        list.peers.iter().any(|p| p.protocols.iter().any(|p| p == PROTOCOL))
    };
    until("identify", async || {
        let list = support::peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        list.peers.iter().any(|p| !p.protocols.is_empty()).then_some(())
    })
    .await;
    let told = handle(&a, PROTOCOL).await.unwrap();
    let began = std::time::Instant::now();
    until("the protocol", async || speaks().await.then_some(())).await;
    drop(told);
    until("its end", async || (!speaks().await).then_some(())).await;
    // Neither waited for the ping of every 15 s.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
