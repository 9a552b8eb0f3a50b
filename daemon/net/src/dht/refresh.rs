//! How often Kademlia refreshes its routing table: soon after something has changed, and ever less while nothing does.

use p2pd_core::time::MonoMs;

/// First, and at most, in milliseconds.
const FIRST_MS: u64 = 60_000;
const MOST_MS: u64 = 16 * FIRST_MS;

pub(crate) struct Refresh {
    last: MonoMs,
    wait: u64,
}

impl Refresh {
    pub(crate) fn new() -> Self {
        Refresh { last: MonoMs(0), wait: FIRST_MS }
    }

    /// Peers came to be known or went.
    pub(crate) fn stirred(&mut self) {
        self.wait = FIRST_MS;
    }

    /// Whether it is time to.
    pub(crate) fn due(&mut self, now: MonoMs) -> bool {
        let due = now.since(self.last) >= self.wait;
        if due {
            self.last = now;
            self.wait = self.wait.saturating_mul(2).min(MOST_MS);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calmer_the_network_the_less_it_is_refreshed() {
        let mut refresh = Refresh::new();
        let mut looks = |from: u64, minutes: u64, stirs: bool| {
            let minute = |n: u64| MonoMs((from + n) * FIRST_MS);
            let due = (1..=minutes).filter(|n| {
                if stirs {
                    refresh.stirred();
                }
                refresh.due(minute(*n))
            });
            due.count()
        };
        assert_eq!(looks(0, 60, true), 60);
        assert_eq!(looks(60, 60, false), 5);
        assert_eq!(looks(120, 160, false), 10);
        assert_eq!(looks(280, 10, true), 10);
    }
}
