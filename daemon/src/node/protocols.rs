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
            match self.0.net.open_stream(peer, protocols).await {
                Err(NetError::NotConnected(_)) => {
                    self.dial_known(peer).await?;
                    Ok(self.0.net.open_stream(peer, protocols).await?)
                }
                other => Ok(other?),
            }
        };
        let late = || NetError::Unreachable { peer: peer.to_string(), fault: "no answer within 20 s".into() };
        tokio::time::timeout(OPEN_WITHIN, open).await.map_err(|_| late())?
    }

    /// Handles a protocol.
    pub(crate) async fn handle_protocol(&self, protocol: &str) -> Result<Handler, NodeError> {
        check(protocol)?;
        let inbound = self.0.net.accept_streams(protocol).await?;
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
