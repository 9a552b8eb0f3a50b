//! What is kept across restarts, written beside what is live, which never waits for it however slow the disk is.

use std::time::Duration;

use p2pd_core::time::RunMs;
use tokio::time::MissedTickBehavior;

use super::{Node, NodeError, directory::ToDisk, numbers, running};

/// How often running time is kept. That shows as well whether the disk takes anything, where there is nothing else to write.
const KEEP_RUNNING_MS: u64 = 10_000;

/// Writes what changed once a second, until the daemon ends.
pub(super) async fn run(node: Node) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<RunMs> = None;
    loop {
        tick.tick().await;
        let now = node.0.clock.running();
        let due = kept.is_none_or(|kept| now.since(kept) >= KEEP_RUNNING_MS);
        match node.persist(due).await {
            Ok(()) => kept = if due { Some(now) } else { kept },
            Err(error) => tracing::debug!(%error, "state not written; trying again"),
        }
    }
}

impl Node {
    /// Writes what changed, with running time where that is to be kept.
    pub(super) async fn persist(&self, with_running: bool) -> Result<(), NodeError> {
        let (unwritten, directory) = self.directory_changes();
        let (running, epoch) = (self.0.clock.running(), self.unwritten_epoch());
        let written = self.0.disk.run(move |store| {
            if let Some(epoch) = epoch {
                store.set_setting(numbers::EPOCH, &epoch.to_string())?;
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
                self.epoch_is_written(epoch);
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
