//! Who is connected, how, and what they said of themselves.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, identify, swarm::ConnectionId};
use p2pd_core::{id::PeerId, multiaddr::Multiaddr as Address, text, time::UnixMs};

use crate::{
    Traffic, ids,
    reach::circuit_limit::Carried,
    standing::{Standing, Standings},
    swarm::bandwidth::{Meter, Streams},
};

/// Most addresses and protocols kept of what one peer says of itself.
const MAX_SAID: usize = 128;
/// How long nothing of gossip comes on a connection that another one has taken over before it goes.
const QUIET: Duration = Duration::from_secs(1);
/// Closed connections that are remembered.
const MAX_CLOSED: usize = 256;

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
    /// Those that are open.
    pub streams: Streams,
}

/// A connection that stands.
struct Open {
    connection: Connection,
    meter: Option<Arc<Meter>>,
    /// The same as `opened`, whatever the wall clock is set to.
    began: Instant,
    /// What of gossip had come, and since when nothing more has, where it is to go.
    came: Option<(u64, Instant)>,
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

    /// Whether it has a stream for which the peer is kept: of a program, or a reserved one that carries messages.
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
    /// Why it is kept when others are let go: `bootstrap`, `pinned`, `mesh` (of a topic), `topic` (follows one of ours),
    /// `stream` (of a program, or one that carries messages).
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
}

impl Peer {
    /// Whether it is kept for a stream.
    fn is_busy(&self) -> bool {
        self.connections.values().any(Open::is_busy)
    }

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

/// The connected peers, bounded by the connection limits.
#[derive(Default)]
pub(crate) struct Table {
    peers: HashMap<libp2p::PeerId, Peer>,
    /// The connections that closed last.
    closed: VecDeque<Closed>,
}

impl Table {
    /// Notes a connection. True for the first to this peer.
    pub(crate) fn opened(
        &mut self,
        peer: libp2p::PeerId,
        id: ConnectionId,
        (address, inbound): (Address, bool),
        meter: Option<Arc<Meter>>,
        now: UnixMs,
    ) -> bool {
        let connection = Connection {
            address,
            inbound,
            opened: now,
            security: meter.as_ref().map_or("", |meter| meter.security),
            muxer: meter.as_ref().map_or("", |meter| meter.muxed_by()),
            traffic: Traffic::default(),
            streams: Streams::default(),
        };
        let connections = &mut self.peers.entry(peer).or_default().connections;
        connections.insert(id, Open { connection, meter, began: Instant::now(), came: None, brought: 0 });
        connections.len() == 1
    }

    /// Notes the end of a connection, and why. True for the last to this peer.
    pub(crate) fn closed(&mut self, peer: &libp2p::PeerId, id: ConnectionId, why: String, now: UnixMs) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else { return false };
        if let Some(connection) = entry.connections.remove(&id).map(|open| open.now()) {
            self.remember(Closed { peer: Some(ids::from_libp2p(peer)), connection, closed: now, why });
        }
        let Some(entry) = self.peers.get_mut(peer) else { return false };
        let last = entry.connections.is_empty();
        if last {
            self.peers.remove(peer);
        }
        last
    }

    fn remember(&mut self, closed: Closed) {
        self.closed.push_back(closed);
        if self.closed.len() > MAX_CLOSED {
            self.closed.pop_front();
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
            streams: Streams::default(),
        };
        self.remember(Closed { peer, connection, closed: now, why });
    }

