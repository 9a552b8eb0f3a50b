//! `peers`.

use p2pd_api::v1::{
    ClosedConnection, ConnectRequest, Connection, DisconnectRequest, GetPeerRequest, ListClosedConnectionsRequest,
    ListPeersRequest, ListPinsRequest, ListRulesRequest, Peer, Pin, PinPeerRequest, PingPeerRequest, PingPeerResponse,
    ProtocolTraffic, RemoveRuleRequest, Rule, SetRuleRequest, UnpinPeerRequest, Verdict, WatchPeersRequest,
    WatchPeersResponse, peer_service_client::PeerServiceClient, watch_peers_response::Event,
};
use tonic::transport::Channel;

use super::Context;
use crate::{cli::PeersAction, client, output};

pub(super) async fn run(context: &Context, action: Option<PeersAction>) -> anyhow::Result<()> {
    let mut peers = PeerServiceClient::new(context.client.channel.clone());
    match action {
        Some(PeersAction::Watch) => {
            let changes = context.client.answer(peers.watch_peers(WatchPeersRequest {})).await?;
            output::each(context.format, "WatchPeersResponse", changes, change).await.map(drop)
        }
        None | Some(PeersAction::List) => {
            let list = context.client.answer(peers.list_peers(ListPeersRequest {})).await?;
            output::list(context.format, ("ListPeersResponse", &list), ("Peer", &list.peers), table)
        }
        Some(PeersAction::Connect { address }) => {
            let connected = context.client.answer(peers.connect(ConnectRequest { address })).await?;
            output::message(context.format, "ConnectResponse", &connected, |c| format!("connected to {}", c.peer_id))
        }
        Some(PeersAction::Show { peer }) => {
            let shown = context.client.answer(peers.get_peer(GetPeerRequest { peer_id: peer })).await?;
            let peer = shown.peer.unwrap_or_default();
            output::message(context.format, "Peer", &peer, details)
        }
        Some(PeersAction::Ping { peer, count, interval }) => {
            let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
            let request = PingPeerRequest { peer_id: peer, count, interval_ms };
            let mut answers = context.client.answer(peers.ping_peer(request)).await?;
            let client =
                client::Client { timeout: context.client.timeout.saturating_add(interval), ..context.client.clone() };
            let mut next = async || client.in_time("no answer", async { Ok(answers.message().await?) }).await;
            while let Some(answer) = next().await? {
                let ms = |a: &PingPeerResponse| format!("{:.2} ms", a.rtt_us as f64 / 1000.0);
                output::message(context.format, "PingPeerResponse", &answer, ms)?;
            }
            Ok(())
        }
        Some(PeersAction::Disconnect { peer }) => {
            let peer_id = peer.clone();
            let done = context.client.answer(peers.disconnect(DisconnectRequest { peer_id })).await?;
            output::message(context.format, "DisconnectResponse", &done, |_| format!("disconnected from {peer}"))
        }
        Some(PeersAction::Pin { peer, tag, passive }) => {
            let request = PinPeerRequest { peer, tags: tag, passive };
            let pinned = context.client.answer(peers.pin_peer(request)).await?;
            let how = if passive { "never lets go of" } else { "stays connected to" };
            output::message(context.format, "PinPeerResponse", &pinned, |p| format!("{how} {}", p.peer_id))
        }
        Some(PeersAction::Unpin { peer, tag }) => {
            let request = UnpinPeerRequest { peer_id: peer.clone(), tags: tag };
            let done = context.client.answer(peers.unpin_peer(request)).await?;
            output::message(context.format, "UnpinPeerResponse", &done, |done| {
                let how = if done.pinned { "is still pinned otherwise" } else { "is not pinned any more" };
                format!("{peer} {how}")
            })
        }
        Some(PeersAction::Pins) => {
            let list = context.client.answer(peers.list_pins(ListPinsRequest {})).await?;
            output::list(context.format, ("ListPinsResponse", &list), ("Pin", &list.pins), pins_table)
        }
        Some(PeersAction::Closed) => {
            let list = context.client.answer(peers.list_closed_connections(ListClosedConnectionsRequest {})).await?;
            let items = ("ClosedConnection", &list.connections[..]);
            output::list(context.format, ("ListClosedConnectionsResponse", &list), items, closed_table)
        }
        Some(PeersAction::Rules) => {
            let list = context.client.answer(peers.list_rules(ListRulesRequest {})).await?;
            output::list(context.format, ("ListRulesResponse", &list), ("Rule", &list.rules), rules_table)
        }
        Some(PeersAction::Allow { subject }) => rule(context, peers, subject, Verdict::Allow).await,
        Some(PeersAction::Deny { subject }) => rule(context, peers, subject, Verdict::Deny).await,
        Some(PeersAction::Unrule { subject }) => {
            let request = RemoveRuleRequest { subject: subject.clone() };
            let done = context.client.answer(peers.remove_rule(request)).await?;
            output::message(context.format, "RemoveRuleResponse", &done, |_| format!("forgotten: {subject}"))
        }
    }
}

