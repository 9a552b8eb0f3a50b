//! Bytes per second, and as many at once.

use std::time::{Duration, Instant};

/// What is left of so many bytes a second.
pub(super) struct Budget {
    rate: u64,
    left: u64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Budget { rate, left: rate, at: now }
    }

    /// What may be taken now.
    pub(super) fn left(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.at).min(Duration::from_secs(1));
        let gained = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_mul(self.rate) / 1_000_000;
        (self.left, self.at) = (self.left.saturating_add(gained).min(self.rate), now);
        self.left
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}
