//! Protocol streams of local programs: opened to peers, or opened by them and waiting until they are taken.

mod call;
mod config;
mod error;
mod handlers;
mod leases;
mod tunnels;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use p2pd_core::id::PeerId;
use p2pd_net::{Handle, NetError, PeerStream};

pub use self::{
    call::{Answered, MAX_CALL, Served, Serving},
    config::{ANYBODY, Expose, Forward, Tunnels},
    error::StreamsError,
    handlers::{Arrived, Handler},
    leases::{Claim, Lease},
};
use crate::{lock, peers::Peers, tasks::Tasks};

/// Inbound streams of a protocol that wait for their program, and those of all protocols.
const MAX_WAITING: usize = 64;
const MAX_WAITING_ALL: usize = 1024;
/// How long one waits before it is reset.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);
/// Longest that opening may take.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// What the owner of protocol streams is given.
pub struct Setup {
    /// The network.
    pub net: Handle,
    /// Peers.
    pub peers: Peers,
    /// Work beside callers.
    pub tasks: Tasks,
}

struct Shared {
    with: Setup,
    state: Arc<State>,
    /// Tunnels of the configuration that do not stand, and why.
    fallen: Mutex<BTreeMap<String, String>>,
}

/// The owner of protocol streams, behind a cloneable handle.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

#[derive(Default)]
struct State {
    named: AtomicU64,
    names: RandomState,
    waiting: Mutex<HashMap<u64, PeerStream>>,
    handlers: handlers::Registry,
}

impl State {
    /// Names a stream or a handler. Whoever knows the name may take what it stands for, so other programs cannot guess it:
    /// a count under SipHash with a key of this process. 53 bits, which JSON carries exactly; never 0.
    fn number(&self) -> u64 {
        (self.names.hash_one(self.named.fetch_add(1, Ordering::Relaxed)) >> 11).max(1)
    }

    /// Keeps an inbound stream until it is taken or its time is over. Its number; nothing when too many wait.
    fn keep(self: &Arc<Self>, waiting: PeerStream) -> Option<u64> {
        let number = self.number();
        let mut all = lock(&self.waiting);
        let alike = all.values().filter(|other| other.protocol == waiting.protocol).count();
        if alike >= MAX_WAITING || all.len() >= MAX_WAITING_ALL {
            tracing::warn!(peer = %waiting.peer, waiting.protocol, "stream reset: {alike} others wait to be accepted");
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

    fn take(&self, number: u64) -> Option<PeerStream> {
        lock(&self.waiting).remove(&number)
    }
}

/// Whether programs may speak this protocol; why not.
fn check_protocol(protocol: &str, is_reserved: impl Fn(&str) -> bool) -> Result<(), String> {
    if !protocol.starts_with('/') || protocol.len() > 140 || protocol.chars().any(char::is_control) {
        Err("begins with / and has at most 140 bytes, as in /chat/1.0.0".into())
    } else if is_reserved(protocol) {
        Err(format!("`{protocol}` is reserved for the daemon itself"))
    } else {
        Ok(())
    }
}

impl Streams {
    /// An owner of no streams.
    pub fn new(with: Setup) -> Self {
        Streams(Arc::new(Shared { with, state: Arc::default(), fallen: Mutex::default() }))
    }

    fn check(&self, protocol: &str) -> Result<(), StreamsError> {
        let streams = &self.0.with.net.streams;
        check_protocol(protocol, |name| streams.is_reserved(name))
            .map_err(|fault| StreamsError::Field { field: "protocol", fault })
    }

    /// Opens a stream on the first of these protocols that the peer speaks.
    pub async fn open_stream(&self, peer: &PeerId, protocols: &[String]) -> Result<PeerStream, StreamsError> {
        if protocols.is_empty() || protocols.len() > 8 {
            return Err(StreamsError::Field { field: "protocols", fault: "takes 1 to 8 protocols".into() });
        }
        protocols.iter().try_for_each(|p| self.check(p))?;
        self.open_any(peer, protocols).await
    }

    /// Likewise, on protocols of the daemon's own, too.
    pub async fn open_any(&self, peer: &PeerId, protocols: &[String]) -> Result<PeerStream, StreamsError> {
        let open = async {
            match self.0.with.net.streams.open(peer, protocols).await {
                Err(NetError::NotConnected(_)) => {
                    self.0.with.peers.dial_known(peer).await?;
                    Ok(self.0.with.net.streams.open(peer, protocols).await?)
                }
                other => Ok(other?),
            }
        };
        let late = || NetError::Unreachable { peer: peer.to_string(), fault: "no answer within 20 s".into() };
        tokio::time::timeout(OPEN_WITHIN, open).await.map_err(|_| late())?
    }

    /// Takes an inbound stream over.
    pub fn take_stream(&self, number: u64) -> Result<PeerStream, StreamsError> {
        self.0.state.take(number).ok_or(StreamsError::StreamGone(number))
    }
}
