//! Work that goes on beside callers: what ends with the daemon, what has to end before the network does, and changes that are made whole
//! though whoever asked for them has gone.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Changes that are under way at once.
const CHANGES: usize = 64;

/// A task of ours died, or the daemon has stopped.
#[derive(Debug, thiserror::Error)]
#[error("internal: {0}")]
pub struct Ended(pub String);

/// Cloneable.
#[derive(Clone)]
pub struct Tasks {
    /// What must end before the network does.
    farewells: TaskTracker,
    changes: TaskTracker,
    room_to_change: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks {
            farewells: TaskTracker::new(),
            changes: TaskTracker::new(),
            room_to_change: Arc::new(Semaphore::new(CHANGES)),
            stopping: CancellationToken::new(),
        }
    }
}

impl Tasks {
    /// Runs something until its end or the daemon's.
    pub fn until_stop(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.farewells.spawn(async move { stopping.run_until_cancelled(work).await });
    }

    /// Runs something that the daemon waits for at its end.
    pub fn before_the_end(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.farewells.spawn(work);
    }

    /// Told when the daemon stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Makes a change whole, also when whoever asked for it goes away in the middle of it: what is in force, on disk and in
    /// the network then still agree.
    pub async fn whole<T: Send + 'static>(&self, change: impl Future<Output = T> + Send + 'static) -> Result<T, Ended> {
        let room = self.room_to_change.clone().acquire_owned().await.map_err(|error| Ended(error.to_string()))?;
        let changing = self.changes.spawn(async move {
            let _room = room;
            change.await
        });
        changing.await.map_err(|error| Ended(error.to_string()))
    }

    /// Tells all that goes on that the daemon stops, and waits for what must end before the network does.
    pub async fn say_farewell(&self) {
        self.stopping.cancel();
        self.farewells.close();
        self.farewells.wait().await;
    }

    /// Waits for changes that are under way.
    pub async fn finish_changes(&self) {
        self.changes.close();
        self.changes.wait().await;
    }
}
