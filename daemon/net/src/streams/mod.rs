//! Streams on protocols that local programs, or parts of this daemon, speak. They go around the swarm task: bytes flow between a stream and its
//! program, and yamux' or QUIC's windows hold back the writer.

pub(crate) mod behaviour;
pub(crate) mod reserved;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{self, Poll},
};

use libp2p::{StreamProtocol, core::upgrade::NegotiationError, swarm::ConnectionId};
use p2pd_core::{id::PeerId, multiaddr::Multiaddr};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};
use tokio_util::compat::FuturesAsyncReadCompatExt;

pub use self::reserved::{Reservation, StreamClass, is_own};
use self::{
    behaviour::{Acceptors, Arrived, Behaviour, OpenReply, Refused},
    reserved::{Share, Slots},
};
use crate::{
    NetError,
    commands::{Commands, WeakCommands},
    context::{Context, Effect},
    ids,
};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What carries a stream.
pub type ByteStream = Box<dyn Duplex>;

/// A stream to a peer.
pub struct PeerStream {
    /// To whom.
    pub peer: PeerId,
    /// The peer's end of the connection.
    pub address: Multiaddr,
    /// The peer opened this stream, on a connection that it dialled.
    pub has_dialled: bool,
    /// What is spoken on it.
    pub protocol: String,
    /// Its bytes.
    pub stream: ByteStream,
}

/// A stream, and its place among those of a reserved protocol.
struct Held<S> {
    stream: S,
    _place: Option<(Share, OwnedSemaphorePermit)>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub(crate) enum Command {
    Open {
        peer: libp2p::PeerId,
        on: Option<ConnectionId>,
        protocols: Vec<StreamProtocol>,
        reply: OpenReply,
    },
    /// Another protocol is accepted, or one no more.
    Changed,
}

/// Does what a handle asks. `speaks`: whether a peer has said that it speaks a protocol.
pub(crate) fn on_command(
    context: &mut Context,
    streams: &mut Behaviour,
    command: Command,
    speaks: impl Fn(&libp2p::PeerId, &StreamProtocol) -> bool,
) {
    match command {
        Command::Open { peer, on, protocols, reply } => {
            let said = protocols.iter().find(|protocol| speaks(&peer, protocol)).cloned();
            streams.open(peer, on, said, protocols, reply);
        }
        Command::Changed => changed(context, streams),
    }
}

/// Has peers told which protocols are spoken here: at once where identify can, and with the next tick for those it was just
/// exchanging the old ones with.
fn changed(context: &mut Context, streams: &mut Behaviour) {
    streams.look();
    context.want(Effect::SayProtocols);
}

/// Streams of a reserved protocol that wait for their turn.
const MAX_PENDING: usize = 64;

/// Streams that peers open on one protocol; it is free again when this is dropped.
pub struct Inbound {
    protocol: String,
    streams: mpsc::Receiver<Arrived>,
    /// Room for them, where the protocol is reserved.
    slots: Option<Slots>,
    /// Those that wait for their turn.
    pending: VecDeque<(Arrived, Share)>,
    commands: WeakCommands<Command>,
}

impl Inbound {
    /// The next one; `None` when the network has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Option<PeerStream> {
        let Some(slots) = &self.slots else {
            let arrived = self.streams.recv().await?;
            return Some(self.taken(arrived, None));
        };
        loop {
            tokio::select! {
                biased;
                turn = slots.turn(), if !self.pending.is_empty() => {
                    let (arrived, share) = self.pending.pop_front()?;
                    return Some(self.taken(arrived, Some((share, turn?))));
                }
                // Also while others wait, so that what is beyond a peer's share takes nobody's place among them.
                arrived = self.streams.recv(), if self.pending.len() < MAX_PENDING => {
                    let arrived = arrived?;
                    match slots.share(&ids::from_libp2p(&arrived.peer)) {
                        Some(share) => self.pending.push_back((arrived, share)),
                        None => tracing::debug!(peer = %arrived.peer, self.protocol, "stream reset: it has as many as it may"),
                    }
                }
            }
        }
    }

