//! A behaviour of the library with something of ours between it and the swarm. All that a behaviour is told and wants passes here.

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

/// What passes in and out: everything, where a filter says nothing else.
pub(crate) trait Filter<B: NetworkBehaviour>: 'static {
    /// Tells the behaviour of what has happened, as far as it may know.
    fn tell(&mut self, behaviour: &mut B, event: FromSwarm<'_>) {
        behaviour.on_swarm_event(event);
    }

    /// Hands the behaviour what its handler of a connection brings.
    fn bring(&mut self, behaviour: &mut B, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<B>) {
        behaviour.on_connection_handler_event(peer, id, event);
    }

    /// Whether a peer may be dialled at an address that the behaviour knows.
    fn may_dial(&mut self, _: &mut B, _peer: Option<PeerId>, _address: &Multiaddr) -> bool {
        true
    }

    /// Whether what the behaviour wants is done.
    fn passes(&mut self, _: &Wish<B>) -> bool {
        true
    }

    /// What is to be done beside, before what the behaviour wants.
    fn poll(&mut self, _: &mut B, _: &mut Context<'_>) -> Option<Wish<B>> {
        None
    }
}

pub(crate) struct Filtered<B, F> {
    pub(crate) behaviour: B,
    pub(crate) filter: F,
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
        let mut known = self.behaviour.handle_pending_outbound_connection(id, peer, addresses, role)?;
        known.retain(|address| self.filter.may_dial(&mut self.behaviour, peer, address));
        Ok(known)
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
        self.filter.bring(&mut self.behaviour, peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wish<Self>> {
        if let Some(wish) = self.filter.poll(&mut self.behaviour, cx) {
            return Poll::Ready(wish);
        }
        loop {
            match self.behaviour.poll(cx) {
                Poll::Ready(wish) if !self.filter.passes(&wish) => {}
                other => return other,
            }
        }
    }
}
