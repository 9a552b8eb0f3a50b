//! Round trips on request, by libp2p's ping protocol: 32 bytes there, and the same back.

use std::{
    io,
    time::{Duration, Instant},
};

use p2pd_core::id::PeerId;
use p2pd_net::ByteStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Node, NodeError};

const PROTOCOL: &str = "/ipfs/ping/1.0.0";
/// Longest that one may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A stream that is pinged over.
pub(crate) struct Pings {
    stream: ByteStream,
    number: u64,
}

impl Node {
    /// Makes ready to ping a peer.
    pub(crate) async fn pings(&self, peer: &PeerId) -> Result<Pings, NodeError> {
        let (stream, _) = self.open_any(peer, &[PROTOCOL.to_owned()]).await?;
        let mut pings = Pings { stream, number: 0 };
        // The first carries the negotiation of the stream, too.
        pings.next().await?;
        Ok(pings)
    }
}

impl Pings {
    /// Takes one round trip.
    pub(crate) async fn next(&mut self) -> Result<Duration, NodeError> {
        self.number = self.number.wrapping_add(1);
        let mut sent = [0; 32];
        sent.iter_mut().zip(self.number.to_le_bytes()).for_each(|(to, from)| *to = from);
        let began = Instant::now();
        let round = async {
            self.stream.write_all(&sent).await?;
            self.stream.flush().await?;
            let mut back = [0; 32];
            self.stream.read_exact(&mut back).await?;
            if back == sent { Ok(()) } else { Err(io::Error::other("the peer sent something else back")) }
        };
        let done = timeout(WITHIN, round).await.unwrap_or_else(|_| Err(io::Error::other("no answer within 10 s")));
        done.map_err(NodeError::Reset)?;
        Ok(began.elapsed())
    }
}
