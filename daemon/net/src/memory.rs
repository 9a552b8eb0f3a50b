//! How much memory the process has, and what to do when that is too much: the library's own limiter only refuses new
//! connections, while those that are there go on growing.

use std::fs;

use p2pd_core::time::MonoMs;

/// How often the kernel is asked, in milliseconds. What a closed connection held is given back only after a while.
const LOOK_MS: u64 = 5_000;
/// Of eight peers, how many are let go of at once.
const SHARE: usize = 8;

/// Compares memory with its budget.
#[derive(Debug)]
pub(crate) struct Governor {
    /// In bytes.
    budget: Option<u64>,
    looked: MonoMs,
}

impl Governor {
    pub(crate) fn new(budget: Option<u64>) -> Self {
        Governor { budget, looked: MonoMs(0) }
    }

    /// How many of these peers may stay; `None` while there is memory enough.
    pub(crate) fn room(&mut self, now: MonoMs, peers: usize) -> Option<usize> {
        let budget = self.budget?;
        if now.since(self.looked) < LOOK_MS {
            return None;
        }
        self.looked = now;
        let resident = resident()?;
        if resident <= budget {
            return None;
        }
        tracing::warn!(resident, budget, peers, "more memory than network.memory_mib; letting go of the least useful");
        Some(peers.saturating_sub(peers.div_ceil(SHARE)))
    }
}

/// Resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_goes_while_there_is_too_much() {
        let mut tight = Governor::new(Some(1));
        assert_eq!(tight.room(MonoMs(1_000), 40), None, "too early");
        assert_eq!(tight.room(MonoMs(5_000), 40), Some(35));
        assert_eq!(tight.room(MonoMs(5_100), 35), None, "memory is given back in its own time");
        assert_eq!(tight.room(MonoMs(10_000), 1), Some(0));
        assert_eq!(Governor::new(Some(u64::MAX)).room(MonoMs(5_000), 40), None);
        assert_eq!(Governor::new(None).room(MonoMs(5_000), 40), None);
    }
}
