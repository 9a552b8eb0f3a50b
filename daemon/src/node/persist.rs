//! What is kept across restarts, written beside what is live, which never waits for it however slow the disk is.

use std::time::Duration;

use p2pd_core::{id::PeerId, time::RunMs};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Node, NodeError, directory::ToDisk, running};

/// How often running time is kept. That shows as well whether the disk takes anything, where there is nothing else to write.
const KEEP_RUNNING_MS: u64 = 10_000;
/// Peers that wait to be written into the peer book. Others are, when they tell again who they are.
pub(super) const WAITING: usize = 256;

/// Writes what changed once a second, and who told who they are, until the daemon ends.
pub(super) async fn run(node: Node, mut told: mpsc::Receiver<PeerId>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<RunMs> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = node.0.clock.running();
                let due = kept.is_none_or(|kept| now.since(kept) >= KEEP_RUNNING_MS);
                match node.persist(due).await {
                    Ok(()) => kept = if due { Some(now) } else { kept },
                    Err(error) => tracing::debug!(%error, "state not written; trying again"),
                }
            }
            Some(peer) = told.recv() => if let Err(error) = node.remember(&peer).await {
                tracing::debug!(%error, "peer not written to the peer book");
            },
        }
    }
}

impl Node {
    /// Writes what changed, with running time where that is to be kept.
    pub(super) async fn persist(&self, with_running: bool) -> Result<(), NodeError> {
        let (unwritten, directory) = self.directory_changes();
        let (running, numbers) = (self.0.clock.running(), self.unwritten_numbers());
        let written = self.0.disk.run(move |store| {
            if let Some(numbers) = numbers {
                numbers.write(store)?;
            }
            if with_running {
                running::keep(store, running)?;
            }
            match directory {
                ToDisk::Changes(changes) => store.change_directory(&changes),
                ToDisk::All(entries) => store.replace_directory(&entries),
            }
        });
        match written.await {
            Ok(()) => {
                self.numbers_are_written(numbers);
            }
            // Both are tried again.
            Err(error) => {
                self.directory_not_written(unwritten);
                return Err(error.into());
            }
        }
        Ok(())
    }
}
