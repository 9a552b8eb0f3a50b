//! The times that owners count by: since the start, running time over all starts, and the wall clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use p2pd_core::time::{MonoMs, RunMs, UnixMs};

/// Counts from the start of this process; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    /// Running time then.
    ran_before: RunMs,
}

impl Clock {
    /// Begins now, after so much running time.
    pub fn start(ran_before: RunMs) -> Self {
        Clock { began: Instant::now(), ran_before }
    }

    /// Since the start.
    pub fn now(&self) -> MonoMs {
        MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Running time: it counts only while the daemon runs, whatever the wall clock is set to.
    pub fn running(&self) -> RunMs {
        RunMs(self.ran_before.0.saturating_add(self.now().0))
    }
}

/// What the machine's clock shows.
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Numbers that go on across restarts begin with the time, in microseconds, so that none given before is given again: nothing happens
/// a million times a second. With the greater of two times, since the wall clock may have been set back, and running time has
/// gone back where a back-up was restored.
pub fn first_number(running: RunMs) -> u64 {
    wall().0.max(running.0).saturating_mul(1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_with_the_later_of_both_times() {
        assert!(first_number(RunMs(7)) >= 1_700_000_000_000_000, "as the wall clock has it");
        assert_eq!(first_number(RunMs(u64::MAX / 1000)), u64::MAX / 1000 * 1000, "after that was set back");
    }
}
