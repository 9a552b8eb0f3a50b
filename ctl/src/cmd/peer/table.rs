//! How peers, pins, rules and closed connections are shown to people.

use p2pd_api::v1::{
    ClosedConnection, Connection, Peer, Pin, ProtocolTraffic, Rule, Verdict, WatchPeersResponse,
    watch_peers_response::Event,
};

use crate::{
    api_words::with_commands,
    output::{self, Cell, Column, Tone, count, short, toned},
};

/// A rule in a word.
pub(super) fn word(rule: &Rule) -> &'static str {
    if rule.verdict() == Verdict::Allow { "allow" } else { "deny" }
}

pub(super) fn pins(pins: &[Pin]) -> String {
    let heads = [
        Column::whole("PEER"),
        Column::whole("CONNECTED"),
        Column::whole("DIALLED"),
        Column::wrap("TAGS"),
        Column::wrap("ADDRESSES"),
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

pub(super) fn closed(closed: &[ClosedConnection]) -> String {
    let heads = [Column::whole("PEER"), Column::whole("LASTED"), Column::cut("ADDRESS"), Column::wrap("WHY")];
    let row = |closed: &ClosedConnection| {
        let connection = closed.connection.clone().unwrap_or_default();
        let lasted = closed.closed_ms.saturating_sub(connection.opened_ms) as f64 / 1000.0;
        let lasted = format!("{lasted:.1} s");
        let peer = if closed.peer_id.is_empty() { "-".into() } else { short(&closed.peer_id) };
        [peer.into(), lasted.into(), connection.address.into(), with_commands(&closed.why).into()]
    };
    output::rows(&heads, closed.iter().map(row))
}

pub(super) fn rules(rules: &[Rule]) -> String {
    let row = |rule: &Rule| {
        let tone = if rule.verdict() == Verdict::Allow { Tone::Good } else { Tone::Bad };
        // The whole id: eight characters could be forged.
        [toned(tone, word(rule)), rule.subject.as_str().into()]
    };
    output::rows(&[Column::whole("RULE"), Column::whole("SUBJECT")], rules.iter().map(row))
}

fn score(peer: &Peer) -> Cell {
    toned(if peer.score < 0.0 { Tone::Bad } else { Tone::Plain }, format!("{:.1}", peer.score))
}

/// One peer on a page: who it is, each connection, and what each protocol has carried.
pub(super) fn details(peer: &Peer) -> String {
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
    let heads = [Column::whole("PROTOCOL"), Column::whole("RECEIVED"), Column::whole("SENT")];
    let protocol = |t: &ProtocolTraffic| [t.protocol.as_str().into(), bytes(t.received).into(), bytes(t.sent).into()];
    let traffic = output::rows(&heads, peer.traffic.iter().map(protocol));
    format!("{}\n\n{traffic}", output::page(items))
}

pub(super) fn change(change: &WatchPeersResponse) -> String {
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

pub(super) fn peers(peers: &[Peer]) -> String {
    let heads = [
        Column::whole("PEER"),
        Column::whole("WAY"),
        Column::whole("RTT"),
        Column::whole("SCORE"),
        Column::cut("PROTECTED"),
        Column::cut("AGENT"),
        Column::cut("ADDRESS"),
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
