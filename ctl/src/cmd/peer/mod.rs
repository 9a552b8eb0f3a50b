//! `peer`: the connected peers, pins, and rules of who may connect.

mod table;

use std::time::Duration;

use p2pd_api::v1::{
    ConnectRequest, DisconnectRequest, GetPeerRequest, ListClosedConnectionsRequest, ListPeersRequest, ListPinsRequest,
    ListRulesRequest, PinPeerRequest, PingPeerRequest, PingPeerResponse, RemoveRuleRequest, Rule, SetRuleRequest,
    UnpinPeerRequest, Verdict, WatchPeersRequest, peer_service_client::PeerServiceClient,
};
use tonic::transport::Channel;

use super::{
    context::Context,
    peer_id::{resolve, resolve_address, resolve_any},
};
use crate::{
    cli::PeerAction,
    client::Client,
    output::{self, List},
};

const NO_PEERS: &str = "no peer is connected: `p2pctl peers connect ADDRESS` dials one, network.bootstrap and network.mdns \
    find them; `p2pctl status` prints the addresses that others dial";
const NO_PINS: &str = "no peer is pinned: `p2pctl peers pin ADDRESS` stays connected to one";
const NONE_CLOSED: &str = "no connection has closed since the daemon began";
const NO_RULES: &str =
    "nothing is ruled, and any peer may connect: `p2pctl peers deny` and `allow` take a peer id or addresses";

type Peers = PeerServiceClient<Channel>;

pub(super) async fn run(context: &Context, action: PeerAction) -> anyhow::Result<()> {
    let peers = PeerServiceClient::new(context.client.channel.clone());
    match action {
        PeerAction::List => list(context, peers).await,
        PeerAction::Watch => watch(context, peers).await,
        PeerAction::Show { peer } => show(context, peers, &peer).await,
        PeerAction::Ping { peer, count, interval } => ping(context, peers, &peer, count, interval).await,
        PeerAction::Connect { address } => connect(context, peers, &address).await,
        PeerAction::Disconnect { peer } => disconnect(context, peers, &peer).await,
        PeerAction::Pin { peer, tag, passive } => pin(context, peers, &peer, tag, passive).await,
        PeerAction::Unpin { peer, tag } => unpin(context, peers, &peer, tag).await,
        PeerAction::Pins => pins(context, peers).await,
        PeerAction::Closed => closed(context, peers).await,
        PeerAction::Rules => rules(context, peers).await,
        PeerAction::Allow { subject } => rule(context, peers, subject, Verdict::Allow).await,
        PeerAction::Deny { subject } => rule(context, peers, subject, Verdict::Deny).await,
        PeerAction::Unrule { subject } => unrule(context, peers, &subject).await,
    }
}

async fn list(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let answer = context.client.answer(peers.list_peers(ListPeersRequest {})).await?;
    let list = List {
        answer: &answer,
        answer_name: "ListPeersResponse",
        items: &answer.peers,
        item_name: "Peer",
        empty: NO_PEERS,
    };
    output::list(context.format, &list, table::peers)
}

async fn watch(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let mut changes = context.client.answer(peers.watch_peers(WatchPeersRequest {})).await?;
    loop {
        let next = output::watch(&mut changes).await?;
        output::one(context.format, "WatchPeersResponse", &next, table::change)?;
    }
}

async fn show(context: &Context, mut peers: Peers, peer: &str) -> anyhow::Result<()> {
    let peer_id = resolve(context, "PEER", peer).await?;
    let shown = context.client.answer(peers.get_peer(GetPeerRequest { peer_id })).await?;
    output::message(context.format, "Peer", &shown.peer.unwrap_or_default(), table::details)
}

async fn ping(context: &Context, mut peers: Peers, peer: &str, count: u32, interval: Duration) -> anyhow::Result<()> {
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let peer_id = resolve(context, "PEER", peer).await?;
    let request = PingPeerRequest { peer_id, count, interval_ms };
    let mut answers = context.client.answer(peers.ping_peer(request)).await?;
    let client = Client { timeout: context.client.timeout.saturating_add(interval), ..context.client.clone() };
    let mut next = async || client.in_time("no answer", async { Ok(answers.message().await?) }).await;
    while let Some(answer) = next().await? {
        let ms = |a: &PingPeerResponse| format!("{:.2} ms", a.rtt_us as f64 / 1000.0);
        output::message(context.format, "PingPeerResponse", &answer, ms)?;
    }
    Ok(())
}

