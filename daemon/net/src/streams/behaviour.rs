//! The behaviour behind protocol streams: which protocols are accepted, and who waits for a stream to open.
//!
//! Not libp2p-stream, because that drops the third of three streams that arrive at once, and tells connected peers of a
//! new protocol only when something else wakes the connection.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use libp2p::{
    InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream, StreamProtocol,
    core::{Endpoint, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, ToSwarm,
        behaviour::ConnectionEstablished,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use p2pd_core::multiaddr::Multiaddr as Address;
use tokio::sync::{mpsc, oneshot};

use super::reserved::{Reserved, StreamClass};
use crate::NetError;

/// Inbound streams of one protocol that wait to be looked at; what comes beyond is reset.
const BACKLOG: usize = 64;

/// Bytes of names of accepted protocols: identify tells them with all addresses in one message of at most 4,096 bytes, and peers
/// that get a larger one see nothing of it.
const MAX_NAMES: usize = 2048;
/// What each takes beside its name.
const NAME: usize = 3;

/// What no peer speaks. The swarm negotiates lazily: the last protocol proposed counts as agreed before the peer has
/// answered, and that it was refused shows at the first read. With this behind them, the real ones wait for the answer.
const NOBODY: StreamProtocol = StreamProtocol::new("/p2pd/nobody");

/// A stream that a peer opened.
pub(crate) struct Arrived {
    pub(super) peer: PeerId,
    /// The address it is at.
    pub(super) address: Address,
    /// It has dialled the connection.
    pub(super) has_dialled: bool,
    pub(super) stream: Stream,
}

type ByProtocol = HashMap<StreamProtocol, mpsc::Sender<Arrived>>;

/// A stream and the protocol it speaks.
type Negotiated = (Stream, StreamProtocol);

/// Those of a stream that was asked for, and the peer's address.
pub(crate) type Opened = (Stream, StreamProtocol, Address);

/// Why a stream could not be opened.
#[derive(Debug)]
pub(crate) enum Refused {
    /// No connection to the peer.
    NotConnected,
    /// The peer speaks none of the protocols.
    Unsupported,
    /// Anything else.
    Failed(String),
}

pub(crate) type OpenReply = oneshot::Sender<Result<Opened, Refused>>;

/// Who takes the streams of each protocol. An entry ends when its receiver is dropped; that a protocol is reserved remains.
#[derive(Clone)]
pub(crate) struct Acceptors {
    by_protocol: Arc<Mutex<ByProtocol>>,
    pub(super) reserved: Reserved,
}

impl Acceptors {
    pub(crate) fn new(reserved: Reserved) -> Self {
        Acceptors { by_protocol: Arc::default(), reserved }
    }

    /// Those that still listen.
    fn lock(&self) -> MutexGuard<'_, ByProtocol> {
        let mut acceptors = self.by_protocol.lock().unwrap_or_else(PoisonError::into_inner);
        acceptors.retain(|_, acceptor| !acceptor.is_closed());
        acceptors
    }

    /// Accepts streams of a protocol until the receiver is dropped; connections have to be told of either. It is a program's, or
    /// reserved for this daemon from now on.
    pub(super) fn add(
        &self,
        protocol: StreamProtocol,
        reserved: Option<StreamClass>,
    ) -> Result<mpsc::Receiver<Arrived>, NetError> {
        let name = protocol.as_ref();
        if reserved.is_none() && self.reserved.contains(name) {
            return Err(NetError::Protocol(format!("`{name}` is reserved for the daemon itself")));
        }
        let mut acceptors = self.lock();
        if acceptors.contains_key(&protocol) {
            return Err(NetError::Taken(name.to_owned()));
        }
        let told = |protocol: &StreamProtocol| protocol.as_ref().len().saturating_add(NAME);
        if acceptors.keys().map(told).fold(told(&protocol), usize::saturating_add) > MAX_NAMES {
            let why = "the protocols handled here have names of 2 KiB together; peers would not hear of more";
            return Err(NetError::Limit(why));
        }
        if let Some(class) = reserved {
            self.reserved.add(name, class);
        }
        let (acceptor, receiver) = mpsc::channel(BACKLOG);
        acceptors.insert(protocol, acceptor);
        Ok(receiver)
    }
}

/// What the behaviour asks of a connection.
#[derive(Debug)]
pub(crate) enum Ask {
    Open {
        protocols: Vec<StreamProtocol>,
        reply: OpenReply,
    },
    /// To look at the accepted protocols again; identify then tells the peer.
    Look,
}

pub(crate) struct Behaviour {
    acceptors: Acceptors,
    /// The connections, and whether a relay is between.
    connections: HashMap<(PeerId, ConnectionId), bool>,
    asks: VecDeque<(PeerId, NotifyHandler, Ask)>,
}

impl Behaviour {
    pub(crate) fn new(acceptors: Acceptors) -> Self {
        Behaviour { acceptors, connections: HashMap::new(), asks: VecDeque::new() }
    }

