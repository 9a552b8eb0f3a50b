//! Who is connected, how, and what they said of themselves.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, core::ConnectedPoint, identify, swarm::ConnectionId};
use p2pd_core::{
    id::PeerId,
    multiaddr::Multiaddr as Address,
    text,
    time::{MonoMs, UnixMs},
};

use crate::{Traffic, meter::Meter};

/// Most addresses and protocols kept of what one peer says of itself.
const MAX_SAID: usize = 128;
/// Closed connections that are remembered.
const MAX_CLOSED: usize = 256;

pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> PeerId {
    // A libp2p id is a multihash, so this cannot fail; an impossible one becomes an id that matches nobody.
    PeerId::from_bytes(&peer.to_bytes()).unwrap_or_else(|_| PeerId::from_ed25519(&[0; 32]))
}

pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(peer.as_bytes()).ok()
}

/// One connection to a peer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where the peer is, without its id.
    pub address: Address,
    /// Whether the peer dialled us.
    pub inbound: bool,
    /// When it was opened.
    pub opened: UnixMs,
    /// `tls` or `noise`.
    pub security: &'static str,
    /// `yamux`, `mplex`, or `quic`, which has streams of its own.
    pub muxer: &'static str,
    /// What it has carried.
    pub traffic: Traffic,
    /// Open streams, those of the peer first.
    pub streams: (usize, usize),
}

/// A connection that stands.
struct Open {
    connection: Connection,
    meter: Option<Arc<Meter>>,
    /// The same as `opened`, whatever the wall clock is set to.
    began: Instant,
    /// What it had carried when the peer was last pinged: bytes from the peer, and mebibytes to it.
    brought: u64,
}

impl Open {
    fn now(&self) -> Connection {
        let connection = self.connection.clone();
        match &self.meter {
            Some(meter) => Connection { traffic: meter.total(), streams: meter.streams(), ..connection },
            None => connection,
        }
    }

    /// Whether a program has a stream on it.
    fn is_busy(&self) -> bool {
        self.meter.as_ref().is_some_and(|meter| meter.busy())
    }
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerId,
    /// Each connection.
    pub connections: Vec<Connection>,
    /// Software, as the peer says.
    pub agent: String,
    /// Protocols, as the peer says.
    pub protocols: Vec<String>,
    /// Listen addresses, as the peer says; not each is [plain](Address::is_plain).
    pub addresses: Vec<Address>,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// Gossipsub's score; below 0 is bad.
    pub score: f64,
    /// One side's stream of gossipsub has ended, so that it hears nothing, or we hear nothing of it.
    pub gossip_ended: bool,
    /// What each protocol has carried over these connections, most first.
    pub by_protocol: Vec<(String, Traffic)>,
    /// Messages that it missed since it connected, because it took them too slowly.
    pub lost: u64,
    /// Why it is kept when others are let go: `bootstrap`, `pinned`, `mesh` (of a topic), `topic` (follows one of ours).
    pub kept: Vec<&'static str>,
}

/// A connection that is no more.
#[derive(Clone, Debug)]
pub struct Closed {
    /// With whom, if that came to be known.
    pub peer: Option<PeerId>,
    /// How it was.
    pub connection: Connection,
    /// When it closed.
    pub closed: UnixMs,
    /// Why.
    pub why: String,
}

/// How long a peer may read slowly.
pub(crate) const SLOW: Duration = Duration::from_secs(60);
/// Whoever is sent so many bytes between two looks at full queues, a second or more apart, does not read slowly.
const READS: u64 = 64 << 10;

/// What each protocol has carried, most first.
fn by_protocol(peer: &Peer) -> Vec<(String, Traffic)> {
    let mut sums: HashMap<String, Traffic> = HashMap::new();
    for (name, traffic) in peer.connections.values().filter_map(|open| open.meter.as_ref()).flat_map(|m| m.protocols())
    {
        sums.entry(name).or_default().add(traffic);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(name, traffic)| (Reverse(traffic.received.saturating_add(traffic.sent)), name.clone()));
    sums
}

#[derive(Default)]
struct Peer {
    connections: HashMap<ConnectionId, Open>,
    agent: String,
    protocols: Vec<String>,
    addresses: Vec<Address>,
    rtt: Option<Duration>,
    /// A daemon of our network, as it says.
    ours: bool,
    /// Since when, and last when, its queues were too full; and what it had been sent then, in bytes.
    slow: Option<(MonoMs, MonoMs, u64)>,
    /// Messages that it missed, being slow.
    lost: u64,
    /// Messages for which it had no room, and nobody else: they were sent again, or refused.
    refused: u64,
}

impl Peer {
    /// Whether one side's stream of gossipsub has ended, on every connection: each opens one, for good.
    fn is_mute(&self) -> bool {
        let meters = self.connections.values().filter_map(|open| open.meter.as_ref());
        let each: Vec<_> = meters.map(|meter| meter.gossip()).collect();
        [0, 1].into_iter().any(|side| {
            let of_side = || each.iter().filter_map(move |sides| sides.get(side));
            of_side().any(|(had, _)| *had) && !of_side().any(|(_, open)| *open)
        })
    }
}

