//! Who may connect, and who is let go of.

use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        ConnectRequest, DisconnectRequest, GetPeerRequest, GetStateRequest, ListClosedConnectionsRequest,
        ListPeersRequest, ListRulesRequest, PinPeerRequest, PingPeerRequest, RemoveRuleRequest, Rule, SetRuleRequest,
        Verdict, node_service_client::NodeServiceClient, peer_service_client::PeerServiceClient,
    },
};
use p2pd_core::{id::PeerId, setting::Span};

use crate::support::{self, channel, id, pair, peers, setup_at, start, until};
use tonic::{Code, transport::Channel};

fn rule(subject: &str, verdict: Verdict) -> SetRuleRequest {
    SetRuleRequest { rule: Some(Rule { subject: subject.into(), verdict: verdict.into() }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_say_who_may_connect() {
    let (a, b) = pair().await;
    let id = support::id(&b);
    let mut client = peers(&a).await;
    let connected = async |client: &PeerServiceClient<Channel>| {
        let list = client.clone().list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        list.peers.iter().any(|p| p.peer_id == id)
    };
    until("the peer", async || connected(&client).await.then_some(())).await;
    let own = support::id(&a);
    for (subject, verdict) in [("127.0.0.0/8", Verdict::Deny), (&own, Verdict::Deny), ("nobody", Verdict::Allow)] {
        let refused = client.set_rule(rule(subject, verdict)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{subject}");
    }
    client.set_rule(rule(&id, Verdict::Deny)).await.unwrap();
    until("the cut", async || (!connected(&client).await).then_some(())).await;
    let refused = client.connect(ConnectRequest { address: b.addresses[0].clone() }).await.unwrap_err();
    assert!(refused.message().contains("a rule denies it"), "{refused}");
    let rules = client.list_rules(ListRulesRequest {}).await.unwrap().into_inner().rules;
    assert_eq!(rules, [Rule { subject: id.clone(), verdict: Verdict::Deny.into() }]);
    // The other side refuses when it knows who it is; to us that is a connection that closes at once.
    let _ = peers(&b).await.connect(ConnectRequest { address: a.addresses[0].clone() }).await;
    until("the refusal", async || (!connected(&client).await).then_some(())).await;
    client.remove_rule(RemoveRuleRequest { subject: id.clone() }).await.unwrap();
    let gone = client.remove_rule(RemoveRuleRequest { subject: id.clone() }).await.unwrap_err();
    assert_eq!((gone.code(), reason_of(&gone)), (Code::NotFound, Some(Reason::RuleNotFound)));
    until("the peer, let in again", async || {
        let _ = peers(&b).await.connect(ConnectRequest { address: a.addresses[0].clone() }).await;
        connected(&client).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_denied_by_whichever_name_it_is_reached() {
    let place = tempfile::tempdir().unwrap();
    let elsewhere = || {
        let mut setup = setup_at(place.path(), &[]);
        setup.config.network.listen = vec!["/ip4/127.0.0.3/tcp/0".into()];
        setup
    };
    let (a, b) = (Daemon::start(elsewhere()).await.unwrap(), start(&[]).await);
    let address = support::tcp(&b);
    let named = address.replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    let connect = async |at: &Daemon, address: &String| {
        peers(at).await.connect(ConnectRequest { address: address.clone() }).await.map(|_| ())
    };
    let none = async |at: &Daemon| {
        let list = peers(at).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner();
        list.peers.is_empty().then_some(())
    };
    let mut client = peers(&a).await;
    connect(&a, &named).await.unwrap();
    client.set_rule(rule("::ffff:127.0.0.1", Verdict::Deny)).await.unwrap();
    until("the cut", async || none(&a).await).await;
    let closed = client.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
    assert_eq!(closed.connections.last().unwrap().why, "a rule may deny where its name leads");
    a.stop().await;
    // Also after a restart.
    let a = Daemon::start(elsewhere()).await.unwrap();
    for way in [&address, &named] {
        let refused = connect(&a, way).await.unwrap_err();
        assert!(refused.message().contains("a rule denies it"), "{way}: {refused}");
    }
    connect(&b, &a.addresses[0]).await.unwrap_err();
    until("nobody", async || none(&a).await).await;
    // One peer of the range is allowed by name.
    let mut client = peers(&a).await;
    client.set_rule(rule(&id(&b), Verdict::Allow)).await.unwrap();
    connect(&a, &address).await.unwrap();
    // All but what is allowed, once one's own address is.
    let refused = client.set_rule(rule("0.0.0.0/0", Verdict::Deny)).await.unwrap_err();
    assert!(refused.message().contains("allow 127.0.0.3 by PeerService.SetRule"), "{refused}");
    client.set_rule(rule("127.0.0.3", Verdict::Allow)).await.unwrap();
    client.set_rule(rule("0.0.0.0/0", Verdict::Deny)).await.unwrap();
    // What keeps the listener from being cut stays, in either way.
    let refused = client.set_rule(rule("127.0.0.3", Verdict::Deny)).await.unwrap_err();
    assert!(refused.message().contains("network.listen"), "{refused}");
    let subject = || RemoveRuleRequest { subject: "127.0.0.3".into() };
    let refused = client.remove_rule(subject()).await.unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("PeerService.ListRules"),
        "{refused}"
    );
    client.remove_rule(RemoveRuleRequest { subject: "0.0.0.0/0".into() }).await.unwrap();
    client.remove_rule(subject()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_was_there_before_the_listener_is_pointed_to() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    peers(&a).await.set_rule(rule("127.0.0.9", Verdict::Deny)).await.unwrap();
    a.stop().await;
    let mut setup = setup_at(place.path(), &[]);
    setup.config.network.listen = vec!["/ip4/127.0.0.9/tcp/0".into()];
    let a = Daemon::start(setup).await.unwrap();
    let node = NodeServiceClient::new(channel(&a).await);
    let advice = async || node.clone().get_state(GetStateRequest {}).await.unwrap().into_inner().advice;
    assert!(advice().await.starts_with("a rule denies 127.0.0.9, on which"), "{}", advice().await);
    peers(&a).await.remove_rule(RemoveRuleRequest { subject: "127.0.0.9".into() }).await.unwrap();
    assert!(!advice().await.contains("rule"), "{}", advice().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_denies_us_is_not_said_to_be_connected() {
    let (a, b) = (start(&[]).await, start(&[]).await);
    peers(&b).await.set_rule(rule(&id(&a), Verdict::Deny)).await.unwrap();
    for address in &b.addresses {
        let address = address.clone();
        let refused = peers(&a).await.connect(ConnectRequest { address }).await.unwrap_err();
        assert_eq!(reason_of(&refused), Some(Reason::PeerUnreachable), "{refused}");
    }
    let pin = PinPeerRequest { peer: id(&a), ..PinPeerRequest::default() };
    let refused = peers(&b).await.pin_peer(pin).await.unwrap_err();
    assert!(refused.message().contains("PeerService.ListRules"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_high_water_mark_the_least_useful_peers_are_let_go_of() {
    let mut crowded = support::setup(&[]);
    let network = &mut crowded.config.network;
    (network.connections_high, network.connections_low, network.connections_grace) =
        (4, 2, Span(std::time::Duration::ZERO));
    let a = p2pd::app::Daemon::start(crowded).await.unwrap();
    let pinned = start(&a.addresses[..1]).await;
    let id = support::id(&pinned);
    let mut client = peers(&a).await;
    until("the pinned peer", async || client.clone().get_peer(GetPeerRequest { peer_id: id.clone() }).await.ok()).await;
    client.pin_peer(PinPeerRequest { peer: id.clone(), tags: vec![], passive: true }).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        let other = start(&[]).await;
        // It may be sent away before the answer.
        let _ = peers(&other).await.connect(ConnectRequest { address: a.addresses[0].clone() }).await;
        others.push(other);
    }
    let let_go = until("some to be let go of", async || {
        let list = client.clone().list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        let surplus = list.connections.into_iter().filter(|c| c.why.starts_with("more peers than wanted"));
        Some(surplus.map(|c| c.peer_id).collect::<Vec<_>>()).filter(|ids| ids.len() >= 3)
    })
    .await;
    assert!(!let_go.contains(&id), "the pinned peer was let go of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passive_pin_does_not_dial() {
    let (a, passive, active) = (start(&[]).await, start(&[]).await, start(&[]).await);
    let mut client = peers(&a).await;
    for (pinned, passive) in [(&passive, true), (&active, false)] {
        let peer = pinned.addresses[0].clone();
        client.pin_peer(PinPeerRequest { peer, tags: vec![], passive }).await.unwrap();
    }
    let connected = async |peer| client.clone().get_peer(GetPeerRequest { peer_id: id(peer) }).await.ok();
    until("the other pin", async || connected(&active).await).await;
    // Both would be dialled in one go, so that a way there and back is enough for the first.
    let ping = PingPeerRequest { peer_id: id(&active), count: 3, interval_ms: 100 };
    let mut answers = client.clone().ping_peer(ping).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    assert!(connected(&passive).await.is_none());
    // Whoever wants it dialled gets that.
    client.clone().pin_peer(PinPeerRequest { peer: id(&passive), tags: vec![], passive: false }).await.unwrap();
    until("it, too", async || connected(&passive).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_away_may_come_back_and_is_not_called_back() {
    // The other side may be faster than a call back; not each of so many times.
    for _ in 0..5 {
        send_away().await;
    }
}

async fn send_away() {
    // Of two that lost each other, the one with the smaller id dials first.
    let mut pair = [start(&[]).await, start(&[]).await];
    pair.sort_by_key(|daemon| id(daemon).parse::<PeerId>().unwrap());
    let [a, b] = pair;
    peers(&b).await.connect(ConnectRequest { address: a.addresses[0].clone() }).await.unwrap();
    let of_b = GetPeerRequest { peer_id: id(&b) };
    let known = async || peers(&a).await.get_peer(of_b.clone()).await.ok()?.into_inner().peer;
    until("its agent", async || known().await.filter(|peer| !peer.agent.is_empty())).await;
    peers(&a).await.disconnect(DisconnectRequest { peer_id: id(&b) }).await.unwrap();
    until("the end", async || {
        let list = peers(&a).await.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        (!list.connections.is_empty()).then_some(())
    })
    .await;
    let back = until("it again", known).await;
    assert!(back.connections.iter().all(|connection| connection.inbound), "{back:?}");
}
