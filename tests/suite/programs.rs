//! What other programs use: pub/sub, peers, events, health and reflection.

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        ConnectRequest, DisconnectRequest, FindClosestPeersRequest, FindPeerRequest, FindProvidersRequest,
        GetInfoRequest, GetPeerRequest, GetStateRequest, ListClosedConnectionsRequest, ListPeersRequest,
        ListPinsRequest, NodeState, PinPeerRequest, ProvideRequest, PublishRequest, SERVICES, SubscribeRequest,
        UnpinPeerRequest, WatchEventsRequest, WatchPeersRequest, dht_service_client::DhtServiceClient,
        node_service_client::NodeServiceClient, pub_sub_service_client::PubSubServiceClient, subscribe_response::Event,
        watch_peers_response,
    },
};
use p2pd_net::DhtMode;

use crate::support::{self, DEADLINE, channel, id, pair, peers, setup_at, start, until};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_the_other_daemon_and_nobody_listening_is_said() {
    let (a, b) = pair().await;
    let mut publisher = PubSubServiceClient::new(channel(&a).await);
    let message = |data: &'static [u8]| PublishRequest { topic: "chat".into(), data: data.into(), wait_ms: 0 };
    let nobody = publisher.publish(message(b"x")).await.unwrap_err();
    assert_eq!((nobody.code(), reason_of(&nobody)), (Code::FailedPrecondition, Some(Reason::NoListeners)));
    let mut subscriber = PubSubServiceClient::new(channel(&b).await);
    let mut messages =
        subscriber.subscribe(SubscribeRequest { topic: "chat".into(), contract: None }).await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap().event, Some(Event::Subscribed(true)));
    until("a listener", async || publisher.clone().publish(message(b"hello")).await.ok()).await;
    let Some(Event::Message(heard)) = messages.message().await.unwrap().unwrap().event else { panic!("a message") };
    assert_eq!((&heard.data[..], a.addresses[0].ends_with(&heard.sender)), (&b"hello"[..], true));
    for (topic, data) in [("", 1), ("argus-defense/stream-directory", 1), ("chat", 100_000)] {
        let refused = publisher
            .publish(PublishRequest { topic: topic.into(), data: vec![0; data].into(), wait_ms: 0 })
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), reason_of(&refused)),
            (Code::InvalidArgument, Some(Reason::FieldInvalid)),
            "{topic}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_broken_off_leaves_no_socket() {
    let place = tempfile::tempdir().unwrap();
    let setup = setup_at(place.path(), &[]);
    let socket = setup.paths.socket.clone();
    let mut starting = Box::pin(Daemon::start(setup));
    let bound = poll_fn(|context| match starting.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if socket.exists() => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    assert!(bound.await, "it is broken off after it has made its socket");
    drop(starting);
    assert!(!socket.exists(), "nobody is led to a socket without a daemon");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_dialled_watched_and_hung_up() {
    let (a, b) = (start(&[]).await, start(&[]).await);
    let mut client = peers(&a).await;
    for bad in ["", "nonsense", "/ip4/127.0.0.1/tcp/1"] {
        let refused = client.connect(ConnectRequest { address: bad.into() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad}");
        assert!(refused.message().contains("/p2p/"), "{refused}");
    }
    let id = support::id(&b);
    let closed =
        client.connect(ConnectRequest { address: format!("/ip4/127.0.0.1/tcp/1/p2p/{id}") }).await.unwrap_err();
    assert_eq!((closed.code(), reason_of(&closed)), (Code::Unavailable, Some(Reason::PeerUnreachable)));
    let mut watch = client.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert!(matches!(
        watch.message().await.unwrap().unwrap().event,
        Some(watch_peers_response::Event::SnapshotDone(true))
    ));
    let connected = client.connect(ConnectRequest { address: b.addresses[0].clone() }).await.unwrap().into_inner();
    assert_eq!(connected.peer_id, id);
    let Some(watch_peers_response::Event::Present(peer)) = watch.message().await.unwrap().unwrap().event else {
        panic!("a peer")
    };
    assert_eq!(peer.peer_id, id);
    client.disconnect(DisconnectRequest { peer_id: id.clone() }).await.unwrap();
    loop {
        if let Some(watch_peers_response::Event::Gone(gone)) = watch.message().await.unwrap().unwrap().event {
            assert_eq!(gone, id);
            break;
        }
    }
    let twice = client.disconnect(DisconnectRequest { peer_id: id }).await.unwrap_err();
    assert_eq!(reason_of(&twice), Some(Reason::PeerNotConnected));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_from_a_cursor() {
    let (a, b) = pair().await;
    until("a peer", async || {
        let list = peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        (!list.peers.is_empty()).then_some(())
    })
    .await;
    let mut node = NodeServiceClient::new(channel(&a).await);
    let mut all =
        node.watch_events(WatchEventsRequest { from_oldest: true, ..Default::default() }).await.unwrap().into_inner();
    let first = all.message().await.unwrap().unwrap();
    assert_eq!(first.kind, "started");
    let second = all.message().await.unwrap().unwrap();
    assert_eq!(second.kind, "peer-connected");
    let mut rest = node
        .watch_events(WatchEventsRequest { after: Some(first.cursor), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rest.message().await.unwrap().unwrap(), second);
    assert!(b.addresses[0].ends_with(&second.subject));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_what_it_asks_for_and_that_the_daemon_is_there() {
    let a = start(&[]).await;
    let b = start(&a.addresses[..1]).await;
    let mut node = NodeServiceClient::new(channel(&a).await);
    let of = |kinds: &[&str], subject: String| WatchEventsRequest {
        from_oldest: true,
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        subject,
        heartbeat: true,
        ..Default::default()
    };
    let mut peers = node.watch_events(of(&["peer-"], id(&b))).await.unwrap().into_inner();
    let first = peers.message().await.unwrap().unwrap();
    assert_eq!((first.kind.as_str(), first.subject), ("peer-connected", id(&b)), "`started` was before");
    let refused = node.watch_events(of(&["peer-conected"], String::new())).await.unwrap_err();
    assert!(refused.message().contains("kinds") && refused.message().contains("peer-connected"), "{refused:?}");
    // Then nothing of that happens.
    let beat = tokio::time::timeout(DEADLINE * 2, peers.message()).await.expect("a heartbeat").unwrap().unwrap();
    assert!(beat.kind == "heartbeat" && beat.cursor >= first.cursor, "{beat:?}");
    let after = WatchEventsRequest { after: Some(beat.cursor), ..Default::default() };
    assert!(node.watch_events(after).await.is_ok(), "a cursor like others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_peer_that_is_down_holds_up_nothing() {
    let dead = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".to_owned();
    let a = start(std::slice::from_ref(&dead)).await;
    let mut node = NodeServiceClient::new(channel(&a).await);
    let info = node.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.addresses, a.addresses);
    let state = node.get_state(GetStateRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (state.state(), state.listeners_missing, &state.bootstrap_missing[..]),
        (NodeState::Alone, 0, &[dead][..])
    );
    let b = start(&a.addresses[..1]).await;
    let connected = async || {
        let state = node.clone().get_state(GetStateRequest {}).await.unwrap().into_inner();
        (state.state() == NodeState::Connected && state.advice.is_empty()).then_some(())
    };
    until("a connection", connected).await;
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_directory_has_one_daemon() {
    let a = support::setup(&[]);
    let (data, socket) = (a.paths.data.clone(), a.paths.socket.clone());
    let a = p2pd::app::Daemon::start(a).await.unwrap();
    let mut second = support::setup(&[]);
    (second.paths.data, second.paths.socket) = (data, socket);
    let error = p2pd::app::Daemon::start(second).await.err().expect("refused").to_string();
    assert!(error.contains("another p2pd"), "{error}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dht_finds_providers_and_peers() {
    let hub = start(&[]).await;
    let alone = DhtServiceClient::new(channel(&hub).await)
        .provide(ProvideRequest { key: bytes::Bytes::from_static(b"x") })
        .await
        .unwrap_err();
    assert_eq!((alone.code(), reason_of(&alone)), (Code::Unavailable, Some(Reason::PeerUnreachable)));
    let tcp = support::tcp(&hub);
    let (b, c) = (start(std::slice::from_ref(&tcp)).await, start(std::slice::from_ref(&tcp)).await);
    let dht = async |daemon| DhtServiceClient::new(channel(daemon).await);
    let (mut on_b, mut on_c) = (dht(&b).await, dht(&c).await);
    let id = support::id(&b);
    let key = || bytes::Bytes::from_static(b"town-radio archive");
    let providers = async |client: &mut DhtServiceClient<Channel>| {
        let mut found = client.find_providers(FindProvidersRequest { key: key() }).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(next) = found.message().await.unwrap() {
            assert!(next.addresses.iter().any(|address| address.contains("/tcp/")), "{next:?}");
            all.push(next.peer_id);
        }
        all
    };
    // Once identify has told that the hub answers, each of the others asks it.
    until("the provider", async || {
        on_b.clone().provide(ProvideRequest { key: key() }).await.ok()?;
        (providers(&mut on_c.clone()).await == [id.clone()]).then_some(())
    })
    .await;
    // Where a provider is that answers nobody, the one alone knows who keeps that.
    assert_eq!(providers(&mut dht(&hub).await).await, std::slice::from_ref(&id));
    let closest = async || {
        let request = FindClosestPeersRequest { key: key() };
        let mut found = on_c.clone().find_closest_peers(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(next) = found.message().await.unwrap() {
            all.push(next.peer_id);
        }
        all
    };
    let hub_id = support::id(&hub);
    assert!(closest().await.contains(&hub_id), "it answers");
    let mut find = async |peer: &str| {
        let mut found = on_c.find_peer(FindPeerRequest { peer_id: peer.into() }).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(next) = found.message().await? {
            all.extend(next.addresses);
        }
        Ok::<_, tonic::Status>(all)
    };
    assert!(!find(&hub_id).await.unwrap().is_empty(), "a connected one");
    let found = find(&id).await.unwrap();
    let told_once: std::collections::HashSet<_> = found.iter().collect();
    assert!(found.iter().any(|told| b.addresses.contains(told)), "the hub's word: {found:?}");
    assert_eq!(told_once.len(), found.len(), "{found:?}");
    let unknown = find("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN").await.unwrap_err();
    assert_eq!((unknown.code(), reason_of(&unknown)), (Code::NotFound, Some(Reason::PeerNotFound)));
    for key in [bytes::Bytes::new(), vec![0; 129].into()] {
        let refused = on_b.provide(ProvideRequest { key }).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::FieldInvalid)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_dht_asks_and_answers_nobody() {
    let mut setup = support::setup(&[]);
    setup.config.network.dht = DhtMode::Client;
    let quiet = p2pd::app::Daemon::start(setup).await.unwrap();
    let (hub, server) = (start(&[]).await, start(&[]).await);
    // Over QUIC it may take a minute until a peer hears of a new protocol.
    for daemon in [&quiet, &server] {
        peers(&hub).await.connect(ConnectRequest { address: support::tcp(daemon) }).await.unwrap();
    }
    let answers = async |daemon: &p2pd::app::Daemon| {
        let of = GetPeerRequest { peer_id: support::id(daemon) };
        let peer = peers(&hub).await.get_peer(of).await.ok()?.into_inner().peer?;
        let told = !peer.protocols.is_empty();
        told.then(|| peer.protocols.iter().any(|protocol| protocol.ends_with("/kad/1.0.0")))
    };
    until("one that decides for itself to answer", async || answers(&server).await.filter(|answers| *answers)).await;
    peers(&quiet).await.connect(ConnectRequest { address: support::tcp(&server) }).await.unwrap();
    let on_quiet = DhtServiceClient::new(channel(&quiet).await);
    until("it to ask", async || on_quiet.clone().provide(ProvideRequest { key: "x".into() }).await.ok()).await;
    assert!(!until("its protocols", async || answers(&quiet).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_peer_is_dialled_again_also_after_a_restart() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let b = p2pd::app::Daemon::start(setup_at(there.path(), &[])).await.unwrap();
    let id = support::id(&b);
    let a = p2pd::app::Daemon::start(setup_at(here.path(), &[])).await.unwrap();
    let mut client = peers(&a).await;
    for (peer, tags, words) in [
        ("nonsense", vec![], "peer: is no peer id, and `nonsense`"),
        (id.as_str(), vec!["a b".to_owned()], "a tag has"),
    ] {
        let refused = client.pin_peer(PinPeerRequest { peer: peer.into(), tags, passive: false }).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(words), "{refused}");
    }
    let tcp = support::tcp(&b);
    let request = PinPeerRequest { peer: tcp, tags: vec!["home".into()], passive: false };
    assert_eq!(client.pin_peer(request).await.unwrap().into_inner().peer_id, id);
    let connected = async |daemon: &p2pd::app::Daemon| {
        let list = peers(daemon).await.list_pins(ListPinsRequest {}).await.unwrap().into_inner().pins;
        (list.len() == 1 && list[0].connected && list[0].tags == ["home"]).then_some(())
    };
    until("the pinned peer", async || connected(&a).await).await;
    let shown = client.get_peer(GetPeerRequest { peer_id: id.clone() }).await.unwrap().into_inner().peer.unwrap();
    assert!(shown.kept.contains(&"pinned".to_owned()) && shown.tags == ["home"], "{shown:?}");
    assert_eq!(shown.connections[0].transport, "tcp");
    // Whoever closes, it is won back, and what closed is told.
    client.disconnect(DisconnectRequest { peer_id: id.clone() }).await.unwrap();
    let closed = until("the closed connection", async || {
        let list = client.clone().list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        list.connections.into_iter().next()
    })
    .await;
    assert_eq!((closed.peer_id, closed.why.as_str()), (id.clone(), "a program asked for it"));
    until("the pinned peer again", async || connected(&a).await).await;
    peers(&b).await.disconnect(DisconnectRequest { peer_id: support::id(&a) }).await.unwrap();
    until("that the other side has closed", async || {
        let list = client.clone().list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        (list.connections.len() > 1).then_some(())
    })
    .await;
    until("the pinned peer once more", async || connected(&a).await).await;
    a.stop().await;
    let a = p2pd::app::Daemon::start(setup_at(here.path(), &[])).await.unwrap();
    until("the pinned peer after a restart", async || connected(&a).await).await;
    let mut client = peers(&a).await;
    // Each who pinned it takes back its own tag; with the last it is free, unless somebody gave none.
    let pin = async |tags: Vec<String>| {
        let request = PinPeerRequest { peer: id.clone(), tags, passive: true };
        peers(&a).await.pin_peer(request).await.unwrap();
    };
    pin(vec!["relay".into()]).await;
    let pins = client.list_pins(ListPinsRequest {}).await.unwrap().into_inner().pins;
    assert_eq!((pins[0].tags.clone(), pins[0].passive), (vec!["home".to_owned(), "relay".to_owned()], false));
    let mut unpin = async |tags: &[&str]| {
        let tags = tags.iter().map(ToString::to_string).collect();
        client.unpin_peer(UnpinPeerRequest { peer_id: id.clone(), tags }).await.map(|done| done.into_inner().pinned)
    };
    assert!(unpin(&["home"]).await.unwrap(), "for the other tag");
    assert_eq!(unpin(&["home"]).await.unwrap_err().code(), Code::InvalidArgument);
    pin(Vec::new()).await;
    assert!(unpin(&["relay"]).await.unwrap(), "for whoever gave no tag");
    assert!(!unpin(&[]).await.unwrap());
    let gone = unpin(&[]).await.unwrap_err();
    assert_eq!((gone.code(), reason_of(&gone)), (Code::NotFound, Some(Reason::PeerNotFound)));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_of_the_contract_is_served_and_said_to_be() {
    let a = start(&[]).await;
    let mut health = HealthClient::new(channel(&a).await);
    for service in SERVICES {
        let answer = health.check(HealthCheckRequest { service: (*service).into() }).await;
        assert_eq!(answer.expect(service).into_inner().status(), ServingStatus::Serving, "{service}");
    }
}
