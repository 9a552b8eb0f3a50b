//! `peers`.

use std::time::Duration;

use p2pd_api::v1::{
    ClosedConnection, ConnectRequest, Connection, DisconnectRequest, GetPeerRequest, ListClosedConnectionsRequest,
    ListPeersRequest, ListPinsRequest, ListRulesRequest, Peer, Pin, PinPeerRequest, PingPeerRequest, PingPeerResponse,
    ProtocolTraffic, RemoveRuleRequest, Rule, SetRuleRequest, UnpinPeerRequest, Verdict, WatchPeersRequest,
    WatchPeersResponse, peer_service_client::PeerServiceClient, watch_peers_response::Event,
};
use tonic::transport::Channel;

use super::{
    Context,
    peer_id::{resolve, resolve_address, resolve_any},
};
use crate::{
    cli::PeersAction,
    client,
    output::{self, Cell, Fit, List, Tone, count, short, toned},
};

const NO_PEERS: &str = "no peer is connected: `p2pctl peers connect ADDRESS` dials one, network.bootstrap and network.mdns \
    find them; `p2pctl status` prints the addresses that others dial";
const NO_PINS: &str = "no peer is pinned: `p2pctl peers pin ADDRESS` stays connected to one";
const NONE_CLOSED: &str = "no connection has closed since the daemon began";
const NO_RULES: &str =
    "nothing is ruled, and any peer may connect: `p2pctl peers deny` and `allow` take a peer id or addresses";

type Peers = PeerServiceClient<Channel>;

pub(super) async fn run(context: &Context, action: Option<PeersAction>) -> anyhow::Result<()> {
    let peers = PeerServiceClient::new(context.client.channel.clone());
    match action {
        None | Some(PeersAction::List) => list(context, peers).await,
        Some(PeersAction::Watch) => watch(context, peers).await,
        Some(PeersAction::Show { peer }) => show(context, peers, &peer).await,
        Some(PeersAction::Ping { peer, count, interval }) => ping(context, peers, &peer, count, interval).await,
        Some(PeersAction::Connect { address }) => connect(context, peers, &address).await,
        Some(PeersAction::Disconnect { peer }) => disconnect(context, peers, &peer).await,
        Some(PeersAction::Pin { peer, tag, passive }) => pin(context, peers, &peer, tag, passive).await,
        Some(PeersAction::Unpin { peer, tag }) => unpin(context, peers, &peer, tag).await,
        Some(PeersAction::Pins) => pins(context, peers).await,
        Some(PeersAction::Closed) => closed(context, peers).await,
        Some(PeersAction::Rules) => rules(context, peers).await,
        Some(PeersAction::Allow { subject }) => rule(context, peers, subject, Verdict::Allow).await,
        Some(PeersAction::Deny { subject }) => rule(context, peers, subject, Verdict::Deny).await,
        Some(PeersAction::Unrule { subject }) => unrule(context, peers, &subject).await,
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
    output::list(context.format, &list, table)
}

async fn watch(context: &Context, mut peers: Peers) -> anyhow::Result<()> {
    let mut changes = context.client.answer(peers.watch_peers(WatchPeersRequest {})).await?;
    loop {
        let next = output::watch(&mut changes).await?;
        output::one(context.format, "WatchPeersResponse", &next, change)?;
    }
}

async fn show(context: &Context, mut peers: Peers, peer: &str) -> anyhow::Result<()> {
    let peer_id = resolve(context, "PEER", peer).await?;
    let shown = context.client.answer(peers.get_peer(GetPeerRequest { peer_id })).await?;
    output::message(context.format, "Peer", &shown.peer.unwrap_or_default(), details)
}

async fn ping(context: &Context, mut peers: Peers, peer: &str, count: u32, interval: Duration) -> anyhow::Result<()> {
    let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
    let peer_id = resolve(context, "PEER", peer).await?;
    let request = PingPeerRequest { peer_id, count, interval_ms };
    let mut answers = context.client.answer(peers.ping_peer(request)).await?;
    let client = client::Client { timeout: context.client.timeout.saturating_add(interval), ..context.client.clone() };
    let mut next = async || client.in_time("no answer", async { Ok(answers.message().await?) }).await;
    while let Some(answer) = next().await? {
        let ms = |a: &PingPeerResponse| format!("{:.2} ms", a.rtt_us as f64 / 1000.0);
        output::message(context.format, "PingPeerResponse", &answer, ms)?;
    }
    Ok(())
}

async fn connect(context: &Context, mut peers: Peers, address: &str) -> anyhow::Result<()> {
    let address = resolve_address(context, "ADDRESS", address).await?;
    let connected = context.client.answer(peers.connect(ConnectRequest { address })).await?;
    output::message(context.format, "ConnectResponse", &connected, |c| format!("connected to {}", c.peer_id))
}

async fn disconnect(context: &Context, mut peers: Peers, peer: &str) -> anyhow::Result<()> {
    let peer_id = resolve(context, "PEER", peer).await?;
    let done = context.client.answer(peers.disconnect(DisconnectRequest { peer_id: peer_id.clone() })).await?;
    output::message(context.format, "DisconnectResponse", &done, |_| format!("disconnected from {peer_id}"))
}

async fn pin(context: &Context, mut peers: Peers, peer: &str, tags: Vec<String>, passive: bool) -> anyhow::Result<()> {
    let peer = resolve_address(context, "PEER", peer).await?;
    let pinned = context.client.answer(peers.pin_peer(PinPeerRequest { peer, tags, passive })).await?;
    let how = if passive { "never lets go of" } else { "stays connected to" };
    output::message(context.format, "PinPeerResponse", &pinned, |p| format!("{how} {}", p.peer_id))
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
    output::list(context.format, &list, pins_table)
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
    output::list(context.format, &list, closed_table)
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
    output::list(context.format, &list, rules_table)
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
    output::message(context.format, "SetRuleResponse", &done, |_| format!("{} {}", word(&rule), rule.subject))
}

fn word(rule: &Rule) -> &'static str {
    if rule.verdict() == Verdict::Allow { "allow" } else { "deny" }
}

