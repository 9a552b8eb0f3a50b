//! A behaviour of the library that is told less than happens, or that has less of what it wants done.

use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

/// What a behaviour wants done.
pub(crate) type Wish<B> = ToSwarm<<B as NetworkBehaviour>::ToSwarm, THandlerInEvent<B>>;

/// What passes in and out.
pub(crate) trait Filter<B: NetworkBehaviour>: 'static {
    /// Tells the behaviour of what has happened, as far as it may know.
    fn tell(&mut self, behaviour: &mut B, event: FromSwarm<'_>);

    /// Whether what the behaviour wants is done.
    fn passes(&mut self, wish: &Wish<B>) -> bool;
}

pub(crate) struct Filtered<B, F> {
    behaviour: B,
    filter: F,
}

impl<B, F> Filtered<B, F> {
    pub(crate) fn new(behaviour: B, filter: F) -> Self {
        Filtered { behaviour, filter }
    }
}

impl<B, F> Deref for Filtered<B, F> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.behaviour
    }
}

impl<B, F> DerefMut for Filtered<B, F> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.behaviour
    }
}

impl<B: NetworkBehaviour, F: Filter<B>> NetworkBehaviour for Filtered<B, F> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.behaviour.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.behaviour.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.behaviour.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.behaviour.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.filter.tell(&mut self.behaviour, event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.behaviour.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wish<Self>> {
        loop {
            match self.behaviour.poll(cx) {
                Poll::Ready(wish) if !self.filter.passes(&wish) => {}
                other => return other,
            }
        }
    }
}
