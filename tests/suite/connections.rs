//! What connections carry and are bounded by: traffic per protocol, round trips, streams, memory.

use std::collections::HashSet;

use p2pd::app::Daemon;
use p2pd_api::v1::{
    ConnectRequest, DisconnectRequest, ExchangeStreamRequest, GetPeerRequest, HandleProtocolRequest,
    ListClosedConnectionsRequest, OpenProtocolStream, Peer, PinPeerRequest, PingPeerRequest,
    exchange_stream_request::Item, exchange_stream_response::Event, handle_protocol_response,
    protocol_service_client::ProtocolServiceClient,
};
use p2pd_core::setting::Size;

use crate::support::{channel, id, peers, setup, start, tcp, until};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Streaming};

const PROTOCOL: &str = "/test/1.0.0";

fn way<'a>(daemon: &'a Daemon, part: &str) -> &'a String {
    daemon.addresses.iter().find(|a| a.split('/').any(|p| p == part)).unwrap()
}

async fn peer(at: &Daemon, of: &Daemon) -> Option<Peer> {
    peers(at).await.get_peer(GetPeerRequest { peer_id: id(of) }).await.ok()?.into_inner().peer
}

fn data(item: Item) -> ExchangeStreamRequest {
    ExchangeStreamRequest { item: Some(item) }
}