    pub(crate) fn identified(&mut self, peer: &libp2p::PeerId, info: &identify::Info, ours: bool) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.ours = ours;
            entry.agent = text::clean(&info.agent_version, 128);
            entry.protocols = info.protocols.iter().take(MAX_SAID).map(|p| text::clean(p.as_ref(), 140)).collect();
            entry.addresses = info.listen_addrs.iter().take(MAX_SAID).cloned().map(Address::from).collect();
        }
    }

    /// Has gossip leave a connection for another one. Whether nothing of gossip comes on it any more.
    pub(crate) fn leave(&mut self, peer: &libp2p::PeerId, id: ConnectionId) -> bool {
        let open = self.peers.get_mut(peer).and_then(|entry| entry.connections.get_mut(&id));
        let Some((meter, came)) = open.and_then(|open| Some((open.meter.as_ref()?, &mut open.came))) else {
            return true;
        };
        meter.end_gossip();
        let (came, since) = came.get_or_insert((0, Instant::now()));
        let now = meter.gossip_received();
        if *came != now {
            (*came, *since) = (now, Instant::now());
        }
        since.elapsed() >= QUIET
    }

    /// Whether a connection has a stream for which the peer is kept.
    pub(crate) fn carries(&self, peer: &libp2p::PeerId, id: ConnectionId) -> bool {
        self.peers.get(peer).and_then(|entry| entry.connections.get(&id)).is_some_and(Open::is_busy)
    }

    /// The relay of a connection, what it has carried, and for how long it has stood.
    pub(crate) fn relay(&self, peer: &libp2p::PeerId, id: ConnectionId) -> Option<(PeerId, Carried)> {
        let open = self.peers.get(peer)?.connections.get(&id)?;
        let relay = open.connection.address.relay()?.peer;
        let Traffic { received, sent } = open.now().traffic;
        Some((relay, Carried { bytes: received.saturating_add(sent), time: open.began.elapsed() }))
    }

    /// An address through a relay with the relay named, where it is connected at that address.
    pub(crate) fn with_relay(&self, address: Address) -> Address {
        if !address.is_circuit() || address.relay().is_some() {
            return address;
        }
        let way = address.first_way();
        let is_there = |entry: &Peer| entry.connections.values().any(|open| open.connection.address == way);
        let relay = self.peers.iter().find(|(_, entry)| is_there(entry)).map(|(relay, _)| ids::from_libp2p(relay));
        relay.map_or(address, |relay| way.through(&relay))
    }

    /// The peers whose gossip has ended.
    pub(crate) fn mute(&self) -> Vec<libp2p::PeerId> {
        self.peers.iter().filter(|(_, entry)| entry.is_mute()).map(|(peer, _)| *peer).collect()
    }

    /// Whether a peer is kept for a stream.
    pub(crate) fn is_busy(&self, peer: &libp2p::PeerId) -> bool {
        self.peers.get(peer).is_some_and(Peer::is_busy)
    }

    /// The connections to a peer.
    pub(crate) fn connections(&self, peer: &libp2p::PeerId) -> impl Iterator<Item = ConnectionId> + '_ {
        self.peers.get(peer).into_iter().flat_map(|entry| entry.connections.keys().copied())
    }

    /// The connections that fit.
    pub(crate) fn connections_where(
        &self,
        fits: impl Fn(&libp2p::PeerId, &Address) -> bool,
    ) -> Vec<(libp2p::PeerId, ConnectionId, Address)> {
        let all =
            self.peers.iter().flat_map(|(peer, entry)| entry.connections.iter().map(move |(id, o)| (peer, id, o)));
        let fitting = all.filter(|(peer, _, open)| fits(peer, &open.connection.address));
        fitting.map(|(peer, id, open)| (*peer, *id, open.connection.address.clone())).collect()
    }

    /// Whether a peer has said that it speaks a protocol.
    pub(crate) fn speaks(&self, peer: &libp2p::PeerId, protocol: &str) -> bool {
        self.peers.get(peer).is_some_and(|entry| entry.protocols.iter().any(|p| p == protocol))
    }

    /// Notes how long a ping took, or that none came back. Whether the peer lives: it answered, or the connection has brought
    /// something else since the last ping.
    pub(crate) fn pinged(&mut self, peer: &libp2p::PeerId, connection: ConnectionId, rtt: Option<Duration>) -> bool {
        let Some(entry) = self.peers.get_mut(peer) else { return true };
        entry.rtt = rtt.or(entry.rtt);
        let Some(open) = entry.connections.get_mut(&connection) else { return true };
        // One that only takes tells so by what it takes.
        let moved = |Traffic { received, sent }| received.saturating_add(sent >> 20);
        let brought = open.meter.as_ref().map_or(0, |meter| moved(meter.total()));
        rtt.is_some() | (std::mem::replace(&mut open.brought, brought) != brought)
    }

    /// Bytes that a peer was sent over the connections that stand.
    pub(crate) fn sent_to(&self, peer: &libp2p::PeerId) -> u64 {
        let open = self.peers.get(peer).into_iter().flat_map(|entry| entry.connections.values());
        open.filter_map(|open| open.meter.as_ref()).map(|meter| meter.total().sent).fold(0, u64::saturating_add)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// How long each peer has been connected.
    pub(crate) fn ages(&self) -> impl Iterator<Item = (libp2p::PeerId, Duration)> + '_ {
        let age = |peer: &Peer| peer.connections.values().map(|open| open.began.elapsed()).max();
        self.peers.iter().map(move |(id, peer)| (*id, age(peer).unwrap_or_default()))
    }

    /// The connected daemons of our network.
    pub(crate) fn ours(&self) -> impl Iterator<Item = libp2p::PeerId> + '_ {
        self.peers.iter().filter(|(_, entry)| entry.ours).map(|(peer, _)| *peer)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &libp2p::PeerId> {
        self.peers.keys()
    }

    pub(crate) fn contains(&self, peer: &libp2p::PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// The connections that closed last, oldest first.
    pub(crate) fn closed_ones(&self) -> Vec<Closed> {
        self.closed.iter().cloned().collect()
    }

    /// Those that have said that they speak a protocol.
    pub(crate) fn speaking(&self, protocol: &str) -> Vec<PeerId> {
        let speaking = self.peers.iter().filter(|(_, entry)| entry.protocols.iter().any(|p| p == protocol));
        speaking.map(|(peer, _)| ids::from_libp2p(peer)).collect()
    }

    pub(crate) fn list(&self, standings: &Standings) -> Vec<PeerInfo> {
        self.peers.iter().map(|(id, peer)| info(id, peer, standings)).collect()
    }

    pub(crate) fn get(&self, id: &libp2p::PeerId, standings: &Standings) -> Option<PeerInfo> {
        self.peers.get(id).map(|peer| info(id, peer, standings))
    }
}

