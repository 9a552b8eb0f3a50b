//! What a daemon says of where it can be reached.

use std::time::Duration;

use p2pd::app::Daemon;
use p2pd_api::v1::{
    ConnectRequest, Connection, GetInfoRequest, GetInfoResponse, GetPeerRequest, GetStateRequest,
    ListClosedConnectionsRequest, ListPeersRequest, RelayState, Rule, SetRuleRequest, Verdict, WatchEventsRequest,
    node_service_client::NodeServiceClient, subscribe_stream_response::Event,
};
use p2pd_core::{id::PeerId, setting::Size};
use p2pd_net::{DhtMode, Identity, PeerStream, RelayLimits, Reservation, StreamClass, Switch};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::support::{self, channel, floor, id, list, listen, next, open, peers, publish, setup, start, tcp, until};

/// A router's address, and its name.
const ANNOUNCED: [&str; 2] = ["/dns4/radio.example.org/tcp/4001", "/ip4/203.0.113.7/udp/4001/quic-v1"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_told_first_and_is_no_listener() {
    let mut behind_a_router = setup(&[]);
    behind_a_router.config.network.announce = ANNOUNCED.map(String::from).into();
    let a = Daemon::start(behind_a_router).await.unwrap();
    let b = start(&a.addresses[..1]).await;
    let own = id(&a);
    let mut node = NodeServiceClient::new(channel(&a).await);
    let info = node.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert!(ANNOUNCED.iter().all(|address| info.addresses[..2].contains(&format!("{address}/p2p/{own}"))), "{info:?}");
    assert!(info.addresses.len() > 2 && !a.addresses.iter().any(|listening| listening.contains("203.0.113.7")));
    let known = until("what it says of itself", async || {
        let request = GetPeerRequest { peer_id: own.clone() };
        let peer = peers(&b).await.get_peer(request).await.ok()?.into_inner().peer?;
        Some(peer.addresses).filter(|all| !all.is_empty())
    })
    .await;
    assert!(ANNOUNCED.iter().all(|address| known.iter().any(|known| known.starts_with(address))), "{known:?}");
    let _publishing = publish(&a, open("town")).await.unwrap();
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    assert!(
        ANNOUNCED.iter().all(|address| entry.publisher_addresses[..2].iter().any(|told| told.starts_with(address))),
        "{entry:?}"
    );
    // A rule about it cuts nobody off, as one about a listener would.
    let rule = Rule { subject: "203.0.113.0/24".into(), verdict: Verdict::Deny.into() };
    peers(&a).await.set_rule(SetRuleRequest { rule: Some(rule) }).await.unwrap();
    let state = node.get_state(GetStateRequest {}).await.unwrap().into_inner();
    assert_eq!((state.advice.as_str(), state.listeners_missing), ("", 0));
}

/// One that passes on connections for others.
async fn relay(limits: impl FnOnce(&mut RelayLimits)) -> Daemon {
    let mut setup = setup(&[]);
    setup.config.network.relay = Switch::On;
    limits(&mut setup.config.relay);
    Daemon::start(setup).await.unwrap()
}

async fn info(daemon: &Daemon) -> GetInfoResponse {
    NodeServiceClient::new(channel(daemon).await).get_info(GetInfoRequest {}).await.unwrap().into_inner()
}

/// The address of a daemon through one of these relays, once it has one.
async fn circuit(daemon: &Daemon, relay: &Daemon) -> String {
    let through = format!("/p2p/{}/p2p-circuit/p2p/{}", id(relay), id(daemon));
    until("the address through the relay", async || {
        info(daemon).await.addresses.into_iter().find(|address| address.ends_with(&through))
    })
    .await
}

async fn connect(daemon: &Daemon, address: &str) -> Result<(), Status> {
    peers(daemon).await.connect(ConnectRequest { address: address.into() }).await.map(|_| ())
}

/// The connections of one daemon to another.
async fn connections(daemon: &Daemon, to: &Daemon) -> Vec<Connection> {
    let request = GetPeerRequest { peer_id: id(to) };
    let peer = peers(daemon).await.get_peer(request).await.ok().and_then(|peer| peer.into_inner().peer);
    peer.map(|peer| peer.connections).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_heard_through_a_relay() {
    let relay = relay(|_| {}).await;
    let speaker = start(&[tcp(&relay)]).await;
    let address = circuit(&speaker, &relay).await;
    let known = info(&speaker).await.relays;
    assert_eq!(
        (known.len(), known[0].state(), known[0].max_time_ms),
        (1, RelayState::Reserved, 3_600_000),
        "{known:?}"
    );
    assert!(known[0].max_bytes == 1 << 30 && known[0].addresses.contains(&address), "{known:?}");
    let listener = start(&[]).await;
    connect(&listener, &address).await.unwrap();
    let there = connections(&listener, &speaker).await;
    assert!(there.len() == 1 && there[0].relayed && !there[0].inbound, "{there:?}");
    let here =
        until("the other end", async || Some(connections(&speaker, &listener).await).filter(|c| !c.is_empty())).await;
    assert!(here[0].relayed && here[0].inbound && here[0].address.contains(&id(&relay)), "{here:?}");
    let published = publish(&speaker, open("town")).await.unwrap();
    until("the entry", async || list(&listener).await.into_iter().next()).await;
    let mut heard = listen(&listener, "town", 0).await;
    let frames = async {
        let (mut frames, mut lost) = (0, 0);
        while frames < 50 {
            match next(&mut heard).await {
                Event::Group(group) => frames += group.frames.len(),
                Event::Gap(_) => lost += 1,
                _ => {}
            }
        }
        lost
    };
    let ((), lost) = tokio::join!(published.frames(0..100), frames);
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_has_so_many_places_and_each_is_kept_for_its_peer() {
    let relay = relay(|limits| limits.reservations = 2).await;
    let peers = [start(&[tcp(&relay)]).await, start(&[tcp(&relay)]).await, start(&[tcp(&relay)]).await];
    let states = async || {
        let mut states = Vec::new();
        for peer in &peers {
            states.extend(info(peer).await.relays.into_iter().map(|relay| (relay.state(), relay.fault)));
        }
        states.sort();
        Some(states).filter(|states| states.len() == 3 && !states.iter().any(|(state, _)| *state == RelayState::Asked))
    };
    let found = until("three answers", states).await;
    let full = (RelayState::Lost, "it has no room".to_owned());
    let reserved = (RelayState::Reserved, String::new());
    assert_eq!(found, [reserved.clone(), reserved, full]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_is_denied_through_any_relay_too() {
    let relay = relay(|_| {}).await;
    let (speaker, listener) = (start(&[tcp(&relay)]).await, start(&[]).await);
    let address = circuit(&speaker, &relay).await;
    let rule = Rule { subject: id(&listener), verdict: Verdict::Deny.into() };
    peers(&speaker).await.set_rule(SetRuleRequest { rule: Some(rule) }).await.unwrap();
    let denied = async || connections(&listener, &speaker).await.is_empty().then_some(());
    let _ = connect(&listener, &address).await;
    until("the end of it", denied).await;
    assert!(connections(&speaker, &listener).await.is_empty());
    // The relay itself is not concerned.
    assert!(!connections(&speaker, &relay).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_goes_is_replaced_and_nobody_is_told_of_its_address_any_more() {
    let relays = [relay(|_| {}).await, relay(|_| {}).await, relay(|_| {}).await];
    let speaker = start(&relays.each_ref().map(tcp)).await;
    let reserved = async || {
        let known = info(&speaker).await;
        let all = known.relays.into_iter().filter(|relay| relay.state() == RelayState::Reserved);
        Some((all.map(|relay| relay.peer_id).collect::<Vec<_>>(), known.addresses))
    };
    let (first, _) = until("two relays", async || reserved().await.filter(|(all, _)| all.len() == 2)).await;
    let mut relays = Vec::from(relays);
    let gone = relays.remove(relays.iter().position(|relay| id(relay) == first[0]).unwrap());
    let gone_id = id(&gone);
    gone.stop().await;
    let (_, addresses) = until("its end", async || reserved().await.filter(|(all, _)| all.len() == 1)).await;
    assert!(!addresses.iter().any(|address| address.contains(&gone_id)), "{addresses:?}");
    assert!(addresses.iter().any(|address| address.contains(&first[1])), "the other one stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_through_oneself_or_through_nobody_is_refused_with_the_reason() {
    let relay = relay(|_| {}).await;
    let (daemon, nobody) = (start(&[]).await, start(&[]).await);
    let through = |relay: &Daemon| format!("{}/p2p-circuit/p2p/{}", tcp(relay), id(&nobody));
    let refused = async |address: String| connect(&daemon, &address).await.unwrap_err().message().to_owned();
    assert!(refused(through(&daemon)).await.contains("this daemon itself"));
    let why = refused(through(&relay)).await;
    assert!(why.contains("the peer has no place at this relay"), "{why}");
}

const HOP: Reservation =
    Reservation { protocol: "/libp2p/circuit/relay/0.2.0/hop", class: StreamClass::Messages, most: 64, of_peer: 8 };

/// Answers a request for a reservation as the specification has it, but for when it ends.
async fn grant(mut asked: PeerStream, expires: u64) {
    let mut request = [0; 3];
    asked.stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [2, 8, 0], "RESERVE");
    let mut reservation = vec![8];
    let mut rest = expires;
    while rest >= 128 {
        reservation.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    reservation.push(rest as u8);
    // /ip4/127.0.0.1/tcp/1
    reservation.extend([18, 8, 4, 127, 0, 0, 1, 6, 0, 1]);
    let mut answer = vec![8, 2, 26, reservation.len() as u8];
    answer.extend(&reservation);
    answer.extend([40, 100]);
    answer.insert(0, answer.len() as u8);
    asked.stream.write_all(&answer).await.unwrap();
    asked.stream.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_says_an_impossible_end_hurts_nobody() {
    for expires in [u64::MAX, 0, support::now_ms() / 1000 + 7200] {
        let (rogue, _) = floor(None);
        let mut asked = rogue.handle.streams.reserve(HOP).await.unwrap();
        tokio::spawn(async move {
            while let Some(asked) = asked.next().await {
                grant(asked, expires).await;
            }
        });
        let at =
            until("its address", async || rogue.handle.addresses().await.unwrap().listening.into_iter().next()).await;
        let victim = start(&[at.to_string()]).await;
        let known = until("the reservation", async || {
            info(&victim).await.relays.into_iter().find(|relay| relay.state() == RelayState::Reserved)
        })
        .await;
        assert_eq!(known.fault, "");
        peers(&victim).await.get_peer(GetPeerRequest { peer_id: known.peer_id }).await.expect("a living connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_relay_cuts_is_told_as_that_at_all_three() {
    let relay = relay(|limits| limits.circuit_bytes = Size(64 << 10)).await;
    // Which would not be cut otherwise.
    let relayed = async |bootstrap: &[String]| {
        let mut setup = setup(bootstrap);
        setup.config.network.hole_punching = Switch::Off;
        Daemon::start(setup).await.unwrap()
    };
    let (speaker, listener) = (relayed(&[tcp(&relay)]).await, relayed(&[]).await);
    connect(&listener, &circuit(&speaker, &relay).await).await.unwrap();
    let watch = WatchEventsRequest::default();
    let mut told = NodeServiceClient::new(channel(&relay).await).watch_events(watch).await.unwrap().into_inner();
    let published = publish(&speaker, open("town")).await.unwrap();
    let _heard = listen(&listener, "town", 0).await;
    // 8,000 bytes a second.
    let sending = tokio::spawn(async move { published.frames(0..2000).await });
    let cut = async |daemon: &Daemon| {
        let all =
            peers(daemon).await.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        all.connections.into_iter().map(|closed| closed.why).find(|why| why.contains("65536 bytes"))
    };
    until("the listener's word", async || cut(&listener).await).await;
    until("the speaker's word", async || cut(&speaker).await).await;
    let word = async {
        loop {
            let event = told.message().await.unwrap().unwrap();
            if event.kind == "circuit-cut" {
                return event.subject;
            }
        }
    };
    let word = tokio::time::timeout(support::DEADLINE, word).await.unwrap();
    assert_eq!(word, format!("{} to {}: relay.circuit_bytes", id(&listener), id(&speaker)));
    sending.abort();
}

/// Asks a relay to pass on a connection to a peer. The answer's status, and the stream, which keeps it open.
async fn ask(asker: &p2pd_net::Handle, relay: &PeerId, to: &PeerId) -> Option<(u64, PeerStream)> {
    let mut hop = asker.streams.open(relay, &[HOP.protocol.into()]).await.ok()?;
    let id = to.as_bytes();
    // CONNECT, and the peer's id.
    let mut request = vec![8, 1, 18, id.len() as u8 + 2, 10, id.len() as u8];
    request.extend(id);
    request.insert(0, request.len() as u8);
    hop.stream.write_all(&request).await.ok()?;
    let length = hop.stream.read_u8().await.ok()?;
    let mut answer = vec![0; usize::from(length)];
    hop.stream.read_exact(&mut answer).await.ok()?;
    // The status is the last field, of two bytes.
    let [.., 40, low, high] = answer.as_slice() else { return (answer.last() == Some(&100)).then_some((100, hop)) };
    Some((u64::from(low & 127) | u64::from(*high) << 7, hop))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_requests_of_fifty_keys_as_many_get_through_as_are_set() {
    const CIRCUITS: usize = 40;
    let relay = relay(|limits| limits.circuits = CIRCUITS as u32).await;
    let (at, relay_id) = (tcp(&relay), id(&relay).parse::<PeerId>().unwrap());
    // Of another network, where nobody has to follow this one's directory.
    let stranger = || {
        let mut config = support::stranger(&at, DhtMode::Client);
        (config.network.name, config.network.max_pending_connections) = ("elsewhere".into(), 4096);
        let identity = Identity::generate();
        (p2pd_net::prepare(&config, &identity).unwrap().run(CancellationToken::new()), identity.peer_id())
    };
    // Several are asked for: a peer has so many requests on its way to one other.
    let targets: Vec<_> = (0..5).map(|_| stranger()).collect();
    for (target, _) in &targets {
        until("the target's place", async || {
            let relays = target.handle.reach.relays().await.unwrap();
            relays.iter().any(|relay| relay.state == p2pd_net::RelayState::Reserved).then_some(())
        })
        .await;
    }
    let askers: Vec<_> = (0..50).map(|_| stranger().0).collect();
    let ask = async |asker: usize, n: usize| {
        let request = ask(&askers[asker].handle, &relay_id, &targets[n % targets.len()].1);
        timeout(Duration::from_secs(5), request).await.ok()?.filter(|(status, _)| *status == 100)
    };
    until("that all are connected", async || {
        let all = peers(&relay).await.list_peers(ListPeersRequest::default()).await.unwrap().into_inner().peers;
        (all.len() >= 55).then_some(())
    })
    .await;
    let mut one = Vec::new();
    for n in 0..20 {
        one.extend(ask(0, n).await);
    }
    assert_eq!(one.len(), 8, "of one key");
    let requests = (0..1_000).map(|n| ask(n % 50, n / 50));
    // At once: nobody speaks on what is passed on, so that it ends when the targets lose patience.
    let through = futures::future::join_all(requests).await.into_iter().flatten().count();
    assert_eq!(one.len() + through, CIRCUITS);
}
