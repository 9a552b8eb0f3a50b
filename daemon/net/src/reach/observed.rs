//! Where peers see this machine.

use std::collections::{HashMap, HashSet};

use libp2p::{PeerId, swarm::ConnectionId};
use p2pd_core::multiaddr::{Multiaddr as Address, Transport};

/// A direct connection.
struct Seen {
    peer: PeerId,
    inbound: bool,
    /// This end of it, as the peer says.
    at: Option<Address>,
}

/// Bounded by the connections.
#[derive(Default)]
pub(super) struct Observed(HashMap<ConnectionId, Seen>);

impl Observed {
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId, inbound: bool) {
        self.0.insert(id, Seen { peer, inbound, at: None });
    }

    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }

    pub(super) fn note(&mut self, id: ConnectionId, at: Address) {
        if let Some(seen) = self.0.get_mut(&id) {
            seen.at = Some(at);
        }
    }

    /// How many peers see this machine at the IP address of an address.
    pub(super) fn count(&self, address: &Address) -> usize {
        let is_there = |seen: &&Seen| seen.at.as_ref().is_some_and(|at| at.ip().is_some() && at.ip() == address.ip());
        self.0.values().filter(is_there).map(|seen| seen.peer).collect::<HashSet<_>>().len()
    }

    /// Whether peers that were dialled from one port each see another one: two at least, and all of them.
    pub(super) fn ports_vary(&self) -> bool {
        [Transport::Tcp, Transport::Quic].into_iter().any(|transport| {
            let dialled = self.0.values().filter(|seen| !seen.inbound);
            let places = dialled.filter_map(|seen| Some((seen.peer, seen.at.as_ref()?)));
            let places: Vec<_> = places.filter(|(_, at)| at.transport() == transport).collect();
            let peers: HashSet<_> = places.iter().map(|(peer, _)| peer).collect();
            let ips: HashSet<_> = places.iter().map(|(_, at)| at.ip()).collect();
            let ends: HashSet<_> = places.iter().map(|(_, at)| at).collect();
            peers.len() > 1 && ips.len() == 1 && ends.len() == places.len()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections to as many peers, each dialled or not, and where it sees this machine.
    fn observed(places: &[(bool, &str)]) -> Observed {
        let mut observed = Observed::default();
        for (n, (inbound, at)) in places.iter().enumerate() {
            let id = ConnectionId::new_unchecked(n);
            observed.connected(id, PeerId::random(), *inbound);
            observed.note(id, at.parse().unwrap());
        }
        observed
    }

    #[test]
    fn a_router_that_gives_each_destination_a_port_is_told_by_two() {
        let (one, other) = ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/9001");
        for (places, varies) in [
            (vec![(false, one), (false, other)], true),
            (vec![(false, one)], false),
            (vec![(false, one), (false, one)], false),
            (vec![(false, one), (true, other)], false),
            (vec![(false, one), (false, one), (false, other)], false),
            (vec![(false, one), (false, "/ip4/192.0.2.9/tcp/9001")], false),
            (vec![(false, one), (false, "/ip4/192.0.2.1/udp/9001/quic-v1")], false),
            (
                vec![(false, "/ip4/192.0.2.1/udp/1/quic-v1"), (false, "/ip4/192.0.2.1/udp/2/quic-v1"), (false, one)],
                true,
            ),
        ] {
            assert_eq!(observed(&places).ports_vary(), varies, "{places:?}");
        }
        let mut seen = observed(&[(false, one), (true, other), (false, "/ip4/192.0.2.9/tcp/1")]);
        assert_eq!(seen.count(&one.parse().unwrap()), 2);
        seen.closed(ConnectionId::new_unchecked(0));
        assert_eq!(seen.count(&one.parse().unwrap()), 1);
    }
}
