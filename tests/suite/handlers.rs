//! Who handles a protocol: alone, sharing, under a lease; and calls with answers.

use std::time::Duration;

use bytes::Bytes;
use p2pd::app::Daemon;
use p2pd::config::Forward;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        CallProtocolRequest, ExchangeStreamRequest, HandleProtocolRequest, HandleProtocolResponse, ListPeersRequest,
        OpenProtocolStream, ProtocolAnswer, ProtocolCall, ServeProtocolRequest, ServeProtocolResponse,
        exchange_stream_request, exchange_stream_response, handle_protocol_response::Event, protocol_answer::Outcome,
        protocol_service_client::ProtocolServiceClient, serve_protocol_request, serve_protocol_response,
    },
};

use crate::support::{self, DEADLINE, id, pair, protocols, setup_at, start, until};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

const PROTOCOL: &str = "/test/1.0.0";

fn asked() -> HandleProtocolRequest {
    HandleProtocolRequest { protocol: PROTOCOL.into(), ..Default::default() }
}

fn leased(name: &str, lease_ms: u32) -> HandleProtocolRequest {
    HandleProtocolRequest { lease: name.into(), lease_ms, ..asked() }
}

async fn handle(daemon: &Daemon, request: HandleProtocolRequest) -> Result<Streaming<HandleProtocolResponse>, Status> {
    let mut told = protocols(daemon).await.handle_protocol(request).await?.into_inner();
    assert_eq!(told.message().await?.unwrap().event, Some(Event::Handling(true)));
    Ok(told)
}

/// Takes the next stream of a handler: a call that ends when what is returned is dropped.
async fn next(daemon: &Daemon, handler: u64) -> Result<(mpsc::Sender<ExchangeStreamRequest>, String), Status> {
    let (items, requests) = mpsc::channel(1);
    let item = Some(exchange_stream_request::Item::AcceptNext(handler));
    items.send(ExchangeStreamRequest { item }).await.unwrap();
    let mut replies = protocols(daemon).await.exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    match replies.message().await?.and_then(|first| first.event) {
        Some(exchange_stream_response::Event::Opened(opened)) => Ok((items, opened.peer_id)),
        other => panic!("{other:?}"),
    }
}

async fn inbound(told: &mut Streaming<HandleProtocolResponse>) -> u64 {
    match timeout(DEADLINE, told.message()).await.expect("a stream").unwrap().unwrap().event {
        Some(Event::Inbound(inbound)) => inbound.stream_id,
        other => panic!("{other:?}"),
    }
}

/// Opens a stream, which lasts until what is returned is dropped.
async fn open(daemon: &Daemon, peer: &str) -> Result<mpsc::Sender<ExchangeStreamRequest>, Status> {
    open_on(daemon, peer, PROTOCOL).await
}

async fn open_on(daemon: &Daemon, peer: &str, protocol: &str) -> Result<mpsc::Sender<ExchangeStreamRequest>, Status> {
    let (items, requests) = mpsc::channel(1);
    let first = OpenProtocolStream { peer_id: peer.into(), protocols: vec![protocol.into()] };
    let item = Some(exchange_stream_request::Item::Open(first));
    items.send(ExchangeStreamRequest { item }).await.unwrap();
    protocols(daemon).await.exchange_stream(ReceiverStream::new(requests)).await?.into_inner().message().await?;
    Ok(items)
}

