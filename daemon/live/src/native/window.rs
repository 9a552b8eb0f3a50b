//! The window of group numbers: what was taken, and what comes again.

use p2pd_core::{
    time::UnixMs,
    verdict::{Verdict, judge_time},
};

use crate::group::GroupBody;

/// How many group numbers behind the newest one are still taken.
const WINDOW: u64 = 128;

/// Which groups of a stream were taken: the newest epoch, its newest number and the 128 before.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    epoch: u64,
    newest: Option<u64>,
    /// Bit `n` is set when number `newest - n` was taken.
    taken: u128,
}

impl Window {
    /// Judges a group that is its publisher's and, when it is accepted, remembers it.
    pub(super) fn admit(&mut self, wall: UnixMs, body: &GroupBody) -> Verdict {
        let timely = judge_time(wall, UnixMs(body.capture_us / 1000));
        if timely != Verdict::Accept {
            return timely;
        }
        if body.epoch < self.epoch {
            return Verdict::Ignore("of an epoch before");
        }
        let newest = match self.newest {
            Some(newest) if body.epoch == self.epoch => newest,
            _ => {
                *self = Window { epoch: body.epoch, newest: Some(body.seq), taken: 1 };
                return Verdict::Accept;
            }
        };
        if body.seq > newest {
            self.taken = u32::try_from(body.seq - newest).ok().and_then(|n| self.taken.checked_shl(n)).unwrap_or(0) | 1;
            self.newest = Some(body.seq);
            return Verdict::Accept;
        }
        let behind = newest - body.seq;
        if behind >= WINDOW {
            return Verdict::Ignore("replayed group");
        }
        let bit = 1u128 << behind;
        if self.taken & bit != 0 {
            return Verdict::Ignore("taken before");
        }
        self.taken |= bit;
        Verdict::Accept
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::verdict::CLOCK_TOLERANCE_MS;

    use super::*;

    const WALL: UnixMs = UnixMs(1_800_000_000_000);

    fn group(epoch: u64, seq: u64) -> GroupBody {
        GroupBody { epoch, seq, capture_us: WALL.0 * 1000, ..Default::default() }
    }

    #[test]
    fn each_group_enters_once_in_any_order() {
        let mut window = Window::default();
        let mut admit = |epoch, seq| window.admit(WALL, &group(epoch, seq));
        for seq in [5, 7, 6, 100, 4] {
            assert_eq!(admit(1, seq), Verdict::Accept, "{seq}");
            assert_eq!(admit(1, seq), Verdict::Ignore("taken before"), "{seq}");
        }
        assert_eq!(admit(1, 1000), Verdict::Accept);
        assert_eq!(admit(1, 100), Verdict::Ignore("replayed group"));
        assert_eq!(admit(2, 0), Verdict::Accept, "a restarted publisher begins again");
        assert_eq!(admit(1, 1001), Verdict::Ignore("of an epoch before"));
    }

    #[test]
    fn a_recording_of_yesterday_is_refused() {
        let mut window = Window::default();
        let old = GroupBody { capture_us: (WALL.0 - CLOCK_TOLERANCE_MS - 1) * 1000, ..group(1, 0) };
        assert_eq!(window.admit(WALL, &old), Verdict::Ignore("too old"));
        let future = judge_time(WALL, UnixMs(WALL.0 + CLOCK_TOLERANCE_MS + 1));
        assert_eq!(future, Verdict::Ignore("dated in the future"));
    }

    #[test]
    fn of_what_is_behind_the_newest_128_numbers_are_taken_once() {
        let mut window = Window::default();
        let mut admit = |seq| window.admit(WALL, &group(1, seq));
        assert_eq!(admit(1_000), Verdict::Accept);
        assert_eq!((admit(873), admit(872)), (Verdict::Accept, Verdict::Ignore("replayed group")));
        // What was taken is remembered when a newer one comes, until it is 128 behind.
        assert_eq!(admit(1_001), Verdict::Accept);
        assert_eq!((admit(1_000), admit(1_001)), (Verdict::Ignore("taken before"), Verdict::Ignore("taken before")));
        assert_eq!(admit(873), Verdict::Ignore("replayed group"));
        assert_eq!((admit(874), admit(874)), (Verdict::Accept, Verdict::Ignore("taken before")));
        // Farther ahead than the window is long.
        assert_eq!(
            (admit(1_200), admit(1_073), admit(1_072)),
            (Verdict::Accept, Verdict::Accept, Verdict::Ignore("replayed group"))
        );
        assert_eq!((admit(u64::MAX), admit(u64::MAX - 1)), (Verdict::Accept, Verdict::Accept));
        assert_eq!(admit(u64::MAX), Verdict::Ignore("taken before"));
    }
}