fn info(id: &libp2p::PeerId, peer: &Peer, standings: &Standings) -> PeerInfo {
    let none = Standing::default();
    let standing = standings.get(id).unwrap_or(&none);
    let topics = match standing {
        Standing { in_mesh: true, .. } => Some("mesh"),
        Standing { topics: 1.., .. } => Some("topic"),
        Standing { .. } => None,
    };
    let busy = peer.is_busy().then_some("stream");
    PeerInfo {
        peer: ids::from_libp2p(id),
        connections: peer.connections.values().map(Open::now).collect(),
        agent: peer.agent.clone(),
        protocols: peer.protocols.clone(),
        addresses: peer.addresses.clone(),
        rtt: peer.rtt,
        score: standing.score,
        gossip_ended: peer.is_mute(),
        by_protocol: by_protocol(peer),
        lost: standing.lost,
        kept: standing.wanted.iter().copied().chain(topics).chain(busy).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_that_closed_last_are_remembered() {
        let at = || ("/ip4/127.0.0.1/tcp/4001".parse().unwrap(), false);
        let (mut peers, peer) = (Table::default(), libp2p::PeerId::random());
        for n in 0..MAX_CLOSED + 3 {
            let (id, now) = (ConnectionId::new_unchecked(n), UnixMs(n as u64));
            assert!(peers.opened(peer, id, at(), None, now));
            assert!(peers.closed(&peer, id, String::new(), now));
        }
        let closed: Vec<_> = peers.closed_ones().iter().map(|one| one.closed.0).collect();
        assert_eq!(closed, (3..MAX_CLOSED as u64 + 3).collect::<Vec<_>>());
        assert!(!peers.contains(&peer));
    }

    #[test]
    fn who_comes_through_a_relay_comes_from_the_one_that_is_connected_there() {
        let (mut peers, relay) = (Table::default(), libp2p::PeerId::random());
        let way: Address = "/ip4/192.0.2.7/tcp/4001".parse().unwrap();
        peers.opened(relay, ConnectionId::new_unchecked(1), (way.clone(), true), None, UnixMs(0));
        let named = |text: &str| peers.with_relay(text.parse().unwrap());
        assert_eq!(named("/ip4/192.0.2.7/tcp/4001/p2p-circuit"), way.clone().through(&ids::from_libp2p(&relay)));
        for other in ["/ip4/192.0.2.7/tcp/4002/p2p-circuit", "/ip4/192.0.2.7/tcp/4001"] {
            assert_eq!(named(other).to_string(), other);
        }
    }

    #[test]
    fn how_long_a_peer_is_connected_does_not_depend_on_what_the_clock_is_set_to() {
        let at = || ("/ip4/127.0.0.1/tcp/4001".parse().unwrap(), false);
        let mut peers = Table::default();
        for (n, wall) in [0, 1 << 50].into_iter().enumerate() {
            let (id, peer) = (ConnectionId::new_unchecked(n), libp2p::PeerId::random());
            assert!(peers.opened(peer, id, at(), None, UnixMs(wall)));
        }
        let ages: Vec<_> = peers.ages().map(|(_, age)| age).collect();
        assert!(ages.len() == 2 && ages.iter().all(|age| *age < Duration::from_secs(60)), "{ages:?}");
    }
}