fn pins_table(pins: &[Pin]) -> String {
    let heads = [
        ("PEER", Fit::Whole),
        ("CONNECTED", Fit::Whole),
        ("DIALLED", Fit::Whole),
        ("TAGS", Fit::Wrap),
        ("ADDRESSES", Fit::Wrap),
    ];
    let row = |pin: &Pin| {
        let connected = if pin.connected { toned(Tone::Good, "yes") } else { toned(Tone::Warning, "no") };
        let dialled = if pin.passive { "-" } else { "yes" };
        [
            short(&pin.peer_id).into(),
            connected,
            dialled.into(),
            pin.tags.join(" ").into(),
            pin.addresses.join(" ").into(),
        ]
    };
    output::rows(&heads, pins.iter().map(row))
}

fn closed_table(closed: &[ClosedConnection]) -> String {
    let heads = [("PEER", Fit::Whole), ("LASTED", Fit::Whole), ("ADDRESS", Fit::Cut), ("WHY", Fit::Wrap)];
    let row = |closed: &ClosedConnection| {
        let connection = closed.connection.clone().unwrap_or_default();
        let lasted = closed.closed_ms.saturating_sub(connection.opened_ms) as f64 / 1000.0;
        let lasted = format!("{lasted:.1} s");
        let peer = if closed.peer_id.is_empty() { "-".into() } else { short(&closed.peer_id) };
        [peer.into(), lasted.into(), connection.address.into(), closed.why.as_str().into()]
    };
    output::rows(&heads, closed.iter().map(row))
}

fn rules_table(rules: &[Rule]) -> String {
    let row = |rule: &Rule| {
        let tone = if rule.verdict() == Verdict::Allow { Tone::Good } else { Tone::Bad };
        // The whole id: eight characters could be forged.
        [toned(tone, word(rule)), rule.subject.as_str().into()]
    };
    output::rows(&[("RULE", Fit::Whole), ("SUBJECT", Fit::Whole)], rules.iter().map(row))
}

