//! When to send what: real time by a monotonic clock, without drift. Pure; the caller sleeps.

/// The schedule of a publication, in microseconds of the caller's monotonic clock.
#[derive(Debug)]
pub struct Pace {
    origin: u64,
}

/// Behind by more than this, a schedule begins anew rather than hurrying: what is late stays late for every listener.
const BEHIND_US: u64 = 500_000;

impl Pace {
    /// A schedule that begins now.
    pub fn new(now_us: u64) -> Self {
        Pace { origin: now_us }
    }

    /// How long to wait until media time `media_us` is due. A source that stalled moves the schedule.
    pub fn wait(&mut self, now_us: u64, media_us: u64) -> u64 {
        let due = self.origin.saturating_add(media_us);
        if now_us.saturating_sub(due) > BEHIND_US {
            self.origin = now_us.saturating_sub(media_us);
            return 0;
        }
        due.saturating_sub(now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_does_not_drift_and_a_stall_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        let mut now = 1000;
        for frame in 0..180_000u64 {
            now += pace.wait(now, frame * 20_000) + 137;
        }
        assert!(now.abs_diff(1000 + 179_999 * 20_000) <= 137);
        now += 3_000_000;
        assert_eq!(pace.wait(now, 180_000 * 20_000), 0);
        assert_eq!(pace.wait(now, 180_001 * 20_000), 20_000);
    }
}
