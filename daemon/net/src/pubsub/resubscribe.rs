//! Gossipsub greets a peer once, over whichever of its connections is first to send. Two things go wrong with that, and
//! the peer hears nothing ever after, because it was never told our subscriptions:
//!
//! - A dial tries several addresses at once and keeps one connection; the greeting may go into another.
//! - A peer that was killed dials again before its old connection is seen to be dead, and counts as known.
//!
//! Whoever dials has no other connection that it dialled. So an inbound connection is shown to the protocol
//! when it brings something, which the losers of a dial never do; then the peer's other inbound connections, and
//! outbound ones of an earlier time, are closed, and it is shown when they are gone, with what it has brought. A peer that
//! brings nothing is shown after a moment. What still goes wrong, `peers/silent_peers.rs` finds.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    task::Context,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    core::ConnectedPoint,
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionId, FromSwarm, NetworkBehaviour, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
    },
};
use tokio::time::Sleep;

use crate::swarm::filtered::{Filter, Filtered, Wish};

/// When a connection is shown that brings nothing, or waits for others to be gone.
const SETTLE: Duration = Duration::from_secs(1);
/// What a connection may bring before it is shown.
const MAX_BROUGHT: usize = 64;
/// Two peers that dial each other at once both have the other's connection within this time.
const AT_ONCE: Duration = Duration::from_millis(500);

struct Open<E> {
    id: ConnectionId,
    endpoint: ConnectedPoint,
    since: Instant,
    /// Whether the protocol knows of it.
    shown: bool,
    /// Whether we have it closed.
    closing: bool,
    /// What it brought before it was shown.
    brought: Vec<E>,
}

/// The protocol with its connections shown in time.
pub(crate) type Resubscribe<B> = Filtered<B, Connections<B>>;

pub(crate) struct Connections<B: NetworkBehaviour> {
    open: HashMap<PeerId, Vec<Open<THandlerOutEvent<B>>>>,
    to_close: VecDeque<(PeerId, ConnectionId)>,
    settle: Pin<Box<Sleep>>,
}

impl<B: NetworkBehaviour> Default for Connections<B> {
    fn default() -> Self {
        let settle = Box::pin(tokio::time::sleep(SETTLE));
        Connections { open: HashMap::new(), to_close: VecDeque::new(), settle }
    }
}

impl<B: NetworkBehaviour> Connections<B> {
    /// Shows the protocol the connections that have waited long enough. Returns when the next one will have.
    fn show_settled(&mut self, inner: &mut B) -> Option<Instant> {
        let now = Instant::now();
        let hidden = self.open.iter().flat_map(|(peer, open)| open.iter().map(move |o| (*peer, o)));
        let hidden: Vec<_> = hidden.filter(|(_, o)| !o.shown).map(|(peer, o)| (peer, o.id, o.since + SETTLE)).collect();
        for (peer, id, _) in hidden.iter().filter(|(.., settled)| *settled <= now) {
            self.show(inner, *peer, *id);
        }
        hidden.iter().map(|(.., settled)| *settled).filter(|settled| *settled > now).min()
    }

    /// Shows the protocol a connection and what it brought.
    fn show(&mut self, inner: &mut B, peer_id: PeerId, connection_id: ConnectionId) {
        let Some(open) = self.open.get_mut(&peer_id) else { return };
        let other_established = open.iter().filter(|o| o.shown).count();
        let Some(connection) = open.iter_mut().find(|o| o.id == connection_id && !o.shown) else { return };
        connection.shown = true;
        inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint: &connection.endpoint,
            failed_addresses: &[],
            other_established,
        }));
        for event in connection.brought.drain(..) {
            inner.on_connection_handler_event(peer_id, connection_id, event);
        }
    }

    /// Has the connections closed that `alive` replaces.
    fn replace(&mut self, peer: PeerId, alive: ConnectionId) {
        for other in self.open.get_mut(&peer).into_iter().flatten().filter(|o| o.id != alive && !o.closing) {
            if other.endpoint.is_listener() || other.since.elapsed() >= AT_ONCE {
                other.closing = true;
                self.to_close.push_back((peer, other.id));
            }
        }
    }

    /// Shows the connection that has brought something, once nothing stands beside it that is going.
    fn show_alive(&mut self, inner: &mut B, peer: PeerId) {
        let open = self.open.get(&peer).map(Vec::as_slice).unwrap_or_default();
        let alive = open.iter().find(|o| !o.shown && !o.closing && !o.brought.is_empty());
        if let Some(alive) = alive
            && (alive.brought.len() >= MAX_BROUGHT || !open.iter().any(|o| o.closing))
        {
            let id = alive.id;
            self.show(inner, peer, id);
        }
    }
}

impl<B: NetworkBehaviour> Filter<B> for Connections<B> {
    fn tell(&mut self, inner: &mut B, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                let open = self.open.entry(event.peer_id).or_default();
                let (id, endpoint, since) = (event.connection_id, event.endpoint.clone(), Instant::now());
                let other_established = open.iter().filter(|o| o.shown).count();
                let shown = !endpoint.is_listener();
                open.push(Open { id, endpoint, since, shown, closing: false, brought: Vec::new() });
                if shown {
                    let event = ConnectionEstablished { other_established, ..event };
                    inner.on_swarm_event(FromSwarm::ConnectionEstablished(event));
                } else if self.settle.is_elapsed() {
                    self.settle.as_mut().reset((since + SETTLE).into());
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                // The protocol made a handler for hidden ones, too, and counts those.
                let open = self.open.entry(event.peer_id).or_default();
                open.retain(|o| o.id != event.connection_id);
                let remaining_established = open.len();
                if open.is_empty() {
                    self.open.remove(&event.peer_id);
                }
                let event = ConnectionClosed { remaining_established, ..event };
                inner.on_swarm_event(FromSwarm::ConnectionClosed(event));
                self.show_alive(inner, event.peer_id);
            }
            other => inner.on_swarm_event(other),
        }
    }

    fn bring(&mut self, inner: &mut B, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<B>) {
        let open = self.open.get_mut(&peer).map(Vec::as_mut_slice).unwrap_or_default();
        let Some(hidden) = open.iter_mut().find(|o| o.id == id && !o.shown) else {
            return inner.on_connection_handler_event(peer, id, event);
        };
        if hidden.closing {
            return;
        }
        hidden.brought.push(event);
        if hidden.brought.len() == 1 {
            self.replace(peer, id);
        }
        self.show_alive(inner, peer);
    }

    fn poll(&mut self, inner: &mut B, cx: &mut Context<'_>) -> Option<Wish<B>> {
        if let Some((peer_id, id)) = self.to_close.pop_front() {
            return Some(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
        }
        while self.settle.as_mut().poll(cx).is_ready() {
            let Some(next) = self.show_settled(inner) else { break };
            self.settle.as_mut().reset(next.into());
        }
        None
    }
}
