//! Lets connections in or not: what the operator has ruled, and how many come from one place. Loopback and what is
//! allowed by name is not counted.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ListenFailure},
        dummy,
    },
};
use p2pd_core::{
    connection_rules::{Crowd, Rules, Subject},
    id::PeerId as CoreId,
    multiaddr::{Host, Multiaddr as Address},
    time::MonoMs,
};

use crate::{Network, ids};

/// Of all connections, the part that may come through relays.
const RELAYED_SHARE: u32 = 4;

pub(crate) const DENIED: &str = "a rule denies it; PeerService.ListRules lists them";

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) &'static str);

fn refuse<T>(why: &'static str) -> Result<T, ConnectionDenied> {
    Err(ConnectionDenied::new(Refused(why)))
}

/// The rules in force.
#[derive(Clone, Default)]
pub(crate) struct SharedRules(Arc<RwLock<Rules>>);

impl SharedRules {
    fn read(&self) -> RwLockReadGuard<'_, Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody at this address may be dialled. One that does not say whose it is may be that of a peer who is allowed by
    /// name; that shows when the connection stands. Over a relay, the relay is who is dialled.
    pub(crate) fn deny_dialling(&self, address: &Multiaddr) -> bool {
        let rules = self.read();
        let address = Address::from(address.clone());
        let whom = if address.is_circuit() { address.relay().map(|relay| relay.peer) } else { address.peer() };
        let maybe_allowed = whom.is_none() && some_allowed(&rules);
        denied(&rules, whom.as_ref(), address.dialled_ips()) && !maybe_allowed
    }
}

/// Whether a peer is allowed by name.
fn some_allowed(rules: &Rules) -> bool {
    rules.iter().any(|(subject, allow)| allow && matches!(subject, Subject::Peer(_)))
}

pub(crate) struct Gater {
    rules: SharedRules,
    crowd: Crowd,
    per_address: u32,
    new_per_address: u32,
    /// Peers that came through relays, and most of them: they have no address that could be counted.
    relayed: HashSet<ConnectionId>,
    max_relayed: usize,
    /// Most that may be in the making.
    making: u32,
    /// Those in the making, and those that stand.
    begun: HashMap<ConnectionId, IpAddr>,
    counted: HashMap<ConnectionId, IpAddr>,
    began: Instant,
}

/// The IP address of the peer at the other end. `None` behind a relay: a rule of the relay's network is not about the peer, and who
/// comes over a relay is counted with the relay's own connection.
fn ip(address: &Multiaddr) -> Option<IpAddr> {
    Address::from(address.clone()).ip()
}

/// Whether the rules deny somebody at one of these addresses; where there is none, wherever he is.
fn denied(rules: &Rules, peer: Option<&CoreId>, mut ips: impl Iterator<Item = IpAddr>) -> bool {
    let denies = |ip| rules.of(peer, ip) == Some(false);
    match ips.next() {
        None => denies(None),
        Some(first) => denies(Some(first)) || ips.any(|ip| denies(Some(ip))),
    }
}

impl Gater {
    pub(crate) fn new(network: &Network, rules: SharedRules) -> Self {
        Gater {
            rules,
            crowd: Crowd::default(),
            per_address: network.max_connections_per_address,
            new_per_address: network.new_connections_per_address,
            relayed: HashSet::new(),
            max_relayed: (network.max_connections / RELAYED_SHARE) as usize,
            making: network.max_pending_connections,
            begun: HashMap::new(),
            counted: HashMap::new(),
            began: Instant::now(),
        }
    }

    /// Puts rules in place of those before. Tells whether a range is denied now that was not.
    pub(crate) fn set(&mut self, rules: Rules) -> bool {
        let before = std::mem::replace(&mut *self.rules.0.write().unwrap_or_else(PoisonError::into_inner), rules);
        let denied = |rules: &Rules| -> Vec<Subject> {
            let ranges = rules.iter().filter(|(subject, allow)| !allow && matches!(subject, Subject::Range(_)));
            ranges.map(|(subject, _)| subject.clone()).collect()
        };
        let before = denied(&before);
        denied(&self.rules.read()).iter().any(|subject| !before.contains(subject))
    }

    /// Whether a connection that was dialled by name may lead to a range that is denied.
    pub(crate) fn doubts(&self, peer: &PeerId, address: &Address) -> bool {
        // Where the name of a relay leads, its own connection tells.
        let by_name = !address.is_circuit() && matches!(address.dialled_host(), Some(Host::Name(_)));
        by_name && self.rules.read().of(Some(&ids::from_libp2p(peer)), None) != Some(true)
    }

    /// Whether a rule denies a peer at this address.
    pub(crate) fn denies(&self, peer: &PeerId, address: &Address) -> bool {
        let own = address.dialled_ips().filter(|_| !address.is_circuit());
        denied(&self.rules.read(), Some(&ids::from_libp2p(peer)), own)
    }

    /// The address of an inbound connection that counts.
    fn counts(&self, address: &Multiaddr) -> Option<IpAddr> {
        ip(address).filter(|ip| !ip.is_loopback() && self.rules.read().of(None, Some(*ip)) != Some(true))
    }

    /// Admits a connection that begins, and counts it.
    fn begin(&mut self, id: ConnectionId, ip: IpAddr) -> Result<(), &'static str> {
        let now = MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.crowd.admit(now, ip, self.per_address, self.new_per_address)?;
        self.crowd.begin(ip, self.making)?;
        self.begun.insert(id, ip);
        Ok(())
    }

    /// Notes that a connection stands, or never will.
    fn no_longer_begins(&mut self, id: ConnectionId) {
        if let Some(ip) = self.begun.remove(&id) {
            self.crowd.end(ip);
        }
    }
}

