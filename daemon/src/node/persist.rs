//! What is kept across restarts, written beside what is live, which never waits for it however slow the disk is.

use std::time::Duration;

use p2pd_core::{id::PeerId, scope};
use p2pd_net::PeerInfo;
use p2pd_store::PeerRecord;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Node, NodeError, blocking, lock, wall};

/// A setting that holds nothing.
const PROBE: &str = "probe";
/// Peers in the peer book.
const MAX_PEERS: usize = 1000;
/// Peers that wait to be written into the peer book. Others are, when they tell again who they are.
pub(super) const WAITING: usize = 256;

/// Writes what changed once a second, and who told who they are, until the daemon ends.
pub(super) async fn run(node: Node, mut told: mpsc::Receiver<PeerId>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let written = node.persist(false).await;
                node.note_storage(written.err().map(|error| error.to_string()));
            }
            Some(peer) = told.recv() => if let Err(error) = node.remember(&peer).await {
                tracing::debug!(%error, "peer not written to the peer book");
            },
        }
    }
}

impl Node {
    /// Writes what changed; `all`: everything.
    pub(super) async fn persist(&self, all: bool) -> Result<(), NodeError> {
        let directory = self.directory_records(all);
        let events = self.unwritten();
        let newest = events.last().map(|(cursor, _)| *cursor);
        let (store, failed) = (self.0.store.clone(), lock(&self.0.storage_fault).is_some());
        let written = blocking(move || {
            // There may be nothing else to tell that it is well again.
            if failed {
                store.set_setting(PROBE, "")?;
            }
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

    /// Notes whether what changed could be written, and tells when that changes.
    pub(super) fn note_storage(&self, fault: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.0.storage_fault), fault.clone());
        match (before, fault) {
            (None, Some(fault)) => {
                tracing::error!(fault, "state not written; trying again each second");
                self.happened("storage-failed", &fault);
            }
            (Some(_), None) => {
                tracing::info!("state is written again");
                self.happened("storage-back", "");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Writes a peer that told who it is into the peer book.
    async fn remember(&self, peer: &PeerId) -> Result<(), NodeError> {
        let info = self.peer(peer).await?;
        let record = PeerRecord { addresses: reached_at(&info), seen: wall().0 };
        let (store, key) = (self.0.store.clone(), peer.as_bytes().to_vec());
        blocking(move || store.put_peers(&[(key, record)], MAX_PEERS)).await
    }

    /// Reads a setting, to see that the store answers.
    pub(crate) async fn probe_store(&self) -> Result<(), NodeError> {
        let store = self.0.store.clone();
        blocking(move || store.setting(PROBE).map(|_| ())).await
    }
}

/// Addresses to reach a peer at: where we dialled it, then where it says it listens, as far as that is of use here.
pub(super) fn reached_at(info: &PeerInfo) -> Vec<String> {
    let dialled = info.connections.iter().filter(|c| !c.inbound).map(|c| c.address.clone());
    let reach = info.connections.iter().map(|c| scope::of(&c.address)).min();
    let said = info.addresses.iter().filter(|address| Some(scope::of(address)) >= reach);
    dialled.chain(said.cloned()).take(8).collect()
}