/// A stream that stays open while the sender lives; nothing when it was reset.
async fn open(at: &Daemon, to: &Daemon) -> Option<mpsc::Sender<ExchangeStreamRequest>> {
    let (items, requests) = mpsc::channel(4);
    let open = OpenProtocolStream { peer_id: id(to), protocols: vec![PROTOCOL.into()] };
    items.send(data(Item::Open(open))).await.unwrap();
    let mut client = ProtocolServiceClient::new(channel(at).await);
    let mut replies: Streaming<_> = client.exchange_stream(ReceiverStream::new(requests)).await.ok()?.into_inner();
    replies.next().await?.ok()?;
    Some(items)
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_told_by_protocol_and_the_way_it_went() {
    const SIZE: usize = 300_000;
    for (part, security, muxer) in [("tcp", "noise", "yamux"), ("quic-v1", "tls", "quic"), ("ws", "noise", "yamux")] {
        let (a, b) = (start(&[]).await, start(&[]).await);
        let address = if part == "tcp" { tcp(&a) } else { way(&a, part).clone() };
        peers(&b).await.connect(ConnectRequest { address }).await.unwrap();
        let mut client = ProtocolServiceClient::new(channel(&a).await);
        let request = HandleProtocolRequest { protocol: PROTOCOL.into(), ..Default::default() };
        let mut told = client.handle_protocol(request).await.unwrap().into_inner();
        told.next().await.unwrap().unwrap();
        let items = until("a stream", async || open(&b, &a).await).await;
        items.send(data(Item::Data(vec![7; SIZE].into()))).await.unwrap();
        let Some(handle_protocol_response::Event::Inbound(inbound)) = told.next().await.unwrap().unwrap().event else {
            panic!("a stream")
        };
        let (answer, requests) = mpsc::channel(1);
        answer.send(data(Item::Accept(inbound.stream_id))).await.unwrap();
        let mut replies = client.exchange_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut got = 0;
        while got < SIZE {
            if let Some(Event::Data(data)) = replies.next().await.unwrap().unwrap().event {
                got += data.len();
            }
        }
        let carried = |peer: Peer, received: bool| {
            let traffic = peer.traffic.into_iter().find(|t| t.protocol == PROTOCOL)?;
            let count = if received { traffic.received } else { traffic.sent };
            (count >= SIZE as u64 && count < SIZE as u64 + 200).then_some(peer.connections)
        };
        let there = until("what came", async || carried(peer(&a, &b).await?, true)).await;
        let here = until("what went", async || carried(peer(&b, &a).await?, false)).await;
        for connection in [&there[0], &here[0]] {
            assert_eq!((connection.security.as_str(), connection.muxer.as_str()), (security, muxer), "{connection:?}");
        }
        assert!(there[0].received >= SIZE as u64 && here[0].sent >= SIZE as u64, "{there:?} {here:?}");
        assert!(there[0].streams_in >= 1 && here[0].streams_out >= 1, "{there:?} {here:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_are_measured_on_request() {
    let (a, b) = (start(&[]).await, start(&[]).await);
    let ask = |peer_id, count, interval_ms| PingPeerRequest { peer_id, count, interval_ms };
    let mut client = peers(&b).await;
    for part in ["quic-v1", "ws"] {
        client.connect(ConnectRequest { address: way(&a, part).clone() }).await.unwrap();
        let mut answers = client.ping_peer(ask(id(&a), 20, 10)).await.unwrap().into_inner();
        let mut times = Vec::new();
        while let Some(answer) = answers.next().await {
            times.push(answer.unwrap().rtt_us);
        }
        assert!(times.len() == 20 && times.iter().all(|us| *us > 0), "{part}: {times:?}");
        client.disconnect(DisconnectRequest { peer_id: id(&a) }).await.unwrap();
        until("the end of the connection", async || peer(&b, &a).await.is_none().then_some(())).await;
    }
    let own = client.ping_peer(ask(id(&b), 1, 0)).await.unwrap_err();
    assert_ne!(own.code(), Code::Internal, "{own:?}");
    for (request, field) in
        [(ask(id(&a), 1001, 0), "count"), (ask(id(&a), 1, 5), "interval_ms"), (ask("x".into(), 1, 0), "peer_id")]
    {
        let refused = client.ping_peer(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_streams_and_no_more() {
    const MOST: u32 = 16;
    let mut setup = setup(&[]);
    setup.config.network.max_streams_per_connection = MOST;
    let a = Daemon::start(setup).await.unwrap();
    let b = start(&a.addresses[..1]).await;
    let mut client = ProtocolServiceClient::new(channel(&a).await);
    let request = HandleProtocolRequest { protocol: PROTOCOL.into(), ..Default::default() };
    let _told = client.handle_protocol(request).await.unwrap();
    let mut held = vec![until("a stream", async || open(&b, &a).await).await];
    for _ in 0..2 * MOST {
        held.extend(open(&b, &a).await);
    }
    let shown = peer(&a, &b).await.unwrap();
    assert!(shown.connections[0].streams_in <= MOST, "{shown:?}");
    // The connection and those that stand are as before.
    assert_eq!(shown.connections.len(), 1);
    drop(held);
    until("room again", async || {
        let shown = peer(&a, &b).await?;
        (shown.connections[0].streams_in < MOST / 2).then_some(())
    })
    .await;
    until("a new stream", async || open(&b, &a).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_memory_is_short_the_least_useful_peers_go() {
    let mut setup = setup(&[]);
    setup.config.network.memory = Size(64 << 20);
    // This process, which the daemon is a part of, has more than that.
    let ballast = vec![1u8; 128 << 20];
    let a = Daemon::start(setup).await.unwrap();
    let (pinned, other) = (start(&[]).await, start(&[]).await);
    let mut client = peers(&a).await;
    for daemon in [&pinned, &other] {
        client.connect(ConnectRequest { address: daemon.addresses[0].clone() }).await.unwrap();
    }
    client.pin_peer(PinPeerRequest { peer: pinned.addresses[0].clone(), tags: vec![], passive: false }).await.unwrap();
    let closed = until("a closed connection", async || {
        let list = client.clone().list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        list.connections.into_iter().next()
    })
    .await;
    assert_eq!(closed.peer_id, id(&other));
    assert!(closed.why.contains("network.memory"), "{closed:?}");
    let left: HashSet<_> = [peer(&a, &pinned).await.is_some(), peer(&a, &other).await.is_some()].into();
    assert_eq!(left, [true, false].into());
    drop(ballast);
}
