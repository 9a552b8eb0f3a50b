//! What may enter: freshness of messages, the window of group numbers, and the rate of one source.

use crate::{
    group::GroupBody,
    time::{MonoMs, UnixMs},
};

/// How far a stranger's clock may be off before its messages count as old or future-dated, in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = 5 * 60_000;
/// How many group numbers behind the newest one are still taken.
const WINDOW: u64 = 128;
/// After a publisher's restart, how long groups of the epoch before are let pass as stragglers, in milliseconds.
const STRAGGLER_MS: u64 = 10_000;

/// What becomes of a message. `Reject` costs its sender score; `Ignore` does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it and pass it on.
    Accept,
    /// Drop it: late or double, as happens between honest peers.
    Ignore(&'static str),
    /// Drop it: no honest peer sends this.
    Reject(&'static str),
}

const FUTURE: &str = "dated in the future";
const OLD: &str = "too old";

impl Verdict {
    /// The same, but that a peer whose own message has a wrong time is not blamed: its clock is wrong, or ours. Another who passes
    /// it on replays it.
    pub fn forgiving_own_clock(self, own: bool) -> Self {
        match self {
            Verdict::Reject(why @ (FUTURE | OLD)) if own => Verdict::Ignore(why),
            other => other,
        }
    }
}

/// Judges the time a message claims.
pub fn judge_time(now: UnixMs, claimed: UnixMs) -> Verdict {
    if claimed.since(now) > CLOCK_TOLERANCE_MS {
        Verdict::Reject(FUTURE)
    } else if now.since(claimed) > CLOCK_TOLERANCE_MS {
        Verdict::Reject(OLD)
    } else {
        Verdict::Accept
    }
}

/// Which groups of a stream were taken: the newest epoch, its newest number and the 128 before.
#[derive(Clone, Debug, Default)]
pub struct Window {
    epoch: u64,
    newest: Option<u64>,
    /// Bit `n` is set when number `newest - n` was taken.
    taken: u128,
    began: MonoMs,
}

impl Window {
    /// Judges a group that is its publisher's and, when it is accepted, remembers it.
    pub fn admit(&mut self, now: MonoMs, wall: UnixMs, body: &GroupBody) -> Verdict {
        if let verdict @ Verdict::Reject(_) = judge_time(wall, UnixMs(body.capture_us / 1000)) {
            return verdict;
        }
        if body.epoch < self.epoch {
            let straggler = now.since(self.began) < STRAGGLER_MS;
            return if straggler { Verdict::Ignore("of the epoch before") } else { Verdict::Reject("replayed epoch") };
        }
        let newest = match self.newest {
            Some(newest) if body.epoch == self.epoch => newest,
            _ => {
                *self = Window { epoch: body.epoch, newest: Some(body.seq), taken: 1, began: now };
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
            return Verdict::Reject("replayed group");
        }
        let bit = 1u128 << behind;
        if self.taken & bit != 0 {
            return Verdict::Ignore("taken before");
        }
        self.taken |= bit;
        Verdict::Accept
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    milli_tokens: u64,
    at: MonoMs,
}

impl Bucket {
    /// A full bucket of `burst` tokens.
    pub fn full(now: MonoMs, burst: u32) -> Self {
        Bucket { milli_tokens: u64::from(burst) * 1000, at: now }
    }

    /// Takes a token if there is one; `per_second` come back, `burst` fit.
    pub fn take(&mut self, now: MonoMs, per_second: u32, burst: u32) -> bool {
        let gained = now.since(self.at).saturating_mul(u64::from(per_second));
        self.milli_tokens = self.milli_tokens.saturating_add(gained).min(u64::from(burst) * 1000);
        self.at = now;
        match self.milli_tokens.checked_sub(1000) {
            Some(rest) => {
                self.milli_tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMs = UnixMs(1_800_000_000_000);

    fn group(epoch: u64, seq: u64) -> GroupBody {
        GroupBody { epoch, seq, capture_us: WALL.0 * 1000, ..Default::default() }
    }

    #[test]
    fn each_group_enters_once_in_any_order() {
        let mut window = Window::default();
        let mut admit = |epoch, seq| window.admit(MonoMs(0), WALL, &group(epoch, seq));
        for seq in [5, 7, 6, 100, 4] {
            assert_eq!(admit(1, seq), Verdict::Accept, "{seq}");
            assert_eq!(admit(1, seq), Verdict::Ignore("taken before"), "{seq}");
        }
        assert_eq!(admit(1, 1000), Verdict::Accept);
        assert_eq!(admit(1, 100), Verdict::Reject("replayed group"));
        assert_eq!(admit(2, 0), Verdict::Accept, "a restarted publisher begins again");
        assert_eq!(admit(1, 1001), Verdict::Ignore("of the epoch before"));
        let late = window.admit(MonoMs(STRAGGLER_MS), WALL, &group(1, 1002));
        assert_eq!(late, Verdict::Reject("replayed epoch"));
    }

    #[test]
    fn a_recording_of_yesterday_is_refused() {
        let mut window = Window::default();
        let old = GroupBody { capture_us: (WALL.0 - CLOCK_TOLERANCE_MS - 1) * 1000, ..group(1, 0) };
        assert_eq!(window.admit(MonoMs(0), WALL, &old), Verdict::Reject("too old"));
        let future = judge_time(WALL, UnixMs(WALL.0 + CLOCK_TOLERANCE_MS + 1));
        assert_eq!(future, Verdict::Reject("dated in the future"));
        assert_eq!(future.forgiving_own_clock(false), future);
        assert_eq!(future.forgiving_own_clock(true), Verdict::Ignore("dated in the future"));
    }

    #[test]
    fn a_bucket_refills_to_its_burst() {
        let mut bucket = Bucket::full(MonoMs(0), 2);
        assert!(bucket.take(MonoMs(0), 1, 2) && bucket.take(MonoMs(0), 1, 2));
        assert!(!bucket.take(MonoMs(500), 1, 2));
        assert!(bucket.take(MonoMs(1000), 1, 2));
        assert!(bucket.take(MonoMs(1_000_000), 1, 2) && bucket.take(MonoMs(1_000_000), 1, 2));
        assert!(!bucket.take(MonoMs(1_000_000), 1, 2));
    }
}