    /// Opens a stream on the first of the protocols that the peer speaks. It is ready to be written to at once if `said`
    /// is what the peer has said it speaks, and after a round trip otherwise. `on`: on this connection.
    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        on: Option<ConnectionId>,
        said: Option<StreamProtocol>,
        mut protocols: Vec<StreamProtocol>,
        reply: OpenReply,
    ) {
        if let Some(said) = said {
            protocols = vec![said];
        } else {
            protocols.push(NOBODY);
        }
        let to_peer = || self.connections.iter().filter(|((connected, _), _)| *connected == peer);
        if to_peer().next().is_none() {
            let _ = reply.send(Err(Refused::NotConnected));
            return;
        }
        // Beside one through a relay, which will go, a direct one.
        let any_relayed = to_peer().any(|(_, relayed)| *relayed);
        let direct = to_peer().find(|(_, relayed)| any_relayed && !**relayed);
        let chosen = on.or(direct.map(|((_, id), _)| *id));
        if on.is_some_and(|id| !self.connections.contains_key(&(peer, id))) {
            let _ = reply.send(Err(Refused::NotConnected));
            return;
        }
        let by = chosen.map_or(NotifyHandler::Any, NotifyHandler::One);
        self.asks.push_back((peer, by, Ask::Open { protocols, reply }));
    }

    /// Has every connection see which protocols are accepted now.
    pub(crate) fn look(&mut self) {
        let all = self.connections.keys().map(|(peer, id)| (*peer, NotifyHandler::One(*id), Ask::Look));
        self.asks.extend(all);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        address: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new(peer, address, true, &self.acceptors))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::new(peer, address, false, &self.acceptors))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.connections.insert((peer_id, connection_id), endpoint.is_relayed());
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.connections.remove(&(peer_id, connection_id));
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, never: Infallible) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.asks.pop_front() {
            Some((peer_id, handler, event)) => Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event }),
            None => Poll::Pending,
        }
    }
}

/// One connection's part.
pub(crate) struct Handler {
    peer: PeerId,
    address: Address,
    has_dialled: bool,
    acceptors: Acceptors,
    open: VecDeque<(Vec<StreamProtocol>, OpenReply)>,
}

impl Handler {
    fn new(peer: PeerId, address: &Multiaddr, has_dialled: bool, acceptors: &Acceptors) -> Self {
        let address = Address::from(address.clone()).without_peer();
        Handler { peer, address, has_dialled, acceptors: acceptors.clone(), open: VecDeque::new() }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Ask;
    type ToBehaviour = Infallible;
    type InboundProtocol = AnyOf;
    type OutboundProtocol = AnyOf;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyOf> {
        SubstreamProtocol::new(AnyOf(self.acceptors.lock().keys().cloned().collect()), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<AnyOf, OpenReply, Infallible>> {
        match self.open.pop_front() {
            Some((protocols, reply)) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(AnyOf(protocols), reply),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, ask: Ask) {
        // For the second it is enough that this connection is polled now.
        if let Ask::Open { protocols, reply } = ask {
            self.open.push_back((protocols, reply));
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<AnyOf, AnyOf, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                let acceptors = self.acceptors.lock();
                let (peer, address, has_dialled) = (self.peer, self.address.clone(), self.has_dialled);
                let arrived = Arrived { peer, address, has_dialled, stream };
                let taken = acceptors.get(&protocol).is_some_and(|a| a.try_send(arrived).is_ok());
                if !taken {
                    tracing::warn!(peer = %self.peer, %protocol, "stream reset: {BACKLOG} others wait for its program");
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                info,
            }) => {
                let opened = (stream, protocol, self.address.clone());
                let opened = if opened.1 == NOBODY { Err(Refused::Unsupported) } else { Ok(opened) };
                // Whoever asked may be gone.
                let _ = info.send(opened);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let _ = info.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => Refused::Unsupported,
                    StreamUpgradeError::Timeout => Refused::Failed("it did not answer in time".into()),
                    StreamUpgradeError::Io(error) => Refused::Failed(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}

/// The upgrade of a stream that is not upgraded: bytes on whichever of these protocols both speak.
pub(crate) struct AnyOf(Vec<StreamProtocol>);

impl UpgradeInfo for AnyOf {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyOf {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for AnyOf {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_one_programs_or_the_daemons() {
        let acceptors = Acceptors::new(Reserved::default());
        let name = |name: &str| StreamProtocol::try_from_owned(name.to_owned()).unwrap();
        let _ours = acceptors.add(name("/files/1"), Some(StreamClass::Bulk)).unwrap();
        let theirs = acceptors.add(name("/chat/1"), None).unwrap();
        let refused = |protocol: &str, class| acceptors.add(name(protocol), class).unwrap_err();
        assert!(refused("/files/1", None).to_string().contains("reserved for the daemon"));
        assert_eq!(refused("/chat/1", None), NetError::Taken("/chat/1".into()));
        assert_eq!(refused("/chat/1", Some(StreamClass::Live)), NetError::Taken("/chat/1".into()));
        assert!(!acceptors.reserved.contains("/chat/1"), "what failed reserves nothing");
        drop(theirs);
        assert!(acceptors.add(name("/chat/1"), None).is_ok(), "it is free again");
        assert!(acceptors.reserved.contains("/files/1"));
    }
}
