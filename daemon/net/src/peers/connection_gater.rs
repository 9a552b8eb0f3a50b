//! Lets connections in or not: what the operator has ruled, and how many come from one place. Loopback and what is
//! allowed by name is not counted.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ListenFailure},
        dummy,
    },
};
use p2pd_core::{
    access::{Crowd, Rules, Subject},
    time::MonoMs,
};

use crate::{Config, ids};

pub(crate) const DENIED: &str = "a rule denies it; `p2pctl peers rules` lists them";

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
    /// name; that shows when the connection stands.
    pub(crate) fn deny_dialling(&self, address: &Multiaddr) -> bool {
        let rules = self.read();
        let whom = match address.iter().last() {
            Some(Protocol::P2p(peer)) => Some(ids::from_libp2p(&peer)),
            _ => None,
        };
        let maybe_allowed = whom.is_none() && some_allowed(&rules);
        rules.of(whom.as_ref(), ip(address)) == Some(false) && !maybe_allowed
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
    /// Most that may be in the making.
    making: u32,
    /// Those in the making, and those that stand.
    begun: HashMap<ConnectionId, IpAddr>,
    counted: HashMap<ConnectionId, IpAddr>,
    began: Instant,
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(address) => Some(address.into()),
        // One machine is one place, however its address is written.
        Protocol::Ip6(address) => Some(IpAddr::from(address).to_canonical()),
        _ => None,
    }
}

impl Gater {
    pub(crate) fn new(config: &Config, rules: SharedRules) -> Self {
        Gater {
            rules,
            crowd: Crowd::default(),
            per_address: config.max_connections_per_address,
            new_per_address: config.new_connections_per_address,
            making: config.max_pending_connections,
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
    pub(crate) fn doubts(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        ip(address).is_none() && self.rules.read().of(Some(&ids::from_libp2p(peer)), None) != Some(true)
    }

    /// Whether a rule denies a peer at this address.
    pub(crate) fn denies(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        self.rules.read().of(Some(&ids::from_libp2p(peer)), ip(address)) == Some(false)
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
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.denies(&peer, remote) {
            return refuse(DENIED);
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
        if self.denies(&peer, address) { refuse(DENIED) } else { Ok(dummy::ConnectionHandler) }
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, endpoint, .. })
                if endpoint.is_listener() =>
            {
                self.no_longer_begins(connection_id);
                if let Some(ip) = self.counts(endpoint.get_remote_address()) {
                    self.crowd.enter(ip);
                    self.counted.insert(connection_id, ip);
                }
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.no_longer_begins(connection_id),
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
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