fn taken(result: Result<Streaming<HandleProtocolResponse>, Status>) {
    let status = result.expect_err("a refusal");
    assert_eq!((status.code(), reason_of(&status)), (Code::AlreadyExists, Some(Reason::ProtocolTaken)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_share_a_protocol_get_streams_in_turn() {
    let (a, b) = pair().await;
    let shared = || HandleProtocolRequest { share: true, ..asked() };
    let mut one = handle(&a, shared()).await.unwrap();
    taken(handle(&a, asked()).await);
    let mut two = handle(&a, shared()).await.unwrap();
    let peer = id(&a);
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(until("a stream", async || open(&b, &peer).await.ok()).await);
    }
    for _ in 0..3 {
        inbound(&mut one).await;
        inbound(&mut two).await;
    }
    // One goes; the other gets all.
    drop(one);
    let all = async {
        let mut in_a_row = 0;
        while in_a_row < 3 {
            let _stream = open(&b, &peer).await.unwrap();
            in_a_row = match timeout(Duration::from_millis(200), two.message()).await {
                Ok(given) => {
                    assert!(matches!(given.unwrap().unwrap().event, Some(Event::Inbound(_))));
                    in_a_row + 1
                }
                // The daemon did not know yet that the other has gone.
                Err(_) => 0,
            };
        }
    };
    timeout(DEADLINE, all).await.expect("three in a row");
    drop(two);
    until("nobody", async || handle(&a, asked()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_opened_ahead_takes_the_next_stream() {
    let (a, b) = pair().await;
    let mut told = protocols(&a).await.handle_protocol(asked()).await.unwrap().into_inner();
    let handler = told.message().await.unwrap().unwrap().handler_id;
    let peer = id(&a);
    // What came before is taken first, though it was told of.
    let early = until("a stream", async || open(&b, &peer).await.ok()).await;
    inbound(&mut told).await;
    let (_stream, from) = timeout(DEADLINE, next(&a, handler)).await.expect("the early one").unwrap();
    assert_eq!(from, id(&b));
    // Those who gave up waiting keep nothing from others, once the daemon knows.
    for _ in 0..5 {
        assert!(timeout(Duration::from_millis(50), next(&a, handler)).await.is_err());
    }
    let taken = next(&a, handler);
    tokio::pin!(taken);
    let mut opened = Vec::new();
    let opening = async {
        loop {
            if let Ok(taken) = timeout(Duration::from_secs(1), &mut taken).await {
                return taken;
            }
            opened.push(open(&b, &peer).await);
        }
    };
    let _taken = timeout(DEADLINE, opening).await.expect("the later one").unwrap();
    assert!(opened.len() < 5, "each of them took one");
    // The program is not told of what it has; of a second that came while the machine stood still it is.
    if opened.len() == 1 {
        assert!(timeout(Duration::from_millis(50), told.message()).await.is_err());
    }
    drop(early);
    let (ended, ()) = tokio::join!(timeout(DEADLINE, next(&a, handler)), async { drop(told) });
    let status = ended.expect("an end").unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::NotFound, Some(Reason::StreamReset)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_the_protocol_and_what_came_meanwhile() {
    let (a, b) = pair().await;
    let peer = id(&a);
    let first = handle(&a, leased("shop", 60_000)).await.unwrap();
    taken(handle(&a, leased("shop", 60_000)).await);
    let stream = until("a stream", async || open(&b, &peer).await.ok()).await;
    drop((first, stream));
    // Not theirs, and it stays so.
    taken(handle(&a, asked()).await);
    taken(handle(&a, leased("other", 60_000)).await);
    let _stream = open(&b, &peer).await.unwrap();
    let mut again = until("its return", async || handle(&a, leased("shop", 50)).await.ok()).await;
    inbound(&mut again).await;
    drop(again);
    // The lease was renewed for 50 ms only.
    until("its end", async || handle(&a, asked()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_was_told_of_and_did_not_take_is_anothers_when_it_goes() {
    let (a, b) = pair().await;
    let shared = || HandleProtocolRequest { share: true, ..asked() };
    let mut one = handle(&a, shared()).await.unwrap();
    let _open = until("a stream", async || open(&b, &id(&a)).await.ok()).await;
    let told = inbound(&mut one).await;
    let mut two = handle(&a, shared()).await.unwrap();
    drop(one);
    let handed_on = inbound(&mut two).await;
    assert_ne!(handed_on, told, "a number that the first one knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_takes_nothing_is_in_nobody_elses_way() {
    const WAITING: usize = 64;
    let (a, b) = pair().await;
    let peer = id(&a);
    let mut idle = handle(&a, asked()).await.unwrap();
    let mut waiting = vec![until("a stream", async || open(&b, &peer).await.ok()).await];
    for _ in 0..WAITING {
        waiting.push(open(&b, &peer).await.unwrap());
    }
    for _ in 0..WAITING {
        inbound(&mut idle).await;
    }
    let mut busy = handle(&a, HandleProtocolRequest { protocol: "/busy/1".into(), ..asked() }).await.unwrap();
    let _open = until("a stream", async || open_on(&b, &peer, "/busy/1").await.ok()).await;
    inbound(&mut busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_share_and_calls_that_wait_are_bounded_in_number() {
    const MOST: usize = 64;
    let a = start(&[]).await;
    let shared = || HandleProtocolRequest { share: true, ..asked() };
    let mut sharing = Vec::new();
    for _ in 0..MOST {
        sharing.push(handle(&a, shared()).await.unwrap());
    }
    let too_many = |refused: Status| {
        assert_eq!((refused.code(), reason_of(&refused)), (Code::ResourceExhausted, Some(Reason::LimitReached)));
    };
    too_many(handle(&a, shared()).await.unwrap_err());
    drop(sharing);
    let mut told =
        until("its release", async || protocols(&a).await.handle_protocol(asked()).await.ok()).await.into_inner();
    let handler = told.message().await.unwrap().unwrap().handler_id;
    let a = std::sync::Arc::new(a);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..=MOST {
        let a = a.clone();
        waiting.spawn(async move { next(&a, handler).await.map(drop) });
    }
    // One too many, whichever comes last; the others go on waiting.
    too_many(timeout(DEADLINE, waiting.join_next()).await.expect("a refusal").unwrap().unwrap().unwrap_err());
    assert_eq!(waiting.len(), MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_cannot_be_is_refused_by_its_field() {
    let a = start(&[]).await;
    for (claim, field) in [
        (leased("", 1_000), "lease"),
        (leased("shop", 600_001), "lease_ms"),
        (HandleProtocolRequest { share: true, ..leased("shop", 1_000) }, "share"),
        (HandleProtocolRequest { protocol: "/meshsub/1.1.0".into(), ..asked() }, "protocol"),
    ] {
        let status = handle(&a, claim).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

/// A program that answers calls.
struct Server {
    said: mpsc::Sender<ServeProtocolRequest>,
    told: Streaming<ServeProtocolResponse>,
}

impl Server {
    async fn start(daemon: &Daemon) -> Self {
        let (said, requests) = mpsc::channel(4);
        let item = Some(serve_protocol_request::Item::Open(asked()));
        said.send(ServeProtocolRequest { item }).await.unwrap();
        let told = protocols(daemon).await.serve_protocol(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut server = Server { said, told };
        assert_eq!(server.next().await, serve_protocol_response::Event::Handling(true));
        server
    }

    async fn next(&mut self) -> serve_protocol_response::Event {
        timeout(DEADLINE, self.told.message()).await.expect("an event").unwrap().unwrap().event.unwrap()
    }

    async fn call(&mut self) -> ProtocolCall {
        match self.next().await {
            serve_protocol_response::Event::Call(call) => call,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&self, call_id: u64, outcome: Outcome) {
        let answer = ProtocolAnswer { call_id, outcome: Some(outcome) };
        let item = Some(serve_protocol_request::Item::Answer(answer));
        self.said.send(ServeProtocolRequest { item }).await.unwrap();
    }
}

async fn call(daemon: &Daemon, peer: &str, data: impl Into<Bytes>) -> Result<Bytes, Status> {
    call_over(protocols(daemon).await, peer, data).await
}

async fn call_over(
    mut client: ProtocolServiceClient<Channel>,
    peer: &str,
    data: impl Into<Bytes>,
) -> Result<Bytes, Status> {
    let request = CallProtocolRequest { peer_id: peer.into(), protocols: vec![PROTOCOL.into()], data: data.into() };
    Ok(client.call_protocol(request).await?.into_inner().data)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_in_any_order_over_one_connection() {
    const CALLS: usize = 50;
    let (a, b) = pair().await;
    let (peer, caller) = (id(&a), id(&b));
    let mut server = Server::start(&a).await;
    let client = protocols(&b).await;
    let ask = |n: usize| {
        let (client, peer) = (client.clone(), peer.clone());
        // The largest that is allowed, too.
        let size = if n == 0 { 1_000_000 } else { n };
        tokio::spawn(async move {
            until("an answer", async || call_over(client.clone(), &peer, vec![n as u8; size]).await.ok()).await
                == vec![n as u8; size]
        })
    };
    let asking: Vec<_> = (0..CALLS).map(ask).collect();
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(server.call().await);
    }
    assert!(calls.iter().all(|call| call.peer_id == caller));
    for call in calls.into_iter().rev() {
        server.answer(call.call_id, Outcome::Data(call.data)).await;
    }
    for answered in asking {
        assert!(timeout(DEADLINE, answered).await.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_cancelled_refused_and_bounded() {
    let (a, b) = pair().await;
    let peer = id(&a);
    let mut server = Server::start(&a).await;
    let b = std::sync::Arc::new(b);
    let asking = {
        let (b, peer) = (b.clone(), peer.clone());
        tokio::spawn(async move { until("an answer", async || call(&b, &peer, "first").await.ok()).await })
    };
    let first = server.call().await;
    asking.abort();
    assert_eq!(server.next().await, serve_protocol_response::Event::Cancelled(first.call_id));
    // Too late, which changes nothing.
    server.answer(first.call_id, Outcome::Data("late".into())).await;

    let refused = {
        let (b, peer) = (b.clone(), peer.clone());
        tokio::spawn(async move { call(&b, &peer, "second").await })
    };
    let second = server.call().await;
    assert_eq!(second.data, "second");
    server.answer(second.call_id, Outcome::Refused(true)).await;
    let status = timeout(DEADLINE, refused).await.unwrap().unwrap().unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::Aborted, Some(Reason::StreamReset)), "{status:?}");

    let status = call(&b, &peer, vec![0; 1_000_001]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("data"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_costs_its_own_call_only() {
    let (a, b) = pair().await;
    let (b, peer) = (std::sync::Arc::new(b), id(&a));
    let mut server = Server::start(&a).await;
    let ask = |data: &'static str| {
        let (b, peer) = (b.clone(), peer.clone());
        tokio::spawn(async move { call(&b, &peer, data).await })
    };
    until("the protocol", async || {
        let peers = support::peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        peers.iter().any(|peer| peer.protocols.iter().any(|p| p == PROTOCOL)).then_some(())
    })
    .await;
    let (first, second) = (ask("first"), ask("second"));
    let mut calls = [server.call().await, server.call().await];
    calls.sort_by_key(|call| call.data.clone());
    server.answer(calls[0].call_id, Outcome::Data(vec![0; 1_000_001].into())).await;
    assert_eq!(server.next().await, serve_protocol_response::Event::TooLarge(calls[0].call_id));
    assert_eq!(reason_of(&first.await.unwrap().unwrap_err()), Some(Reason::StreamReset));
    server.answer(calls[1].call_id, Outcome::Data("answer".into())).await;
    assert_eq!(second.await.unwrap().unwrap(), "answer");
    // What cannot even be read ends the call, and says so.
    server.answer(0, Outcome::Data(vec![0; 3_000_000].into())).await;
    let refused = timeout(DEADLINE, server.told.message()).await.expect("an end").unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::FieldInvalid)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_its_daemon() {
    let place = tempfile::tempdir().unwrap();
    let setup = || {
        let mut setup = setup_at(place.path(), &[]);
        let forward = Forward {
            listen: "127.0.0.1:0".into(),
            peer: "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".into(),
            protocol: PROTOCOL.into(),
        };
        setup.config.tunnels.forward.push(forward);
        setup
    };
    Daemon::start(setup()).await.unwrap().stop().await;
    Daemon::start(setup()).await.expect("the store is closed").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_protocols_never_make_a_daemon_say_more_than_peers_take() {
    let (a, b) = pair().await;
    let mut handled = Vec::new();
    let refused = loop {
        let protocol = format!("/{}/{:03}", "x".repeat(48), handled.len());
        match handle(&a, HandleProtocolRequest { protocol, ..Default::default() }).await {
            Ok(told) => handled.push(told),
            Err(refused) => break refused,
        }
    };
    assert_eq!(reason_of(&refused), Some(Reason::LimitReached), "{refused:?}");
    let last = format!("/{}/{:03}", "x".repeat(48), handled.len() - 1);
    until("what the other says of itself", async || {
        let peers = support::peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        peers.into_iter().find(|peer| peer.peer_id == id(&a) && peer.protocols.contains(&last)).map(|peer| peer.agent)
    })
    .await;
}
