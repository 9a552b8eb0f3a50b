//! What is kept across restarts, written once a second off the way of everything else.

use std::time::Duration;

use p2pd_core::{id::PeerId, scope};
use p2pd_net::PeerInfo;
use p2pd_store::PeerRecord;

use super::{Node, NodeError, blocking, lock, wall};

/// Peers in the peer book.
const MAX_PEERS: usize = 1000;
/// Peers of the book that are dialled at start.
const REDIAL: usize = 8;
/// Peers that are won back at a time.
const MAX_MISSED: usize = 64;
/// How long after its loss, and after each attempt, a peer is dialled.
const WIN_BACK: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

impl Node {
    /// Writes what changed; `all`: everything.
    pub(super) async fn persist(&self, all: bool) -> Result<(), NodeError> {
        let directory = self.directory_records(all);
        let events = self.unwritten();
        let newest = events.last().map(|(cursor, _)| *cursor);
        let store = self.0.store.clone();
        let written = blocking(move || {
            if let Some(entries) = directory {
                store.replace_directory(&entries)?;
            }
            store.append_events(&events)
        });
        match written.await {
            Ok(()) => self.are_written(newest),
            // Both are tried again.
            Err(error) => {
                self.directory_changed();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes a peer that told who it is into the peer book.
    pub(super) async fn remember(&self, peer: &PeerId) -> Result<(), NodeError> {
        let info = self.peer(peer).await?;
        let record = PeerRecord { addresses: reached_at(&info), seen: wall().0 };
        let (store, key) = (self.0.store.clone(), peer.as_bytes().to_vec());
        blocking(move || store.put_peers(&[(key, record)], MAX_PEERS)).await
    }

    /// Dials the peers that were connected last, without waiting.
    pub(super) fn redial(&self, mut known: Vec<(Vec<u8>, PeerRecord)>) {
        known.sort_by_key(|(_, record)| std::cmp::Reverse(record.seen));
        for (peer, record) in known.into_iter().take(REDIAL) {
            let Ok(peer) = PeerId::from_bytes(&peer) else { continue };
            let net = self.0.net.clone();
            tokio::spawn(async move {
                if let Err(error) = net.connect_peer(&peer, &record.addresses).await {
                    tracing::debug!(%error, "known peer not reached");
                }
            });
        }
    }

    /// Dials a peer that was lost a few times, unless we let go of it ourselves.
    pub(super) fn win_back(&self, peer: PeerId) {
        if lock(&self.0.let_go).remove(&peer) {
            return;
        }
        {
            let mut missed = lock(&self.0.missed);
            if missed.len() >= MAX_MISSED || !missed.insert(peer.clone()) {
                return;
            }
        }
        let node = self.clone();
        tokio::spawn(async move {
            node.dial_again(&peer).await;
            lock(&node.0.missed).remove(&peer);
        });
    }

    async fn dial_again(&self, peer: &PeerId) {
        for wait in WIN_BACK {
            // Not both sides at once.
            let later = if self.0.me < *peer { Duration::ZERO } else { wait / 2 };
            tokio::time::sleep(wait + later).await;
            if self.dial_known(peer).await.is_ok() {
                return;
            }
        }
    }

    /// Dials a peer at the addresses of the peer book, and those that the network knows.
    pub(super) async fn dial_known(&self, peer: &PeerId) -> Result<(), NodeError> {
        let (store, key) = (self.0.store.clone(), peer.as_bytes().to_vec());
        let record = blocking(move || store.peer(&key)).await?.unwrap_or_default();
        self.0.net.connect_peer(peer, &record.addresses).await?;
        Ok(())
    }

    /// Reads and writes a setting, to see that the store answers.
    pub(crate) async fn probe_store(&self) -> Result<(), NodeError> {
        let store = self.0.store.clone();
        blocking(move || store.setting("probe").map(|_| ())).await
    }
}

/// Addresses to reach a peer at: where we dialled it, then where it says it listens, as far as that is of use here.
fn reached_at(info: &PeerInfo) -> Vec<String> {
    let dialled = info.connections.iter().filter(|c| !c.inbound).map(|c| c.address.clone());
    let reach = info.connections.iter().map(|c| scope::of(&c.address)).min();
    let said = info.addresses.iter().filter(|address| Some(scope::of(address)) >= reach);
    dialled.chain(said.cloned()).take(8).collect()
}
