//! Protocol streams of local programs: which protocol is whose, and inbound streams until they are taken.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use p2pd_core::id::PeerId;
use p2pd_net::{ByteStream, Inbound, NetError};

use super::{Node, NodeError, lock};

/// Inbound streams that wait for their program.
const MAX_WAITING: usize = 64;
/// How long one waits before it is reset.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);
/// Longest that opening may take.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// Protocols that the daemon speaks itself.
const OWN: [&str; 6] = ["/p2pd/", "/meshsub/", "/floodsub/", "/ipfs/id/", "/ipfs/ping/", "/libp2p/"];

/// An inbound stream that waits.
pub(crate) struct Waiting {
    pub(crate) peer: PeerId,
    pub(crate) protocol: String,
    pub(crate) stream: ByteStream,
    since: Instant,
}

#[derive(Default)]
pub(super) struct State {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
}

/// A protocol that a program handles, until dropped.
pub(crate) struct Handler {
    protocol: String,
    inbound: Inbound,
    state: Arc<State>,
}

fn check(protocol: &str) -> Result<(), NodeError> {
    let fault = if !protocol.starts_with('/') || protocol.len() > 140 || protocol.chars().any(char::is_control) {
        "begins with / and has at most 140 bytes, as in /chat/1.0.0".to_owned()
    } else if OWN.iter().any(|own| protocol.starts_with(own)) {
        format!("`{protocol}` is spoken by the daemon itself")
    } else {
        return Ok(());
    };
    Err(NodeError::Field { field: "protocol", fault })
}

impl Node {
    /// Opens a stream on the first of these protocols that the peer speaks.
    pub(crate) async fn open_stream(
        &self,
        peer: &PeerId,
        protocols: &[String],
    ) -> Result<(ByteStream, String), NodeError> {
        if protocols.is_empty() || protocols.len() > 8 {
            return Err(NodeError::Field { field: "open.protocols", fault: "takes 1 to 8 protocols".into() });
        }
        protocols.iter().try_for_each(|p| check(p))?;
        let open = async {
            let spoken = self.spoken_by(peer).await?;
            let Some(protocol) = protocols.iter().find(|p| spoken.contains(p)) else {
                return Err(NetError::Unsupported { peer: peer.to_string(), protocols: protocols.join(", ") }.into());
            };
            Ok((self.0.net.open_stream(peer, protocol).await?, protocol.clone()))
        };
        let late = || NetError::Unreachable { peer: peer.to_string(), fault: "no answer within 20 s".into() };
        tokio::time::timeout(OPEN_WITHIN, open).await.map_err(|_| late())?
    }

    /// The protocols that a peer says it speaks. Dials it if need be, and waits until it has told.
    async fn spoken_by(&self, peer: &PeerId) -> Result<Vec<String>, NodeError> {
        let mut changes = self.watch_peers();
        match self.peer(peer).await {
            Ok(info) if !info.protocols.is_empty() => return Ok(info.protocols),
            Ok(_) => {}
            Err(_) => self.dial_known(peer).await?,
        }
        loop {
            let info = self.peer(peer).await?;
            if !info.protocols.is_empty() {
                return Ok(info.protocols);
            }
            let _ = changes.recv().await;
        }
    }

    /// Handles a protocol.
    pub(crate) fn handle_protocol(&self, protocol: &str) -> Result<Handler, NodeError> {
        check(protocol)?;
        let inbound = self.0.net.accept_streams(protocol)?;
        Ok(Handler { protocol: protocol.to_owned(), inbound, state: self.0.protocols.clone() })
    }

    /// Takes an inbound stream over.
    pub(crate) fn take_stream(&self, number: u64) -> Result<Waiting, NodeError> {
        lock(&self.0.protocols.waiting).remove(&number).ok_or(NodeError::StreamGone(number))
    }
}

impl Handler {
    /// Waits for the next stream; its number and the peer. `None` when the network has stopped.
    pub(crate) async fn next(&mut self) -> Option<(u64, PeerId)> {
        loop {
            let (peer, stream) = self.inbound.next().await?;
            let mut waiting = lock(&self.state.waiting);
            waiting.retain(|_, w| w.since.elapsed() < ACCEPT_WITHIN);
            if waiting.len() >= MAX_WAITING {
                tracing::warn!(%peer, protocol = self.protocol, "stream reset: 64 others wait to be accepted");
                continue;
            }
            let number = self.state.next.fetch_add(1, Ordering::Relaxed);
            let (protocol, since) = (self.protocol.clone(), Instant::now());
            waiting.insert(number, Waiting { peer: peer.clone(), protocol, stream, since });
            return Some((number, peer));
        }
    }
}
