//! How the disk fares, by the calls that go to it: which of them have not returned, and whether writing fails.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::StoreError;

/// How long a call may take before the disk counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no write may have failed before the disk counts as well again: small writes may succeed between larger ones that do not.
const CALM: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    /// When each call began that has not returned, by number.
    running: BTreeMap<u64, Instant>,
    calls: u64,
    /// When writing failed last, and why, until it is well again.
    failed: Option<(Instant, String)>,
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
        self.lock().failed = Some((now, error.to_string()));
    }

    /// Notes that writing succeeds where it has failed.
    pub(crate) fn writes_again(&self, now: Instant) {
        let calm = |(at, _): &mut (Instant, String)| now.saturating_duration_since(*at) >= CALM;
        self.lock().failed.take_if(calm);
    }

    /// What is wrong, for people.
    pub(crate) fn fault(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        let longest = state.running.values().map(|began| now.saturating_duration_since(*began)).max();
        let hangs = longest.filter(|longest| *longest >= PATIENCE);
        let hangs = hangs.map(|longest| format!("the disk has not answered for {} s", longest.as_secs()));
        hangs.or_else(|| state.failed.as_ref().map(|(_, why)| why.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_is_a_fault_and_so_is_a_write_that_failed_lately() {
        let (health, began) = (Health::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let running = health.begin(began);
        assert_eq!(health.fault(after(9)), None);
        assert!(health.fault(after(11)).is_some_and(|why| why.contains("11 s")));
        drop(running);
        assert_eq!(health.fault(after(11)), None);
        let error = StoreError::Corrupt { table: "settings" };
        for seconds in [20, 25] {
            health.failed(after(seconds), &error);
            health.writes_again(after(seconds + 4));
            assert!(health.fault(after(seconds + 4)).is_some(), "it may fail again");
        }
        health.writes_again(after(35));
        assert_eq!(health.fault(after(35)), None);
    }
}
