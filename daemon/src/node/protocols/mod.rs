//! Protocol streams of local programs: opened to peers, or opened by them and waiting until they are taken.

mod call;
mod handlers;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use p2pd_core::id::PeerId;
use p2pd_net::{ByteStream, NetError};

use self::handlers::Handler;
pub(crate) use self::{
    call::{Served, Serving},
    handlers::{Claim, Lease},
};
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
}

#[derive(Default)]
pub(super) struct State {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    handlers: handlers::Registry,
}

impl State {
    /// Names a stream or a handler; never 0.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Keeps an inbound stream until it is taken or its time is over. Its number; nothing when too many wait.
    fn keep(self: &Arc<Self>, waiting: Waiting) -> Option<u64> {
        let number = self.number();
        let mut all = lock(&self.waiting);
        if all.len() >= MAX_WAITING {
            tracing::warn!(peer = %waiting.peer, waiting.protocol, "stream reset: {MAX_WAITING} others wait to be accepted");
            return None;
        }
        all.insert(number, waiting);
        drop(all);
        let state = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ACCEPT_WITHIN).await;
            lock(&state.waiting).remove(&number);
        });
        Some(number)
    }

    fn take(&self, number: u64) -> Option<Waiting> {
        lock(&self.waiting).remove(&number)
    }
}

/// Whether programs may speak this protocol; why not.
pub(crate) fn check_protocol(protocol: &str) -> Result<(), String> {
    if !protocol.starts_with('/') || protocol.len() > 140 || protocol.chars().any(char::is_control) {
        Err("begins with / and has at most 140 bytes, as in /chat/1.0.0".into())
    } else if OWN.iter().any(|own| protocol.starts_with(own)) {
        Err(format!("`{protocol}` is spoken by the daemon itself"))
    } else {
        Ok(())
    }
}

fn check(protocol: &str) -> Result<(), NodeError> {
    check_protocol(protocol).map_err(|fault| NodeError::Field { field: "protocol", fault })
}

impl Node {
    /// Opens a stream on the first of these protocols that the peer speaks.
    pub(crate) async fn open_stream(
        &self,
        peer: &PeerId,
        protocols: &[String],
    ) -> Result<(ByteStream, String), NodeError> {
        if protocols.is_empty() || protocols.len() > 8 {
            return Err(NodeError::Field { field: "protocols", fault: "takes 1 to 8 protocols".into() });
        }
        protocols.iter().try_for_each(|p| check(p))?;
        self.open_any(peer, protocols).await
    }

    /// Likewise, on protocols of the daemon's own, too.
    pub(in crate::node) async fn open_any(
        &self,
        peer: &PeerId,
        protocols: &[String],
    ) -> Result<(ByteStream, String), NodeError> {
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

    /// Takes an inbound stream over.
    pub(crate) fn take_stream(&self, number: u64) -> Result<Waiting, NodeError> {
        self.0.protocols.take(number).ok_or(NodeError::StreamGone(number))
    }
}
