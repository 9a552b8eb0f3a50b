//! How the disk fares: looked at each second beside all that writes to it, so that a disk that hangs is told, too; and mended where
//! that can be done. A daemon whose disk fails goes on with what is live, and is not ended for it: a restart mends no disk.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use p2pd_node::{disk::Disk, events::Events};
use tokio::task::JoinHandle;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Least time from one attempt to mend it to the next.
const MEND: Duration = Duration::from_secs(5);

/// How the disk fares.
#[derive(Clone)]
pub(crate) struct Storage {
    disk: Disk,
    events: Events,
    /// Why the disk, or what is on it, fails, while that is so.
    fault: Arc<Mutex<Option<String>>>,
}

impl Storage {
    pub(crate) fn new(disk: Disk, events: Events) -> Self {
        Storage { disk, events, fault: Arc::default() }
    }

    /// Why the disk, or what is on it, fails.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks until the daemon ends.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(LOOK);
        let mut mending: Option<(Instant, JoinHandle<()>)> = None;
        loop {
            tick.tick().await;
            let fault = self.disk.store().fault();
            // One at a time: it may hang as well.
            let may_mend = mending.as_ref().is_none_or(|(began, task)| task.is_finished() && began.elapsed() >= MEND);
            if may_mend && self.disk.store().has_failed() {
                let store = self.disk.store().clone();
                let mend = tokio::task::spawn_blocking(move || {
                    if let Err(error) = store.mend() {
                        tracing::debug!(%error, "the disk still fails");
                    }
                });
                mending = Some((Instant::now(), mend));
            }
            self.note(fault);
        }
    }

    /// Notes what is wrong with the disk, and tells when that begins and ends.
    fn note(&self, fault: Option<String>) {
        let before = {
            let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, fault.clone())
        };
        match (before, fault) {
            (None, Some(fault)) => {
                tracing::error!(fault, "the disk fails; tried again every few seconds");
                self.events.happened("storage-failed", &fault);
            }
            (Some(_), None) => {
                tracing::info!("the disk is well again");
                self.events.happened("storage-back", "");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}