async fn rule(
    context: &Context,
    mut peers: PeerServiceClient<Channel>,
    subject: String,
    verdict: Verdict,
) -> anyhow::Result<()> {
    let rule = Rule { subject, verdict: verdict.into() };
    let done = context.client.answer(peers.set_rule(SetRuleRequest { rule: Some(rule.clone()) })).await?;
    output::message(context.format, "SetRuleResponse", &done, |_| format!("{} {}", word(&rule), rule.subject))
}

fn word(rule: &Rule) -> &'static str {
    if rule.verdict() == Verdict::Allow { "allow" } else { "deny" }
}

fn pins_table(pins: &[Pin]) -> String {
    let row = |pin: &Pin| {
        let connected = if pin.connected { "yes" } else { "-" };
        let dialled = if pin.passive { "-" } else { "yes" };
        vec![pin.peer_id.clone(), connected.into(), dialled.into(), pin.tags.join(" "), pin.addresses.join(" ")]
    };
    output::rows(&["PEER", "CONNECTED", "DIALLED", "TAGS", "ADDRESSES"], pins.iter().map(row))
}

fn closed_table(closed: &[ClosedConnection]) -> String {
    let row = |closed: &ClosedConnection| {
        let connection = closed.connection.clone().unwrap_or_default();
        let lasted = closed.closed_ms.saturating_sub(connection.opened_ms) as f64 / 1000.0;
        let peer = if closed.peer_id.is_empty() { "-".into() } else { closed.peer_id.clone() };
        vec![peer, format!("{lasted:.1} s"), connection.address, closed.why.clone()]
    };
    output::rows(&["PEER", "LASTED", "ADDRESS", "WHY"], closed.iter().map(row))
}

fn rules_table(rules: &[Rule]) -> String {
    output::rows(&["RULE", "SUBJECT"], rules.iter().map(|rule| vec![word(rule).into(), rule.subject.clone()]))
}

fn details(peer: &Peer) -> String {
    let connection = |c: &Connection| {
        let carried = format!("{} {}", bytes(c.received), bytes(c.sent));
        let relayed = if c.relayed { "relayed " } else { "" };
        let way = format!("{relayed}{}, {}, {}", c.transport, c.security, c.muxer);
        let streams = format!("{} {}", c.streams_in, c.streams_out);
        let since = output::time(c.opened_ms);
        vec![if c.inbound { "in" } else { "out" }.into(), since, way, carried, streams, c.address.clone()]
    };
    let connections = output::rows(
        &["DIRECTION", "OPENED", "WAY", "RECEIVED, SENT", "STREAMS IN, OUT", "ADDRESS"],
        peer.connections.iter().map(connection),
    );
    let protocol = |t: &ProtocolTraffic| vec![t.protocol.clone(), bytes(t.received), bytes(t.sent)];
    let traffic = output::rows(&["PROTOCOL", "RECEIVED", "SENT"], peer.traffic.iter().map(protocol));
    let kept = if peer.kept.is_empty() { "-".into() } else { peer.kept.join(" ") };
    let tags = if peer.tags.is_empty() { String::new() } else { format!(" ({})", peer.tags.join(" ")) };
    let lost = match peer.messages_lost {
        0 => String::new(),
        lost => format!(", missed {lost} messages that it took too slowly"),
    };
    let clock = peer.clock_ahead_ms.map_or_else(String::new, |ms| {
        let way = if ms < 0 { "behind" } else { "ahead" };
        format!(", its clock is {} s {way}", ms.unsigned_abs() / 1000)
    });
    let Peer { peer_id: id, agent, score, .. } = peer;
    let (says, speaks, rtt) = (peer.addresses.join(" "), peer.protocols.join(" "), rtt(peer));
    format!(
        "{id}  {agent}, score {score:.1}, round trip {rtt}, kept: {kept}{tags}{lost}{clock}\nlistens on {says}\nspeaks {speaks}\n{connections}\n{traffic}"
    )
}

fn change(change: &WatchPeersResponse) -> String {
    match &change.event {
        Some(Event::Present(peer)) => {
            let address = peer.connections.first().map_or("", |c| c.address.as_str());
            format!("present  {}  {}  {address}", peer.peer_id, peer.agent)
        }
        Some(Event::Gone(peer)) => format!("gone     {peer}"),
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
    let row = |peer: &Peer| {
        let first = peer.connections.first();
        let address = first.map(|c| c.address.clone()).unwrap_or_default();
        let direction = first.map_or("", |c| if c.inbound { "in" } else { "out" });
        let (score, kept) = (format!("{:.1}", peer.score), peer.kept.join(" "));
        vec![peer.peer_id.clone(), direction.into(), rtt(peer), score, kept, peer.agent.clone(), address]
    };
    output::rows(&["PEER", "DIRECTION", "RTT", "SCORE", "KEPT", "AGENT", "ADDRESS"], peers.iter().map(row))
}
