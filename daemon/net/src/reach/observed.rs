//! Where peers see this machine.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use libp2p::{PeerId, multiaddr::Protocol, swarm::ConnectionId};
use p2pd_core::multiaddr::{Multiaddr as Address, Transport};

use super::reservations::network;

/// A direct connection.
struct Seen {
    peer: PeerId,
    /// The network of the world that the peer is in.
    network: Option<IpNet>,
    inbound: bool,
    /// This end of it, as the peer says.
    at: Option<Address>,
}

/// Bounded by the connections.
#[derive(Default)]
pub(super) struct Observed(HashMap<ConnectionId, Seen>);

impl Observed {
    pub(super) fn connected(&mut self, id: ConnectionId, peer: PeerId, address: &Address, inbound: bool) {
        self.0.insert(id, Seen { peer, network: network(address), inbound, at: None });
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

    /// Whether this machine may have the IP address of an address: no other one is seen from more networks. Only peers that were dialled
    /// are believed: whoever comes here may say anything, under many names.
    pub(super) fn is_credible(&self, address: &Address) -> bool {
        let Some(ip) = address.ip() else { return false };
        let mut seen: HashMap<IpAddr, HashSet<IpNet>> = HashMap::new();
        for (at, network) in
            self.0.values().filter(|seen| !seen.inbound).filter_map(|seen| Some((seen.at.as_ref()?, seen.network?)))
        {
            if let Some(at) = at.ip().filter(|at| at.is_ipv4() == ip.is_ipv4()) {
                seen.entry(at).or_default().insert(network);
            }
        }
        let most = seen.values().map(HashSet::len).max().unwrap_or(0);
        seen.get(&ip).is_some_and(|networks| networks.len() == most)
    }

    /// Whether peers that were dialled from one port each see another one: two at least, and all of them, and none sees one on which this
    /// daemon listens. A router that keeps ports gives another one only where the port is taken.
    pub(super) fn ports_vary(&self, listens: &HashSet<Address>) -> bool {
        let own: HashSet<u16> = listens.iter().filter_map(port).collect();
        [Transport::Tcp, Transport::Quic].into_iter().any(|transport| {
            let dialled = self.0.values().filter(|seen| !seen.inbound);
            let places = dialled.filter_map(|seen| Some((seen.peer, seen.at.as_ref()?)));
            let places: Vec<_> = places.filter(|(_, at)| at.transport() == transport).collect();
            let peers: HashSet<_> = places.iter().map(|(peer, _)| peer).collect();
            let ips: HashSet<_> = places.iter().map(|(_, at)| at.ip()).collect();
            let ends: HashSet<_> = places.iter().map(|(_, at)| at).collect();
            let is_kept = places.iter().filter_map(|(_, at)| port(at)).any(|port| own.contains(&port));
            peers.len() > 1 && ips.len() == 1 && ends.len() == places.len() && !is_kept
        })
    }
}

/// The port of TCP or UDP.
fn port(address: &Address) -> Option<u16> {
    libp2p::Multiaddr::from(address.clone()).iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections to as many peers, each dialled or not, and where it sees this machine.
    fn observed(places: &[(bool, &str)]) -> Observed {
        let mut observed = Observed::default();
        for (n, (inbound, at)) in places.iter().enumerate() {
            let id = ConnectionId::new_unchecked(n);
            // Each in a network of its own.
            let from = format!("/ip4/45.{n}.0.1/tcp/1").parse().unwrap();
            observed.connected(id, PeerId::random(), &from, *inbound);
            observed.note(id, at.parse().unwrap());
        }
        observed
    }

    #[test]
    fn a_router_that_gives_each_destination_a_port_is_told_by_two() {
        let (one, other) = ("/ip4/192.0.2.1/tcp/9000", "/ip4/192.0.2.1/tcp/9001");
        let listens = HashSet::from(["/ip4/192.168.1.2/tcp/4001".parse().unwrap()]);
        for (places, varies) in [
            (vec![(false, one), (false, other)], true),
            (vec![(false, one), (false, "/ip4/192.0.2.1/tcp/4001")], false),
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
            assert_eq!(observed(&places).ports_vary(&listens), varies, "{places:?}");
        }
        let mut seen = observed(&[(false, one), (true, other), (false, "/ip4/192.0.2.9/tcp/1")]);
        assert_eq!(seen.count(&one.parse().unwrap()), 2);
        seen.closed(ConnectionId::new_unchecked(0));
        assert_eq!(seen.count(&one.parse().unwrap()), 1);
    }

    #[test]
    fn who_comes_here_is_not_believed_nor_is_one_of_many_who_were_dialled() {
        let (real, made_up) = ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.77/tcp/4001");
        for (places, credible) in [
            (vec![(false, real)], [true, false]),
            (vec![(true, made_up), (true, made_up)], [false, false]),
            (vec![(false, real), (true, made_up), (true, made_up)], [true, false]),
            (vec![(false, real), (false, real), (false, made_up)], [true, false]),
            (vec![(false, real), (false, made_up)], [true, true]),
            (vec![(false, real), (false, "/ip6/2001:db8::1/tcp/1"), (false, "/ip6/2001:db8::1/tcp/2")], [true, false]),
        ] {
            let is_credible = |address: &str| observed(&places).is_credible(&address.parse().unwrap());
            assert_eq!([real, made_up].map(is_credible), credible, "{places:?}");
        }
        // Many names of one network are one.
        let mut many = observed(&[(false, real)]);
        for n in 1..9 {
            let id = ConnectionId::new_unchecked(n);
            many.connected(id, PeerId::random(), &format!("/ip4/45.99.0.{n}/tcp/1").parse().unwrap(), false);
            many.note(id, made_up.parse().unwrap());
        }
        assert!(many.is_credible(&real.parse().unwrap()));
    }
}
