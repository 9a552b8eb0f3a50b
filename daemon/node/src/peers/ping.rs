//! Round trips, by libp2p's ping protocol: 32 bytes there, and the same back. On request, before the end, and to see whether
//! a peer that was dialled lets us stay.

use std::{
    io,
    time::{Duration, Instant},
};

use futures::future::join_all;
use p2pd_core::id::PeerId;
use p2pd_net::{ByteStream, NetError, UNSHARED};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::broadcast::error::RecvError,
    time::timeout,
};

use super::{Peers, PeersError};

const PROTOCOL: &str = "/ipfs/ping/1.0.0";
/// Longest that one may take.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest to wait for all peers at the end, and for the word of a new one.
const LAST: Duration = Duration::from_secs(1);

impl Peers {
    /// Takes one round trip to a peer.
    ///
    /// On a stream of its own, which is opened in the same round trip: rust-libp2p answers over the newest stream alone, and
    /// over QUIC, a second time on one stream, only once something else wakes the connection.
    pub async fn ping(&self, peer: &PeerId) -> Result<Duration, PeersError> {
        let trip = async {
            match self.round_trip(peer).await {
                // The daemon's own ping, each 8 s, may have come between.
                Err(PeersError::Reset(_)) => self.round_trip(peer).await,
                other => other,
            }
        };
        let late = || NetError::Unreachable { peer: peer.to_string(), fault: "no answer within 10 s".into() };
        timeout(WITHIN, trip).await.unwrap_or_else(|_| Err(late().into()))
    }

    /// Dials a multiaddr that ends in `/p2p/<peer id>`. A peer that denies us says so by hanging up, once it knows who we are.
    pub async fn connect(&self, address: &str) -> Result<PeerId, PeersError> {
        let peer = self.0.with.net.dial.connect(address).await?;
        let mut changes = self.0.changed.subscribe();
        let gone = async {
            let answer = match self.answer_over_what_stands(&peer).await {
                // The daemon's own ping may have come between.
                Err(PeersError::Reset(_)) => self.answer_over_what_stands(&peer).await,
                other => other,
            };
            match answer {
                Ok(_) | Err(PeersError::Net(NetError::Unsupported { .. })) => {}
                // Its stream ends a little before it does.
                Err(_) => while self.get(&peer).await.is_ok() && changes.recv().await != Err(RecvError::Closed) {},
            }
        };
        let _ = timeout(LAST, gone).await;
        match self.get(&peer).await {
            Err(PeersError::Net(NetError::NotConnected(_))) => {
                let closed = self.0.with.net.peers.closed().await?;
                let why = closed.into_iter().rev().find(|closed| closed.peer.as_ref() == Some(&peer)).map(|c| c.why);
                let fault = why.filter(|why| why.starts_with(UNSHARED));
                let fault =
                    fault.unwrap_or_else(|| "it hung up at once; it may deny this daemon, or have no room".into());
                Err(NetError::Unreachable { peer: peer.to_string(), fault }.into())
            }
            other => other.map(|_| peer),
        }
    }

    /// Takes one round trip to every peer, so that each connection has had its turn with all that was sent before. Over QUIC, or
    /// to a peer that is slow to read, that may be on its way all the same.
    pub async fn hear_everyone(&self) {
        let Ok(peers) = self.0.with.net.peers.connected().await else { return };
        let _ = timeout(LAST, join_all(peers.iter().map(|peer| self.answer_over_what_stands(peer)))).await;
    }

    /// Takes one round trip, and dials nobody for that.
    pub(super) async fn answer_over_what_stands(&self, peer: &PeerId) -> Result<Duration, PeersError> {
        let stream = self.0.with.net.streams.open(peer, &[PROTOCOL.to_owned()]).await?.stream;
        self.there_and_back(stream).await
    }

    async fn round_trip(&self, peer: &PeerId) -> Result<Duration, PeersError> {
        let protocols = [PROTOCOL.to_owned()];
        let opened = match self.0.with.net.streams.open(peer, &protocols).await {
            Err(NetError::NotConnected(_)) => {
                self.dial_known(peer).await?;
                self.0.with.net.streams.open(peer, &protocols).await
            }
            other => other,
        };
        self.there_and_back(opened?.stream).await
    }

    async fn there_and_back(&self, mut stream: ByteStream) -> Result<Duration, PeersError> {
        let mut sent = [0; 32];
        sent.iter_mut().zip(self.0.with.clock.now().0.to_le_bytes()).for_each(|(to, from)| *to = from);
        let began = Instant::now();
        let round = async {
            stream.write_all(&sent).await?;
            stream.flush().await?;
            let mut back = [0; 32];
            stream.read_exact(&mut back).await?;
            if back == sent { Ok(()) } else { Err(io::Error::other("the peer sent something else back")) }
        };
        round.await.map_err(PeersError::Reset)?;
        Ok(began.elapsed())
    }
}
