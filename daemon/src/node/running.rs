//! Running time, by which ages of what is on disk are counted. The wall clock cannot tell them: a clock that is set forward, or is
//! wrong at boot, would make everything old at once.

use p2pd_core::time::RunMs;
use p2pd_store::{Store, StoreError};

use super::{Node, wall};

/// Name of the setting that keeps it.
const SETTING: &str = "running-ms";

/// The running time that was kept; at a first start, the wall clock's.
pub(super) fn restore(store: &Store) -> Result<RunMs, StoreError> {
    let kept = store.setting(SETTING)?.and_then(|kept| kept.parse().ok());
    Ok(RunMs(kept.unwrap_or_else(|| wall().0)))
}

/// Keeps it. After a crash the time since the last call is missing, so that ages are a little less.
pub(super) fn keep(store: &Store, running: RunMs) -> Result<(), StoreError> {
    store.set_setting(SETTING, &running.0.to_string())
}

/// Numbers that go on across restarts begin with the time, in microseconds, so that none given before is given again: nothing happens
/// a million times a second. With the greater of two times, since the wall clock may have been set back, and running time has
/// gone back where a back-up was restored.
pub(super) fn first_number(running: RunMs) -> u64 {
    wall().0.max(running.0).saturating_mul(1000).max(1)
}

impl Node {
    /// Running time now.
    pub(super) fn running(&self) -> RunMs {
        RunMs(self.0.ran_before.0.saturating_add(self.now().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_time_goes_on_where_it_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(wall().since(p2pd_core::time::UnixMs(restore(&store).unwrap().0)) < 60_000);
        keep(&store, RunMs(7)).unwrap();
        assert_eq!(restore(&store).unwrap(), RunMs(7));
        assert!(first_number(RunMs(7)) >= 1_700_000_000_000_000, "as the wall clock has it");
        assert_eq!(first_number(RunMs(u64::MAX / 1000)), u64::MAX / 1000 * 1000, "after that was set back");
    }
}
