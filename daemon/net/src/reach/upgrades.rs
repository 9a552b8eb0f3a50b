//! Which connections through relays are to become direct ones: who is asked, where is dialled, how often, and when the relay is let go of.

use std::collections::HashMap;

use libp2p::{PeerId, swarm::ConnectionId};
use p2pd_core::{address_scope::Scope, multiaddr::Multiaddr as Address, time::MonoMs};

/// Tries for one connection through a relay, and the time between two in milliseconds.
const TRIES: u8 = 3;
const AGAIN_MS: u64 = 1_000;
/// Tries with one peer in an hour, and most peers with whom they are counted.
const OF_PEER: u8 = 12;
const HOUR_MS: u64 = 3_600_000;
const MAX_COUNTED: usize = 1024;
/// After so long gossip knows the direct one, in milliseconds (`pubsub/resubscribe.rs`), and leaves the other to it.
const LEAVES_MS: u64 = 1_500;
/// For so long both stand at least, in milliseconds, and at most while the peer still sends on the one through the relay.
const BESIDE_MS: u64 = 3_000;
const BESIDE_MOST_MS: u64 = 30_000;

/// A connection through a relay.
struct Circuit {
    peer: PeerId,
    /// How far the relay's own address reaches.
    reach: Scope,
    /// The peer dialled it, so that this daemon asks.
    inbound: bool,
    tries: u8,
}

/// A connection through a relay beside which a direct one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) peer: PeerId,
    pub(crate) id: ConnectionId,
    /// Long enough for gossip to leave it.
    pub(crate) leaves: bool,
    /// Long enough for it to go when nothing comes on it.
    pub(crate) may_go: bool,
    /// Too long to wait for what still comes of gossip.
    pub(crate) must_go: bool,
}

#[derive(Default)]
pub(crate) struct Upgrades {
    circuits: HashMap<ConnectionId, Circuit>,
    /// Direct connections, and since when they stand.
    direct: HashMap<ConnectionId, (PeerId, MonoMs)>,
    /// Dials that are under way for an upgrade.
    dials: HashMap<ConnectionId, PeerId>,
    /// Whom to ask, and when.
    asks: Vec<(MonoMs, PeerId)>,
    /// Tries with each peer in the hour since then.
    tried: HashMap<PeerId, (MonoMs, u8)>,
}

impl Upgrades {
    /// Notes a connection. Whether it is what an upgrade has dialled.
    pub(crate) fn connected(
        &mut self,
        now: MonoMs,
        peer: PeerId,
        id: ConnectionId,
        address: &Address,
        inbound: bool,
    ) -> bool {
        if address.is_circuit() {
            self.circuits.insert(id, Circuit { peer, reach: address.reach(), inbound, tries: 0 });
            if inbound {
                self.asks.push((now, peer));
            }
            return false;
        }
        self.direct.insert(id, (peer, now));
        self.dials.remove(&id).is_some()
    }

    pub(crate) fn closed(&mut self, id: ConnectionId) {
        self.circuits.remove(&id);
        self.direct.remove(&id);
    }

    /// Whether a connection to a peer leads through a relay.
    pub(crate) fn is_relayed(&self, peer: &PeerId) -> bool {
        self.circuits.values().any(|circuit| circuit.peer == *peer)
    }

    fn is_direct(&self, peer: &PeerId) -> bool {
        self.direct.values().any(|(direct, _)| direct == peer)
    }

    /// Whom to ask now for a direct connection.
    pub(crate) fn due(&mut self, now: MonoMs) -> Vec<PeerId> {
        let mut due: Vec<_> = self.asks.extract_if(.., |(at, _)| *at <= now).map(|(_, peer)| peer).collect();
        due.retain(|peer| !self.is_direct(peer) && self.circuits.values().any(|circuit| circuit.peer == *peer));
        due
    }

