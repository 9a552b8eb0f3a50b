//! Gossipsub greets a peer once, over whichever of its connections is first to send. Two things go wrong with that, and
//! the peer hears nothing ever after, because it was never told our subscriptions:
//!
//! - A dial tries several addresses at once and keeps one connection; the greeting may go into another. So while a peer
//!   has several new inbound connections, they are shown to the protocol behind this wrapper only after a moment, when the
//!   losers are gone; what they brought until then is shown after them. A single one is shown as soon as it brings
//!   anything, which no loser does.
//! - A peer that was killed dials again before its old connection is seen to be dead, and counts as known. So a new
//!   inbound connection replaces old ones: the protocol sees those closed before the new one is there. Should an old one
//!   turn out dead only after a restart within moments, the rest is closed too, so that the peer dials again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{self, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};
use tokio::time::Sleep;

/// The losers of a dial are closed within a round trip.
const SETTLE: Duration = Duration::from_millis(250);
/// What a connection may bring before it is shown.
const MAX_BROUGHT: usize = 64;
/// A connection older than this is of another dial.
const ONE_DIAL: Duration = Duration::from_millis(400);

struct Open<E> {
    id: ConnectionId,
    endpoint: ConnectedPoint,
    since: Instant,
    /// Whether the protocol knows of it.
    shown: bool,
    /// What it brought before it was shown.
    brought: Vec<E>,
}

impl<E> Open<E> {
    fn is_old_inbound(&self) -> bool {
        self.endpoint.is_listener() && self.since.elapsed() >= ONE_DIAL
    }

    /// One dial tries no address twice.
    fn came_to(&self, address: &Multiaddr) -> bool {
        matches!(&self.endpoint, ConnectedPoint::Listener { local_addr, .. } if local_addr == address)
    }
}

pub(crate) struct Renew<B: NetworkBehaviour> {
    inner: B,
    open: HashMap<PeerId, Vec<Open<THandlerOutEvent<B>>>>,
    /// Closed for the protocol, not yet for the swarm.
    replaced: HashSet<ConnectionId>,
    closing: VecDeque<(PeerId, CloseConnection)>,
    settle: Pin<Box<Sleep>>,
}

impl<B: NetworkBehaviour> Deref for Renew<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B: NetworkBehaviour> DerefMut for Renew<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> Renew<B> {
    pub(crate) fn new(inner: B) -> Self {
        Renew {
            inner,
            open: HashMap::new(),
            replaced: HashSet::new(),
            closing: VecDeque::new(),
            settle: Box::pin(tokio::time::sleep(SETTLE)),
        }
    }

    /// Shows the protocol the connections that have settled. Returns when the next one will have.
    fn show_settled(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let peers: Vec<PeerId> = self.open.keys().copied().collect();
        peers.into_iter().filter_map(|peer| self.show(peer, |o| o.since + SETTLE <= now)).min()
    }

    /// Shows the protocol those connections of a peer, and what they brought. Returns when the next one will have settled.
    fn show(&mut self, peer_id: PeerId, which: impl Fn(&Open<THandlerOutEvent<B>>) -> bool) -> Option<Instant> {
        let open = self.open.get_mut(&peer_id)?;
        let mut other_established = open.iter().filter(|o| o.shown).count();
        let mut next: Option<Instant> = None;
        for connection in open.iter_mut().filter(|o| !o.shown) {
            if !which(connection) {
                let settled = connection.since + SETTLE;
                next = Some(next.map_or(settled, |at| at.min(settled)));
                continue;
            }
            connection.shown = true;
            self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id: connection.id,
                endpoint: &connection.endpoint,
                failed_addresses: &[],
                other_established,
            }));
            other_established = other_established.saturating_add(1);
            for event in connection.brought.drain(..) {
                self.inner.on_connection_handler_event(peer_id, connection.id, event);
            }
        }
        next
    }

    /// Closes what a peer dialled before.
    fn replace(&mut self, peer_id: PeerId, address: &Multiaddr) {
        let Some(open) = self.open.get_mut(&peer_id) else { return };
        let (old, kept): (Vec<_>, Vec<_>) = open.drain(..).partition(|o| o.is_old_inbound() || o.came_to(address));
        *open = kept;
        let mut remaining_established = open.len().saturating_add(old.len());
        for Open { id, endpoint, .. } in &old {
            remaining_established = remaining_established.saturating_sub(1);
            tracing::debug!(peer = %peer_id, "dialled anew; its connection from before is closed");
            self.inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id: *id,
                endpoint,
                cause: None,
                remaining_established,
            }));
            self.replaced.insert(*id);
            self.closing.push_back((peer_id, CloseConnection::One(*id)));
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Renew<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.replace(peer, local);
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                let open = self.open.entry(event.peer_id).or_default();
                let (id, endpoint, since) = (event.connection_id, event.endpoint.clone(), Instant::now());
                let other_established = open.iter().filter(|o| o.shown).count();
                let shown = !endpoint.is_listener();
                open.push(Open { id, endpoint, since, shown, brought: Vec::new() });
                if shown {
                    let event = ConnectionEstablished { other_established, ..event };
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(event));
                } else if self.settle.is_elapsed() {
                    self.settle.as_mut().reset((since + SETTLE).into());
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if self.replaced.remove(&event.connection_id) {
                    return;
                }
                let open = self.open.entry(event.peer_id).or_default();
                let at = open.iter().position(|o| o.id == event.connection_id);
                let closed = at.map(|at| open.swap_remove(at));
                let remaining_established = open.len();
                if closed.is_some_and(|c| c.is_old_inbound()) && open.iter().any(|o| o.endpoint.is_listener()) {
                    self.closing.push_back((event.peer_id, CloseConnection::All));
                }
                if open.is_empty() {
                    self.open.remove(&event.peer_id);
                }
                let event = ConnectionClosed { remaining_established, ..event };
                self.inner.on_swarm_event(FromSwarm::ConnectionClosed(event));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.replaced.contains(&id) {
            return;
        }
        let open = self.open.get_mut(&peer).map(Vec::as_mut_slice).unwrap_or_default();
        let others = open.iter().any(|o| o.id != id && !o.shown);
        match open.iter_mut().find(|o| o.id == id && !o.shown) {
            Some(hidden) => {
                hidden.brought.push(event);
                if !others || hidden.brought.len() >= MAX_BROUGHT {
                    self.show(peer, |o| o.id == id);
                }
            }
            None => self.inner.on_connection_handler_event(peer, id, event),
        }
    }

    fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection });
        }
        while self.settle.as_mut().poll(cx).is_ready() {
            let Some(next) = self.show_settled() else { break };
            self.settle.as_mut().reset(next.into());
        }
        self.inner.poll(cx)
    }
}
