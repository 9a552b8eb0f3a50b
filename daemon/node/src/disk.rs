//! The way to the store for what must not block: each call runs on a thread of its own, so many at once.

use std::sync::Arc;

use p2pd_store::{Store, StoreError, Unreadable};
use tokio::sync::Semaphore;

/// Calls at once. A disk that hangs takes no more of the threads on which the groups of callers are looked up, too.
const CALLS: usize = 64;

/// Why the disk did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The call was ended, as at the end of the process.
    #[error("internal: {0}")]
    Ended(String),
}

/// The store behind a cloneable handle.
#[derive(Clone)]
pub struct Disk {
    store: Arc<Store>,
    calls: Arc<Semaphore>,
}

impl Disk {
    /// Takes up a store.
    pub fn new(store: Store) -> Self {
        Disk { store: Arc::new(store), calls: Arc::new(Semaphore::new(CALLS)) }
    }

    /// The store itself, for the start and for what does not wait.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Does something with the store that waits for the disk.
    pub async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let ended = |error: &dyn std::fmt::Display| DiskError::Ended(error.to_string());
        let room = self.calls.clone().acquire_owned().await.map_err(|error| ended(&error))?;
        let store = self.store.clone();
        let call = tokio::task::spawn_blocking(move || {
            let done = act(&store);
            // Before the room is free again, which says that nobody holds the store.
            drop(store);
            drop(room);
            done
        });
        Ok(call.await.map_err(|error| ended(&error))??)
    }

    /// Waits for the calls under way, also those that nobody waits for any more; there are none after it.
    pub async fn finish(&self) {
        // Closed when it was called before.
        if let Ok(all) = self.calls.acquire_many(CALLS as u32).await {
            self.calls.close();
            drop(all);
        }
    }
}

/// The record of this table and key, as its reader found it.
pub fn unreadable(table: &'static str, key: String, fault: String) -> Unreadable {
    Unreadable { table, key, fault }
}

/// A setting that is a number.
pub fn number(store: &Store, name: &str) -> Result<Option<u64>, StoreError> {
    let Some(kept) = store.setting(name)? else { return Ok(None) };
    let bad = |_| unreadable("settings", name.to_owned(), "it is no number".into());
    Ok(Some(kept.parse().map_err(bad)?))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn at_the_end_calls_that_nobody_waits_for_are_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let disk = Disk::new(Store::open(&place.path().join("db")).unwrap());
        let ((begun, begins), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel());
        let call = disk.run(move |_| {
            begun.send(()).unwrap();
            goes_on.recv().unwrap();
            Ok(())
        });
        let call = tokio::time::timeout(Duration::from_millis(20), call).await;
        assert!(call.is_err() && begins.recv().is_ok(), "given up while it is under way");
        assert!(tokio::time::timeout(Duration::from_millis(20), disk.finish()).await.is_err());
        go_on.send(()).unwrap();
        disk.finish().await;
        assert_eq!(Arc::strong_count(disk.store()), 1);
        assert!(matches!(disk.run(|_| Ok(())).await, Err(DiskError::Ended(_))));
    }
}
