//! Finding peers on the local network by multicast DNS. The library keeps whatever anybody there says, for as long as that says, and one that
//! invents peers would have it grow without bound. So it is off for a while where too many are found.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    mdns,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, ListenAddresses, NetworkBehaviour, NewListenAddr, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use tokio::time::Sleep;

/// Addresses of peers that are known at once.
const MOST: usize = 256;
/// How long it is off when there are more.
const REST: Duration = Duration::from_secs(600);

enum State {
    On(Box<mdns::tokio::Behaviour>),
    Off(Pin<Box<Sleep>>),
}

pub(crate) struct Lan {
    own: PeerId,
    listens: ListenAddresses,
    state: State,
}

impl Lan {
    pub(crate) fn new(own: PeerId) -> io::Result<Self> {
        let listens = ListenAddresses::default();
        let state = State::On(start(own, &listens)?);
        Ok(Lan { own, listens, state })
    }
}

/// With the addresses that it tells others.
fn start(own: PeerId, listens: &ListenAddresses) -> io::Result<Box<mdns::tokio::Behaviour>> {
    let mut started = mdns::tokio::Behaviour::new(mdns::Config::default(), own)?;
    for addr in listens.iter() {
        let listener_id = ListenerId::next();
        started.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
    }
    Ok(Box::new(started))
}

impl NetworkBehaviour for Lan {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match &mut self.state {
            State::On(mdns) => mdns.handle_pending_outbound_connection(id, peer, addresses, role),
            State::Off(_) => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.listens.on_swarm_event(&event);
        if let State::On(mdns) = &mut self.state {
            mdns.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<mdns::Event, THandlerInEvent<Self>>> {
        loop {
            match &mut self.state {
                State::On(mdns) => {
                    let told = mdns.poll(cx);
                    let known = mdns.discovered_nodes().len();
                    if known <= MOST {
                        return told;
                    }
                    tracing::warn!(
                        known,
                        "more addresses of peers on the local network than can be; not looking there for ten minutes"
                    );
                    self.state = State::Off(Box::pin(tokio::time::sleep(REST)));
                }
                State::Off(rest) => {
                    ready!(rest.as_mut().poll(cx));
                    self.state = match start(self.own, &self.listens) {
                        Ok(mdns) => State::On(mdns),
                        Err(error) => {
                            tracing::warn!(%error, "cannot look for peers on the local network");
                            State::Off(Box::pin(tokio::time::sleep(REST)))
                        }
                    };
                }
            }
        }
    }
}