    /// Serves each in a task of its own, until the network has stopped; the tasks end with this.
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(mut self, serve: impl Fn(PeerStream) -> F) {
        let mut served = JoinSet::new();
        loop {
            tokio::select! {
                stream = self.next() => match stream {
                    Some(stream) => drop(served.spawn(serve(stream))),
                    None => return,
                },
                Some(_) = served.join_next() => {}
            }
        }
    }

    fn taken(&self, arrived: Arrived, place: Option<(Share, OwnedSemaphorePermit)>) -> PeerStream {
        let Arrived { peer, address, has_dialled, stream } = arrived;
        let stream = Box::new(Held { stream: stream.compat(), _place: place });
        PeerStream { peer: ids::from_libp2p(&peer), address, has_dialled, protocol: self.protocol.clone(), stream }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.streams.close();
        // When the queue is full, peers learn of it with the next change or ping.
        self.commands.try_say(Command::Changed);
    }
}

/// Whether reading failed because the peer refused the protocol, although it had said that it speaks it.
pub fn refused(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|e| e.downcast_ref()), Some(NegotiationError::Failed))
}

fn parse(protocol: &str) -> Result<StreamProtocol, NetError> {
    StreamProtocol::try_from_owned(protocol.to_owned())
        .map_err(|_| NetError::Protocol(format!("`{protocol}` is no protocol; one looks like /chat/1.0.0")))
}

/// Opens streams, and takes those that peers open.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: Commands<Command>,
    pub(crate) acceptors: Acceptors,
}

impl Handle {
    /// Opens a stream to a connected peer on the first of these protocols that it speaks, in one round trip, or in none if
    /// it has said so; see [`refused`].
    pub async fn open(&self, peer: &PeerId, protocols: &[String]) -> Result<PeerStream, NetError> {
        self.open_on(peer, None, protocols).await
    }

    /// The same on one of the connections to the peer.
    pub(crate) async fn open_on(
        &self,
        peer: &PeerId,
        on: Option<ConnectionId>,
        protocols: &[String],
    ) -> Result<PeerStream, NetError> {
        let name = || peer.to_string();
        let id = ids::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(name()))?;
        let wanted = protocols.iter().map(|p| parse(p)).collect::<Result<_, _>>()?;
        let lost = || NetError::Unreachable { peer: name(), fault: "the connection closed meanwhile".into() };
        let opened =
            self.commands.ask_or(|reply| Command::Open { peer: id, on, protocols: wanted, reply }, lost).await?;
        match opened {
            Ok((stream, protocol, address)) => Ok(PeerStream {
                peer: peer.clone(),
                address,
                has_dialled: false,
                protocol: protocol.to_string(),
                stream: Box::new(stream.compat()),
            }),
            Err(Refused::NotConnected) => Err(NetError::NotConnected(name())),
            Err(Refused::Unsupported) => Err(NetError::Unsupported { peer: name(), protocols: protocols.join(", ") }),
            Err(Refused::Failed(fault)) => Err(NetError::Unreachable { peer: name(), fault }),
        }
    }

    /// Takes the streams that peers open on a protocol of a program, which must not be a reserved one.
    pub async fn accept(&self, protocol: &str) -> Result<Inbound, NetError> {
        self.take(protocol, None).await
    }

    /// Reserves a protocol for a part of this daemon, and takes the streams that peers open on it.
    pub async fn reserve(&self, reservation: Reservation) -> Result<Inbound, NetError> {
        self.take(reservation.protocol, Some(reservation)).await
    }

    async fn take(&self, protocol: &str, reserved: Option<Reservation>) -> Result<Inbound, NetError> {
        let streams = self.acceptors.add(parse(protocol)?, reserved.map(|reservation| reservation.class))?;
        let slots = reserved.as_ref().map(Slots::new);
        let commands = self.commands.downgrade();
        let inbound = Inbound { protocol: protocol.to_owned(), streams, slots, pending: VecDeque::new(), commands };
        self.commands.say(Command::Changed).await?;
        Ok(inbound)
    }

    /// Whether a part of this daemon speaks a protocol, so that no program may.
    pub fn is_reserved(&self, protocol: &str) -> bool {
        self.acceptors.reserved.contains(protocol)
    }
}