    /// Where to dial a peer that has named these addresses; none where it is not to be dialled. It counts as a try.
    pub(crate) fn admit(&mut self, now: MonoMs, peer: PeerId, named: Vec<Address>) -> Vec<Address> {
        if self.is_direct(&peer) {
            return Vec::new();
        }
        let Some(circuit) = self.circuits.values_mut().find(|c| c.peer == peer && c.tries < TRIES) else {
            return Vec::new();
        };
        self.tried.retain(|_, (since, _)| now.since(*since) < HOUR_MS);
        if self.tried.len() >= MAX_COUNTED && !self.tried.contains_key(&peer) {
            return Vec::new();
        }
        let (_, tried) = self.tried.entry(peer).or_insert((now, 0));
        if *tried >= OF_PEER {
            return Vec::new();
        }
        *tried = tried.saturating_add(1);
        circuit.tries = circuit.tries.saturating_add(1);
        // A peer that is far away must not have us knock at doors of our own network; nor by a name, which may lead there.
        let reach = circuit.reach;
        named.into_iter().filter(|address| address.ip().is_some() && address.reach() >= reach).collect()
    }

    /// A peer is dialled for an upgrade.
    pub(crate) fn dialled(&mut self, id: ConnectionId, peer: PeerId) {
        self.dials.insert(id, peer);
    }

    /// A dial has failed. Of an upgrade, the peer, who is asked again where this daemon is the one to ask.
    pub(crate) fn failed(&mut self, now: MonoMs, id: ConnectionId) -> Option<PeerId> {
        let peer = self.dials.remove(&id)?;
        if self.circuits.values().any(|c| c.peer == peer && c.inbound && c.tries < TRIES) {
            self.asks.push((MonoMs(now.0.saturating_add(AGAIN_MS)), peer));
        }
        Some(peer)
    }