fn score(peer: &Peer) -> Cell {
    toned(if peer.score < 0.0 { Tone::Bad } else { Tone::Plain }, format!("{:.1}", peer.score))
}

/// One peer on a page: who it is, each connection, and what each protocol has carried.
fn details(peer: &Peer) -> String {
    let tags = if peer.tags.is_empty() { String::new() } else { format!(" ({})", peer.tags.join(" ")) };
    let kept = if peer.kept.is_empty() { "-".into() } else { peer.kept.join(" ") };
    let connection = |c: &Connection| {
        let direction = if c.inbound { "in from" } else { "out to" };
        let relayed = if c.relayed { "relayed " } else { "" };
        let way = format!("{relayed}{}, {}, {}", c.transport, c.security, c.muxer);
        let carried = format!("{} received, {} sent", bytes(c.received), bytes(c.sent));
        let streams = format!("{} in and {} out", count(c.streams_in, "stream"), c.streams_out);
        let since = output::time(c.opened_ms);
        format!("{direction} {}\n{way}, since {since}\n{carried}; {streams}", c.address).into()
    };
    let mut items: Vec<(&str, Cell)> = vec![
        ("peer id", peer.peer_id.as_str().into()),
        ("agent", peer.agent.as_str().into()),
        ("score", score(peer)),
        ("round trip", rtt(peer).into()),
        ("protected", format!("{kept}{tags}").into()),
    ];
    if peer.messages_lost > 0 {
        let lost = format!("{} that it took too slowly", count(peer.messages_lost, "message"));
        items.push(("missed", toned(Tone::Warning, lost)));
    }
    if let Some(ms) = peer.clock_ahead_ms {
        let way = if ms < 0 { "behind this machine's" } else { "ahead of this machine's" };
        items.push(("clock", toned(Tone::Warning, format!("{} s {way}", ms.unsigned_abs() / 1000))));
    }
    items.push(("listens on", peer.addresses.join("\n").into()));
    items.push(("speaks", peer.protocols.join(" ").into()));
    items.extend(peer.connections.iter().map(|c| ("connection", connection(c))));
    let heads = [("PROTOCOL", Fit::Whole), ("RECEIVED", Fit::Whole), ("SENT", Fit::Whole)];
    let protocol = |t: &ProtocolTraffic| [t.protocol.as_str().into(), bytes(t.received).into(), bytes(t.sent).into()];
    let traffic = output::rows(&heads, peer.traffic.iter().map(protocol));
    format!("{}\n\n{traffic}", output::page(items))
}

fn change(change: &WatchPeersResponse) -> String {
    match &change.event {
        Some(Event::Present(peer)) => {
            let address = peer.connections.first().map_or("", |c| c.address.as_str());
            let present = output::paint(Tone::Good, "present");
            format!("{present}  {}  {}  {address}", output::id(&peer.peer_id), peer.agent)
        }
        Some(Event::Gone(peer)) => format!("{}     {}", output::paint(Tone::Dim, "gone"), output::id(peer)),
        _ => "these are all; changes follow".into(),
    }
}

fn rtt(peer: &Peer) -> String {
    if peer.rtt_us == 0 { "-".into() } else { format!("{:.1} ms", peer.rtt_us as f64 / 1000.0) }
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1_000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

fn table(peers: &[Peer]) -> String {
    let heads = [
        ("PEER", Fit::Whole),
        ("WAY", Fit::Whole),
        ("RTT", Fit::Whole),
        ("SCORE", Fit::Whole),
        ("PROTECTED", Fit::Cut),
        ("AGENT", Fit::Cut),
        ("ADDRESS", Fit::Cut),
    ];
    let row = |peer: &Peer| {
        let first = peer.connections.first();
        let address = first.map(|c| c.address.clone()).unwrap_or_default();
        let direction = first.map_or("", |c| if c.inbound { "in" } else { "out" });
        let (id, kept, agent) = (short(&peer.peer_id), peer.kept.join(" "), peer.agent.as_str());
        [id.into(), direction.into(), rtt(peer).into(), score(peer), kept.into(), agent.into(), address.into()]
    };
    output::rows(&heads, peers.iter().map(row))
}
