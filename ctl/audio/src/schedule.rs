//! When to send what: real time by a monotonic clock, without drift. Pure; the caller sleeps.
//!
//! A source with a clock of its own, such as a microphone behind a pipe, is recognised because it keeps us waiting. If its
//! clock is faster than ours, the schedule moves forward a little with each packet, so that nothing piles up in the pipe.

/// The schedule of a publication, in microseconds of the caller's monotonic clock.
#[derive(Debug)]
pub struct Schedule {
    origin: u64,
    /// How far the schedule was moved forward for a source whose clock is fast.
    moved: u64,
    /// How many packets came after they were due.
    late: u32,
}

/// A schedule that is behind by more than this begins anew, and does not hurry: listeners would get late frames anyway.
const BEHIND_US: u64 = 500_000;
/// A source that was late so often is live.
const LIVE: u32 = 50;
/// How much the schedule of a live source gives way with each packet: a thousandth of 20 ms.
const GIVE_US: u64 = 20;

impl Schedule {
    /// A schedule that begins now.
    pub fn new(now_us: u64) -> Self {
        Schedule { origin: now_us, moved: 0, late: 0 }
    }

    /// How long to wait until media time `media_us` is due. A source that stalled moves the schedule.
    pub fn wait(&mut self, now_us: u64, media_us: u64) -> u64 {
        let due = self.origin.saturating_add(media_us).saturating_sub(self.moved);
        if now_us.saturating_sub(due) > BEHIND_US {
            (self.origin, self.moved) = (now_us.saturating_sub(media_us), 0);
            return 0;
        }
        if now_us > due {
            self.late = self.late.saturating_add(1);
        } else if self.late >= LIVE {
            self.moved = self.moved.saturating_add(GIVE_US);
        }
        due.saturating_sub(now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_microphone_piles_nothing_up() {
        let mut schedule = Schedule::new(0);
        let (mut now, mut most) = (0, 0);
        for frame in 1..180_000u64 {
            // Fast by 200 parts per million; each packet comes a little after its time at first.
            let comes = frame * 20_000 * 999_800 / 1_000_000 + 3_000;
            now = comes.max(now);
            now += schedule.wait(now, frame * 20_000);
            most = most.max(now - comes);
        }
        assert!(most < 20_000, "{most} us of sound in the pipe");
    }

    #[test]
    fn an_hour_does_not_drift_and_a_stall_is_not_made_up_for() {
        let mut schedule = Schedule::new(1000);
        let mut now = 1000;
        for frame in 0..180_000u64 {
            now += schedule.wait(now, frame * 20_000) + 137;
        }
        assert!(now.abs_diff(1000 + 179_999 * 20_000) <= 137);
        now += 3_000_000;
        assert_eq!(schedule.wait(now, 180_000 * 20_000), 0);
        assert_eq!(schedule.wait(now, 180_001 * 20_000), 20_000);
    }

    #[test]
    fn a_schedule_begins_anew_only_behind_half_a_second() {
        for (behind, wait) in [(500_000, 20_000), (500_001, 520_001)] {
            let mut schedule = Schedule::new(0);
            let now = 20_000 + behind;
            assert_eq!(schedule.wait(now, 20_000), 0);
            // The next packet that is not due yet by the old schedule.
            assert_eq!(schedule.wait(now, behind + 40_000), wait, "{behind}");
        }
    }

    #[test]
    fn only_a_source_that_was_late_fifty_times_moves_the_schedule() {
        for (late, times, second) in [(1, 49, 1_000), (1, 50, 980), (0, 50, 1_000)] {
            let mut schedule = Schedule::new(0);
            (0..times).for_each(|n| assert_eq!(schedule.wait(n * 20_000 + late, n * 20_000), 0));
            assert_eq!(schedule.wait(1_000_000, 1_001_000), 1_000);
            assert_eq!(schedule.wait(1_000_000, 1_001_000), second, "{times} times late by {late}");
        }
    }
}