async fn connect(context: &Context, mut peers: Peers, address: &str) -> anyhow::Result<()> {
    let address = resolve_address(context, "ADDRESS", address).await?;
    let peer_id = address.rsplit('/').next().unwrap_or_default().to_owned();
    let before = context.client.answer(peers.get_peer(GetPeerRequest { peer_id })).await.ok();
    let stood = before.and_then(|before| before.peer).and_then(|peer| peer.connections.into_iter().next());
    let connected = context.client.answer(peers.connect(ConnectRequest { address })).await?;
    output::message(context.format, "ConnectResponse", &connected, |c| match &stood {
        Some(stood) => {
            format!("already connected to {}, over {}; this address was not tried", c.peer_id, stood.address)
        }
        None => format!("connected to {}", c.peer_id),
    })
}

async fn disconnect(context: &Context, mut peers: Peers, peer: &str) -> anyhow::Result<()> {
    let peer_id = resolve(context, "PEER", peer).await?;
    let done = context.client.answer(peers.disconnect(DisconnectRequest { peer_id: peer_id.clone() })).await?;
    output::message(context.format, "DisconnectResponse", &done, |_| {
        format!("disconnected from {peer_id}; it may dial again: `p2pctl peers deny` keeps it away")
    })
}

async fn pin(context: &Context, mut peers: Peers, peer: &str, tags: Vec<String>, passive: bool) -> anyhow::Result<()> {
    let peer = resolve_address(context, "PEER", peer).await?;
    let pinned = context.client.answer(peers.pin_peer(PinPeerRequest { peer, tags, passive })).await?;
    let pins = context.client.answer(peers.list_pins(ListPinsRequest {})).await?.pins;
    let pin = pins.into_iter().find(|pin| pin.peer_id == pinned.peer_id).unwrap_or_default();
    output::message(context.format, "PinPeerResponse", &pinned, |pinned| {
        let peer = &pinned.peer_id;
        match (pin.passive, pin.connected, pin.addresses.is_empty()) {
            (true, ..) => format!("keeps {peer} when it comes, and does not dial it"),
            (false, false, true) => format!(
                "stays connected to {peer} once it is found: no address of it is pinned; `p2pctl peers pin ADDRESS` gives one"
            ),
            (false, ..) => format!("stays connected to {peer}"),
        }
    })
}

async fn unpin(context: &Context, mut peers: Peers, peer: &str, tags: Vec<String>) -> anyhow::Result<()> {
    let peer_id = resolve(context, "PEER", peer).await?;
    let request = UnpinPeerRequest { peer_id: peer_id.clone(), tags };
    let done = context.client.answer(peers.unpin_peer(request)).await?;
    output::message(context.format, "UnpinPeerResponse", &done, |done| {
        let how = if done.pinned { "is still pinned otherwise" } else { "is not pinned any more" };
        format!("{peer_id} {how}")
    })
}

async fn pins(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let answer = context.client.answer(peers.list_pins(ListPinsRequest {})).await?;
    let list = List {
        answer: &answer,
        answer_name: "ListPinsResponse",
        items: &answer.pins,
        item_name: "Pin",
        empty: NO_PINS,
    };
    output::list(context.format, &list, table::pins)
}

async fn closed(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let answer = context.client.answer(peers.list_closed_connections(ListClosedConnectionsRequest {})).await?;
    let list = List {
        answer: &answer,
        answer_name: "ListClosedConnectionsResponse",
        items: &answer.connections,
        item_name: "ClosedConnection",
        empty: NONE_CLOSED,
    };
    output::list(context.format, &list, table::closed)
}

async fn rules(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let answer = context.client.answer(peers.list_rules(ListRulesRequest {})).await?;
    let list = List {
        answer: &answer,
        answer_name: "ListRulesResponse",
        items: &answer.rules,
        item_name: "Rule",
        empty: NO_RULES,
    };
    output::list(context.format, &list, table::rules)
}

async fn unrule(context: &Context, mut peers: Peers, subject: &str) -> anyhow::Result<()> {
    let subject = resolve_any(context, "SUBJECT", subject).await?;
    let request = RemoveRuleRequest { subject: subject.clone() };
    let done = context.client.answer(peers.remove_rule(request)).await?;
    output::message(context.format, "RemoveRuleResponse", &done, |_| format!("forgotten: {subject}"))
}

async fn rule(context: &Context, mut peers: Peers, subject: String, verdict: Verdict) -> anyhow::Result<()> {
    let subject = resolve_any(context, "SUBJECT", &subject).await?;
    let rule = Rule { subject, verdict: verdict.into() };
    let done = context.client.answer(peers.set_rule(SetRuleRequest { rule: Some(rule.clone()) })).await?;
    output::message(context.format, "SetRuleResponse", &done, |_| format!("{} {}", table::word(&rule), rule.subject))
}