impl NetworkBehaviour for Gater {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        // Who it is shows later; it may be somebody who is allowed by name.
        let denied = {
            let rules = self.rules.read();
            rules.of(None, ip(remote)) == Some(false) && !some_allowed(&rules)
        };
        if denied {
            return refuse(DENIED);
        }
        match self.counts(remote).map(|ip| self.begin(id, ip)) {
            Some(Err(why)) => refuse(why),
            _ => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.denies(&peer, &remote.clone().into()) {
            return refuse(DENIED);
        }
        if Address::from(local.clone()).is_circuit() && self.relayed.len() >= self.max_relayed {
            return refuse("too many connections through relays");
        }
        // Once more: many that were made at once may all have found room when they began.
        match self.counts(remote).map(|ip| self.crowd.room(ip, self.per_address)) {
            Some(Err(why)) => refuse(why),
            _ => Ok(dummy::ConnectionHandler),
        }
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let peer = peer.map(|peer| ids::from_libp2p(&peer));
        if self.rules.read().of(peer.as_ref(), None) == Some(false) { refuse(DENIED) } else { Ok(Vec::new()) }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.denies(&peer, &address.clone().into()) { refuse(DENIED) } else { Ok(dummy::ConnectionHandler) }
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, endpoint, .. })
                if endpoint.is_listener() =>
            {
                self.no_longer_begins(connection_id);
                if endpoint.is_relayed() {
                    self.relayed.insert(connection_id);
                }
                if let Some(ip) = self.counts(endpoint.get_remote_address()) {
                    self.crowd.enter(ip);
                    self.counted.insert(connection_id, ip);
                }
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.no_longer_begins(connection_id),
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.relayed.remove(&connection_id);
                if let Some(ip) = self.counted.remove(&connection_id) {
                    self.crowd.leave(ip);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, never: THandlerOutEvent<Self>) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn gate(rules: &[(&str, bool)]) -> Gater {
        let mut gate = Gater {
            rules: SharedRules::default(),
            crowd: Crowd::default(),
            per_address: 2,
            new_per_address: 1,
            relayed: HashSet::new(),
            max_relayed: 2,
            making: 64,
            begun: HashMap::new(),
            counted: HashMap::new(),
            began: Instant::now(),
        };
        let mut all = Rules::default();
        rules.iter().for_each(|(subject, allow)| assert!(all.set(subject.parse().unwrap(), *allow)));
        gate.set(all);
        gate
    }

    fn circuit(peer: &PeerId) -> Multiaddr {
        format!("/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{peer}").parse().unwrap()
    }

    fn begin(gate: &mut Gater, n: usize, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(n), &Multiaddr::empty(), remote)
    }

    #[test]
    fn a_rule_of_the_relays_network_is_not_about_the_peer_behind_it() {
        let peer = PeerId::random();
        let gate = |rules: &[(&str, bool)]| gate(rules).denies(&peer, &circuit(&peer).into());
        assert!(!gate(&[("192.0.2.0/24", false)]));
        assert!(!gate(&[(RELAY, false)]));
        assert!(gate(&[(peer.to_string().as_str(), false)]), "the peer itself");
        assert!(
            gate(&[(peer.to_string().as_str(), false), ("192.0.2.0/24", true)]),
            "the relay's network says nothing for it"
        );
    }

    #[test]
    fn a_relay_that_is_denied_is_not_dialled_for_anybody() {
        let peer = PeerId::random();
        let denies = |rules: &[(&str, bool)]| gate(rules).rules.deny_dialling(&circuit(&peer));
        assert!(denies(&[("192.0.2.0/24", false)]) && denies(&[(RELAY, false)]));
        assert!(denies(&[("192.0.2.0/24", false), (&peer.to_string(), true)]), "who is allowed is another");
        assert!(!denies(&[("192.0.2.0/24", false), (RELAY, true)]));
    }

    #[test]
    fn who_comes_over_one_relay_is_not_counted_as_one_address() {
        let mut gate = gate(&[]);
        for n in 0..20 {
            begin(&mut gate, n, &circuit(&PeerId::random())).unwrap();
        }
        assert!(gate.begun.is_empty());
        let direct = "/ip4/192.0.2.7/tcp/5001".parse().unwrap();
        for n in 20..22 {
            begin(&mut gate, n, &direct).unwrap();
        }
        assert_eq!(gate.begun.len(), 2);
    }

    #[test]
    fn a_circuit_whose_relay_has_a_name_is_not_doubted_and_a_name_is() {
        let (gate, peer) = (gate(&[("192.0.2.0/24", false)]), PeerId::random());
        let named: Address = "/dns4/radio.example.org/tcp/1".parse().unwrap();
        assert!(gate.doubts(&peer, &named));
        let over: Address = format!("{named}/p2p/{RELAY}/p2p-circuit").parse().unwrap();
        assert!(!gate.doubts(&peer, &over));
    }

    #[test]
    fn an_address_with_several_hosts_is_denied_where_one_is() {
        let gate = gate(&[("192.0.2.0/24", false)]);
        for address in ["/ip4/198.51.100.1/tcp/1/ip4/192.0.2.7/tcp/22", "/dns4/a.org/ip4/192.0.2.7/tcp/22"] {
            assert!(gate.rules.deny_dialling(&address.parse().unwrap()), "{address}");
            assert!(gate.denies(&PeerId::random(), &address.parse().unwrap()), "{address}");
        }
        assert!(!gate.rules.deny_dialling(&"/ip4/198.51.100.1/tcp/1".parse().unwrap()));
    }
}