    /// Connections through relays beside which a direct one stands.
    pub(crate) fn replaced(&self, now: MonoMs) -> Vec<Replaced> {
        let beside = |peer: &PeerId| {
            let of_peer = self.direct.values().filter(|(direct, _)| direct == peer);
            of_peer.map(|(_, since)| now.since(*since)).max()
        };
        let replaced = |(id, circuit): (&ConnectionId, &Circuit)| {
            let beside = beside(&circuit.peer)?;
            let [leaves, may_go, must_go] = [LEAVES_MS, BESIDE_MS, BESIDE_MOST_MS].map(|ms| beside >= ms);
            Some(Replaced { peer: circuit.peer, id: *id, leaves, may_go, must_go })
        };
        self.circuits.iter().filter_map(replaced).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn at(address: &str) -> Address {
        address.parse().unwrap()
    }

    fn circuit(relay: &str) -> Address {
        at(&format!("{relay}/p2p/{RELAY}/p2p-circuit"))
    }

    const WORLD: &str = "/ip4/192.0.2.1/tcp/1";

    #[test]
    fn who_came_through_a_relay_is_asked_three_times() {
        let (mut upgrades, peer) = (Upgrades::default(), PeerId::random());
        assert!(!upgrades.connected(MonoMs(0), peer, id(1), &circuit(WORLD), true));
        for (n, ms) in [(10, 0), (11, 1_000), (12, 2_000)] {
            assert_eq!(upgrades.due(MonoMs(ms)), [peer], "{n}");
            assert!(upgrades.due(MonoMs(ms)).is_empty(), "once");
            assert_eq!(upgrades.admit(MonoMs(ms), peer, vec![at(WORLD)]), [at(WORLD)]);
            upgrades.dialled(id(n), peer);
            assert_eq!(upgrades.failed(MonoMs(ms), id(n)), Some(peer));
        }
        assert!(
            upgrades.due(MonoMs(9_000)).is_empty() && upgrades.admit(MonoMs(9_000), peer, vec![at(WORLD)]).is_empty()
        );
        assert_eq!(upgrades.failed(MonoMs(9_000), id(99)), None, "a dial of something else");
    }

    #[test]
    fn who_was_dialled_through_a_relay_asks_itself() {
        let (mut upgrades, peer) = (Upgrades::default(), PeerId::random());
        upgrades.connected(MonoMs(0), peer, id(1), &circuit(WORLD), false);
        assert!(upgrades.due(MonoMs(0)).is_empty());
        assert_eq!(upgrades.admit(MonoMs(0), peer, vec![at(WORLD)]).len(), 1);
        upgrades.dialled(id(2), peer);
        assert_eq!(upgrades.failed(MonoMs(0), id(2)), Some(peer));
        assert!(upgrades.due(MonoMs(60_000)).is_empty());
    }

    #[test]
    fn nobody_is_dialled_nearer_than_the_relay_or_without_one() {
        let (mut upgrades, peer) = (Upgrades::default(), PeerId::random());
        let named = || {
            let named =
                ["/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/1", "/dns4/localhost/tcp/22", "/dnsaddr/a.org", WORLD];
            named.map(at).into_iter().chain([circuit(WORLD)]).collect::<Vec<_>>()
        };
        assert!(upgrades.admit(MonoMs(0), peer, named()).is_empty(), "it is not connected through any relay");
        upgrades.connected(MonoMs(0), peer, id(1), &circuit(WORLD), true);
        assert_eq!(upgrades.admit(MonoMs(0), peer, named()), [at(WORLD)]);
        upgrades.closed(id(1));
        upgrades.connected(MonoMs(0), peer, id(2), &circuit("/ip4/10.0.0.9/tcp/1"), true);
        assert_eq!(upgrades.admit(MonoMs(0), peer, named()), [at("/ip4/10.0.0.1/tcp/1"), at(WORLD)]);
    }

    #[test]
    fn a_peer_that_comes_again_and_again_is_dialled_so_often_an_hour() {
        let (mut upgrades, peer) = (Upgrades::default(), PeerId::random());
        let mut dialled = |ms: u64| {
            let mut dialled = 0;
            for n in 0..20 {
                upgrades.connected(MonoMs(ms), peer, id(n), &circuit(WORLD), true);
                dialled += upgrades.admit(MonoMs(ms), peer, vec![at(WORLD)]).len();
                upgrades.closed(id(n));
            }
            dialled
        };
        assert_eq!([dialled(0), dialled(HOUR_MS - 1), dialled(HOUR_MS)], [12, 0, 12]);
    }

    #[test]
    fn the_relay_is_let_go_of_when_a_direct_connection_has_stood_for_a_while() {
        let (mut upgrades, peer) = (Upgrades::default(), PeerId::random());
        upgrades.connected(MonoMs(0), peer, id(1), &circuit(WORLD), true);
        upgrades.connected(MonoMs(0), PeerId::random(), id(2), &circuit(WORLD), true);
        upgrades.dialled(id(3), peer);
        assert!(upgrades.connected(MonoMs(5_000), peer, id(3), &at(WORLD), false));
        assert!(
            !upgrades.due(MonoMs(5_000)).contains(&peer) && upgrades.admit(MonoMs(0), peer, vec![at(WORLD)]).is_empty()
        );
        let goes = |ms| {
            let replaced = upgrades.replaced(MonoMs(ms));
            replaced.iter().map(|one| (one.id, [one.leaves, one.may_go, one.must_go])).collect::<Vec<_>>()
        };
        assert_eq!(goes(6_499), [(id(1), [false; 3])]);
        assert_eq!([goes(6_500), goes(7_999)], [[(id(1), [true, false, false])], [(id(1), [true, false, false])]]);
        assert_eq!([goes(8_000), goes(34_999)], [[(id(1), [true, true, false])], [(id(1), [true, true, false])]]);
        assert_eq!(goes(35_000), [(id(1), [true; 3])]);
        upgrades.closed(id(1));
        assert!(upgrades.replaced(MonoMs(9_000)).is_empty());
    }
}
