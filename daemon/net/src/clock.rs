//! The time as the network's task counts it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2pd_core::time::{MonoMs, UnixMs};

/// Counts from the start of the network; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { began: Instant::now() }
    }

    /// Since the start.
    pub fn now(&self) -> MonoMs {
        MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The same as an instant.
    pub fn instant(&self, at: MonoMs) -> Option<Instant> {
        self.began.checked_add(Duration::from_millis(at.0))
    }

    /// What the machine's clock shows.
    pub fn wall(&self) -> UnixMs {
        wall()
    }
}

/// What the machine's clock shows.
pub(crate) fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
