//! How much memory the process has, and what to do when that is too much: the library's own limiter only refuses new
//! connections, while those that are there go on growing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use p2pd_core::time::MonoMs;

/// How often the kernel is asked, in milliseconds. What a closed connection held is given back only after a while.
const LOOK_MS: u64 = 5_000;
/// Of eight peers, how many are let go of at once.
const SHARE: usize = 8;
/// How often peers are let go of although memory does not become less by that.
const IN_VAIN: u32 = 2;

/// Bytes of programs' messages on their way out, which no peer is to blame for.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<AtomicUsize>);

impl Held {
    /// How many there are now.
    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Compares memory with its budget.
#[derive(Debug)]
pub(crate) struct Governor {
    /// In bytes.
    budget: Option<u64>,
    held: Held,
    looked: MonoMs,
    /// Memory when peers were last let go of.
    last: Option<u64>,
    /// How often in a row that did not help.
    in_vain: u32,
}

impl Governor {
    pub(crate) fn new(budget: Option<u64>, held: Held) -> Self {
        Governor { budget, held, looked: MonoMs(0), last: None, in_vain: 0 }
    }

    /// How many of these peers may stay; `None` while there is memory enough, or others than peers have it.
    pub(crate) fn room(&mut self, now: MonoMs, peers: usize) -> Option<usize> {
        if self.budget.is_none() || now.since(self.looked) < LOOK_MS {
            return None;
        }
        self.looked = now;
        self.judge(resident()?, peers)
    }

    fn judge(&mut self, resident: u64, peers: usize) -> Option<usize> {
        let budget = self.budget?;
        let of_programs = u64::try_from(self.held.bytes()).unwrap_or(u64::MAX);
        let resident = resident.saturating_sub(of_programs);
        if resident <= budget {
            (self.last, self.in_vain) = (None, 0);
            return None;
        }
        let step = budget / 32;
        self.in_vain = match self.last {
            Some(last) if resident.saturating_add(step) > last && resident < last.saturating_add(step) => {
                self.in_vain.saturating_add(1)
            }
            _ => 0,
        };
        if self.in_vain >= IN_VAIN {
            if self.in_vain == IN_VAIN {
                tracing::warn!(resident, budget, "more memory than network.memory, which peers do not hold");
            }
            return None;
        }
        self.last = Some(resident);
        tracing::warn!(resident, budget, peers, "more memory than network.memory; letting go of the least useful");
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
        let mut tight = Governor::new(Some(1), Held::default());
        assert_eq!(tight.room(MonoMs(1_000), 40), None, "too early");
        assert_eq!(tight.room(MonoMs(5_000), 40), Some(35));
        assert_eq!(tight.room(MonoMs(5_100), 35), None, "memory is given back in its own time");
        assert_eq!(Governor::new(Some(u64::MAX), Held::default()).room(MonoMs(5_000), 40), None);
        assert_eq!(Governor::new(None, Held::default()).room(MonoMs(5_000), 40), None);
    }

    #[test]
    fn peers_stay_where_others_have_the_memory() {
        let held = Held::default();
        let mut governor = Governor::new(Some(320), held.clone());
        held.set(100);
        assert_eq!(governor.judge(420, 40), None, "programs have it");
        held.set(0);
        // It becomes less by what goes: all right to go on.
        let steps = [420, 400, 380, 360, 340].map(|resident| governor.judge(resident, 8));
        assert_eq!(steps, [Some(7); 5]);
        assert_eq!(governor.judge(320, 8), None);
        let steps = [420; 5].map(|resident| governor.judge(resident, 8));
        assert_eq!(steps, [Some(7), Some(7), None, None, None], "who has it is unknown");
        assert_eq!(governor.judge(440, 8), Some(7), "and more again");
    }
}
