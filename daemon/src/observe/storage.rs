//! How the disk fares: looked at each second beside all that writes to it, so that a disk that hangs is told, too; and mended where
//! that can be done. A daemon whose disk fails goes on with what is live, and is not ended for it: a restart mends no disk.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{Node, lock};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Least time from one attempt to mend it to the next.
const MEND: Duration = Duration::from_secs(5);

/// Looks until the daemon ends.
pub(super) async fn watch(node: Node) {
    let mut tick = tokio::time::interval(LOOK);
    let mut mending: Option<(Instant, JoinHandle<()>)> = None;
    loop {
        tick.tick().await;
        let fault = node.0.disk.store().fault();
        // One at a time: it may hang as well.
        let may_mend = mending.as_ref().is_none_or(|(began, task)| task.is_finished() && began.elapsed() >= MEND);
        if may_mend && node.0.disk.store().has_failed() {
            let store = node.0.disk.store().clone();
            let mend = tokio::task::spawn_blocking(move || {
                if let Err(error) = store.mend() {
                    tracing::debug!(%error, "the disk still fails");
                }
            });
            mending = Some((Instant::now(), mend));
        }
        node.note_storage(fault);
    }
}

impl Node {
    /// Notes what is wrong with the disk, and tells when that begins and ends.
    fn note_storage(&self, fault: Option<String>) {
        let before = std::mem::replace(&mut *lock(&self.0.storage_fault), fault.clone());
        match (before, fault) {
            (None, Some(fault)) => {
                tracing::error!(fault, "the disk fails; tried again every few seconds");
                self.0.events.happened("storage-failed", &fault);
            }
            (Some(_), None) => {
                tracing::info!("the disk is well again");
                self.0.events.happened("storage-back", "");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}