/// The table, bounded by the connection limits, and the connections that closed last.
#[derive(Default)]
pub(crate) struct Peers(HashMap<libp2p::PeerId, Peer>, VecDeque<Closed>);

impl Peers {
    /// Notes a connection. True for the first to this peer.
    pub(crate) fn opened(
        &mut self,
        peer: libp2p::PeerId,
        id: ConnectionId,
        point: &ConnectedPoint,
        meter: Option<Arc<Meter>>,
        now: UnixMs,
    ) -> bool {
        let connection = Connection {
            address: Address::from(point.get_remote_address().clone()).without_peer(),
            inbound: point.is_listener(),
            opened: now,
            security: meter.as_ref().map_or("", |meter| meter.security),
            muxer: meter.as_ref().map_or("", |meter| meter.muxed_by()),
            traffic: Traffic::default(),
            streams: (0, 0),
        };
        let connections = &mut self.0.entry(peer).or_default().connections;
        connections.insert(id, Open { connection, meter, began: Instant::now(), brought: 0 });
        connections.len() == 1
    }

    /// Notes the end of a connection, and why. True for the last to this peer.
    pub(crate) fn closed(&mut self, peer: &libp2p::PeerId, id: ConnectionId, why: String, now: UnixMs) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return false };
        if let Some(connection) = entry.connections.remove(&id).map(|open| open.now()) {
            self.remember(Closed { peer: Some(from_libp2p(peer)), connection, closed: now, why });
        }
        let Some(entry) = self.0.get_mut(peer) else { return false };
        let last = entry.connections.is_empty();
        if last {
            self.0.remove(peer);
        }
        last
    }

    fn remember(&mut self, closed: Closed) {
        self.1.push_back(closed);
        if self.1.len() > MAX_CLOSED {
            self.1.pop_front();
        }
    }

    /// Notes a connection that never stood, and why.
    pub(crate) fn failed(&mut self, peer: Option<PeerId>, address: Multiaddr, inbound: bool, why: String, now: UnixMs) {
        let connection = Connection {
            address: Address::from(address).without_peer(),
            inbound,
            opened: now,
            security: "",
            muxer: "",
            traffic: Traffic::default(),
            streams: (0, 0),
        };
        self.remember(Closed { peer, connection, closed: now, why });
    }

    pub(crate) fn identified(&mut self, peer: &libp2p::PeerId, info: &identify::Info, ours: bool) {
        if let Some(entry) = self.0.get_mut(peer) {
            entry.ours = ours;
            entry.agent = text::clean(&info.agent_version, 128);
            entry.protocols = info.protocols.iter().take(MAX_SAID).map(|p| text::clean(p.as_ref(), 140)).collect();
            entry.addresses = info.listen_addrs.iter().take(MAX_SAID).cloned().map(Address::from).collect();
        }
    }

    /// The peers whose gossip has ended.
    pub(crate) fn mute(&self) -> Vec<libp2p::PeerId> {
        self.0.iter().filter(|(_, entry)| entry.is_mute()).map(|(peer, _)| *peer).collect()
    }

    /// Whether a program here has a stream open with a peer.
    pub(crate) fn is_busy(&self, peer: &libp2p::PeerId) -> bool {
        self.0.get(peer).is_some_and(|entry| entry.connections.values().any(Open::is_busy))
    }

    /// The connections to a peer.
    pub(crate) fn connections(&self, peer: &libp2p::PeerId) -> impl Iterator<Item = ConnectionId> + '_ {
        self.0.get(peer).into_iter().flat_map(|entry| entry.connections.keys().copied())
    }

    /// The connections that fit.
    pub(crate) fn connections_where(
        &self,
        fits: impl Fn(&libp2p::PeerId, &Address) -> bool,
    ) -> Vec<(libp2p::PeerId, ConnectionId, Address)> {
        let all = self.0.iter().flat_map(|(peer, entry)| entry.connections.iter().map(move |(id, o)| (peer, id, o)));
        let fitting = all.filter(|(peer, _, open)| fits(peer, &open.connection.address));
        fitting.map(|(peer, id, open)| (*peer, *id, open.connection.address.clone())).collect()
    }

    /// Whether a peer has said that it speaks a protocol.
    pub(crate) fn speaks(&self, peer: &libp2p::PeerId, protocol: &str) -> bool {
        self.0.get(peer).is_some_and(|entry| entry.protocols.iter().any(|p| p == protocol))
    }

    /// Notes how long a ping took, or that none came back. Whether the peer lives: it answered, or the connection has brought
    /// something else since the last ping.
    pub(crate) fn pinged(&mut self, peer: &libp2p::PeerId, connection: ConnectionId, rtt: Option<Duration>) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return true };
        entry.rtt = rtt.or(entry.rtt);
        let Some(open) = entry.connections.get_mut(&connection) else { return true };
        // One that only takes tells so by what it takes.
        let moved = |Traffic { received, sent }| received.saturating_add(sent >> 20);
        let brought = open.meter.as_ref().map_or(0, |meter| moved(meter.total()));
        rtt.is_some() | (std::mem::replace(&mut open.brought, brought) != brought)
    }

    /// Notes that a peer has missed so many messages, since its queues are full. True when they were for a minute, and it has
    /// read slowly: otherwise programs here are fast.
    pub(crate) fn slow(&mut self, peer: &libp2p::PeerId, lost: usize, now: MonoMs) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return false };
        let refused = std::mem::take(&mut entry.refused);
        entry.lost = entry.lost.saturating_add(u64::try_from(lost).unwrap_or(u64::MAX).saturating_sub(refused));
        let meters = entry.connections.values().filter_map(|open| open.meter.as_ref());
        let sent = meters.map(|meter| meter.total().sent).fold(0, u64::saturating_add);
        let since = match entry.slow {
            Some((since, last, before)) if now.since(last) < 10_000 && sent.saturating_sub(before) < READS => since,
            _ => now,
        };
        entry.slow = Some((since, now, sent));
        Duration::from_millis(now.since(since)) >= SLOW
    }

    /// Notes a message that was not sent to these peers, who had no room for it, while others had.
    pub(crate) fn missed(&mut self, by: &[libp2p::PeerId]) {
        for id in by {
            if let Some(entry) = self.0.get_mut(id) {
                entry.lost = entry.lost.saturating_add(1);
            }
        }
    }

    /// Notes a message that none of these peers had room for.
    pub(crate) fn refused(&mut self, by: &[libp2p::PeerId]) {
        for id in by {
            if let Some(entry) = self.0.get_mut(id) {
                entry.refused = entry.refused.saturating_add(1);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How long each peer has been connected.
    pub(crate) fn ages(&self) -> impl Iterator<Item = (libp2p::PeerId, Duration)> + '_ {
        let age = |peer: &Peer| peer.connections.values().map(|open| open.began.elapsed()).max();
        self.0.iter().map(move |(id, peer)| (*id, age(peer).unwrap_or_default()))
    }

    /// The connected daemons of our network.
    pub(crate) fn ours(&self) -> impl Iterator<Item = libp2p::PeerId> + '_ {
        self.0.iter().filter(|(_, entry)| entry.ours).map(|(peer, _)| *peer)
    }

    pub(crate) fn contains(&self, peer: &libp2p::PeerId) -> bool {
        self.0.contains_key(peer)
    }

    /// The connections that closed last, oldest first.
    pub(crate) fn closed_ones(&self) -> Vec<Closed> {
        self.1.iter().cloned().collect()
    }

    pub(crate) fn list(
        &self,
        score: impl Fn(&libp2p::PeerId) -> f64,
        kept: impl Fn(&libp2p::PeerId) -> Vec<&'static str>,
    ) -> Vec<PeerInfo> {
        let info = |(id, peer): (&libp2p::PeerId, &Peer)| PeerInfo {
            peer: from_libp2p(id),
            connections: peer.connections.values().map(Open::now).collect(),
            agent: peer.agent.clone(),
            protocols: peer.protocols.clone(),
            addresses: peer.addresses.clone(),
            rtt: peer.rtt,
            score: score(id),
            gossip_ended: peer.is_mute(),
            by_protocol: by_protocol(peer),
            lost: peer.lost,
            kept: kept(id),
        };
        self.0.iter().map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::{Endpoint, transport::PortUse};

    use super::*;

    #[test]
    fn the_connections_that_closed_last_are_remembered() {
        let address = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let point = ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New };
        let (mut peers, peer) = (Peers::default(), libp2p::PeerId::random());
        for n in 0..MAX_CLOSED + 3 {
            let (id, now) = (ConnectionId::new_unchecked(n), UnixMs(n as u64));
            assert!(peers.opened(peer, id, &point, None, now));
            assert!(peers.closed(&peer, id, String::new(), now));
        }
        let closed: Vec<_> = peers.closed_ones().iter().map(|one| one.closed.0).collect();
        assert_eq!(closed, (3..MAX_CLOSED as u64 + 3).collect::<Vec<_>>());
        assert!(!peers.contains(&peer));
    }
    #[test]
    fn how_long_a_peer_is_connected_does_not_depend_on_what_the_clock_is_set_to() {
        let address = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let point = ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::New };
        let mut peers = Peers::default();
        for (n, wall) in [0, 1 << 50].into_iter().enumerate() {
            let (id, peer) = (ConnectionId::new_unchecked(n), libp2p::PeerId::random());
            assert!(peers.opened(peer, id, &point, None, UnixMs(wall)));
        }
        let ages: Vec<_> = peers.ages().map(|(_, age)| age).collect();
        assert!(ages.len() == 2 && ages.iter().all(|age| *age < Duration::from_secs(60)), "{ages:?}");
    }
}
