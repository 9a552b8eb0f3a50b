//! Streams on protocols that local programs speak. They go around the swarm task: bytes flow between a stream and its
//! program, and yamux' or QUIC's windows hold back the writer.

use futures::StreamExt;
use libp2p::StreamProtocol;
use libp2p_stream::{AlreadyRegistered, IncomingStreams, OpenStreamError};
use p2pd_core::id::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::{Handle, NetError, peers};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to a peer.
pub type ByteStream = Box<dyn Duplex>;

/// Streams that peers open on one protocol; it is free again when this is dropped.
pub struct Inbound(IncomingStreams);

impl Inbound {
    /// The next one; `None` when the network has stopped.
    pub async fn next(&mut self) -> Option<(PeerId, ByteStream)> {
        let (peer, stream) = self.0.next().await?;
        Some((peers::from_libp2p(&peer), Box::new(stream.compat())))
    }
}

fn name(protocol: &str) -> Result<StreamProtocol, NetError> {
    StreamProtocol::try_from_owned(protocol.to_owned())
        .map_err(|_| NetError::Protocol(format!("`{protocol}` is no protocol; one looks like /chat/1.0.0")))
}

impl Handle {
    /// Opens a stream to a connected peer. Negotiation is lazy: the first bytes go with the protocol's name, and that the
    /// peer does not speak it shows only as a reset. Whoever calls has looked at what the peer says it speaks.
    pub async fn open_stream(&self, peer: &PeerId, protocol: &str) -> Result<ByteStream, NetError> {
        let id = peers::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        let opened = self.streams.clone().open_stream(id, name(protocol)?).await;
        let peer = || peer.to_string();
        Ok(Box::new(
            opened
                .map_err(|error| match error {
                    OpenStreamError::UnsupportedProtocol(_) => {
                        NetError::Unsupported { peer: peer(), protocols: protocol.into() }
                    }
                    error => NetError::Unreachable { peer: peer(), fault: error.to_string() },
                })?
                .compat(),
        ))
    }

    /// Takes the streams that peers open on a protocol.
    pub fn accept_streams(&self, protocol: &str) -> Result<Inbound, NetError> {
        let accepted = self.streams.clone().accept(name(protocol)?);
        accepted.map(Inbound).map_err(|AlreadyRegistered| NetError::Taken(protocol.to_owned()))
    }
}
