//! How the disk fares, by the calls that go to it: which of them have not returned, and whether they fail.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::StoreError;

/// How long a call may take before the disk counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no call may have failed before the disk counts as well again: small writes may succeed between larger ones that do not.
const CALM: Duration = Duration::from_secs(10);
/// The same where a record or a block could not be read: that does not heal, and is met again when its log is swept, each minute.
const CORRUPT_CALM: Duration = Duration::from_secs(150);

#[derive(Default)]
struct State {
    /// When each call began that has not returned, by number.
    running: BTreeMap<u64, Instant>,
    calls: u64,
    /// The last fault, until the disk is well again.
    failed: Option<Failed>,
}

struct Failed {
    at: Instant,
    why: String,
    /// How long no other may come.
    calm: Duration,
}

#[derive(Default)]
pub(crate) struct Health(Mutex<State>);

/// A call under way, until dropped.
pub(crate) struct Running<'a> {
    health: &'a Health,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.health.lock().running.remove(&self.number);
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, now: Instant) -> Running<'_> {
        let mut state = self.lock();
        state.calls = state.calls.wrapping_add(1);
        let number = state.calls;
        state.running.insert(number, now);
        Running { health: self, number }
    }

    pub(crate) fn failed(&self, now: Instant, error: &StoreError) {
        let corrupt = match error {
            StoreError::Corrupt(_) | StoreError::Damaged(_) => true,
            StoreError::Database(error) => error.kind() == rocksdb::ErrorKind::Corruption,
            // That it is closed is told by the fault for which it was.
            StoreError::Closed => return,
            StoreError::Newer { .. } | StoreError::Disk(_) => false,
        };
        let calm = if corrupt { CORRUPT_CALM } else { CALM };
        self.lock().failed = Some(Failed { at: now, why: error.to_string(), calm });
    }

    /// Notes that writing succeeds where something has failed.
    pub(crate) fn writes_again(&self, now: Instant) {
        self.lock().failed.take_if(|failed| now.saturating_duration_since(failed.at) >= failed.calm);
    }

    /// Whether a call has failed, so that this is not only slow.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// What is wrong, for people.
    pub(crate) fn fault(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        let longest = state.running.values().map(|began| now.saturating_duration_since(*began)).max();
        let hangs = longest.filter(|longest| *longest >= PATIENCE);
        let hangs = hangs.map(|longest| format!("the disk has not answered for {} s", longest.as_secs()));
        hangs.or_else(|| state.failed.as_ref().map(|failed| failed.why.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_a_fault_and_so_is_one_that_failed_lately() {
        let (health, began) = (Health::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let running = health.begin(began);
        assert_eq!(health.fault(after(9)), None);
        assert!(health.fault(after(11)).is_some_and(|why| why.contains("11 s")));
        drop(running);
        assert_eq!(health.fault(after(11)), None);
        assert!(!health.has_failed(), "it was slow");
        let error = StoreError::Disk(std::io::ErrorKind::StorageFull.into());
        for seconds in [20, 25] {
            health.failed(after(seconds), &error);
            health.writes_again(after(seconds + 4));
            assert!(health.fault(after(seconds + 4)).is_some(), "it may fail again");
        }
        health.writes_again(after(35));
        assert_eq!(health.fault(after(35)), None);
        health.failed(after(40), &StoreError::Closed);
        assert_eq!(health.fault(after(40)), None);
        // It is met again each minute.
        let record = crate::Unreadable { table: "messages", key: "chat/1".into(), fault: "junk".into() };
        health.failed(after(40), &record.into());
        health.writes_again(after(110));
        assert!(health.fault(after(110)).is_some_and(|why| why.contains("messages")));
        health.writes_again(after(190));
        assert_eq!(health.fault(after(190)), None);
    }
}
