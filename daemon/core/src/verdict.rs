//! What becomes of a message, and how old one may be.

use crate::time::UnixMs;

/// How far a stranger's clock may be off before its messages count as old or future-dated, in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = 5 * 60_000;

/// What becomes of a message. `Reject` costs the peer that brought it score; `Ignore` does not.
///
/// Two honest peers must agree on every `Reject`, or one of them is blamed for passing on what the other refuses. So form, signature
/// and ownership are grounds for it; time, order and repetition, which each judges by its own clock and by what it heard, are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it and pass it on.
    Accept,
    /// Drop it: an honest peer may have passed it on.
    Ignore(&'static str),
    /// Drop it: no honest peer passes this on.
    Reject(&'static str),
}

/// Judges the time a message claims.
pub fn judge_time(now: UnixMs, claimed: UnixMs) -> Verdict {
    if claimed.since(now) > CLOCK_TOLERANCE_MS {
        Verdict::Ignore("dated in the future")
    } else if now.since(claimed) > CLOCK_TOLERANCE_MS {
        Verdict::Ignore("too old")
    } else {
        Verdict::Accept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMs = UnixMs(1_800_000_000_000);

    #[test]
    fn a_time_may_be_five_minutes_away_in_either_direction() {
        const FIVE_MINUTES: u64 = 300_000;
        for fine in [WALL.0 - FIVE_MINUTES, WALL.0, WALL.0 + FIVE_MINUTES] {
            assert_eq!(judge_time(WALL, UnixMs(fine)), Verdict::Accept, "{fine}");
        }
        assert_eq!(judge_time(WALL, UnixMs(WALL.0 - FIVE_MINUTES - 1)), Verdict::Ignore("too old"));
        assert_eq!(judge_time(WALL, UnixMs(WALL.0 + FIVE_MINUTES + 1)), Verdict::Ignore("dated in the future"));
    }
}
