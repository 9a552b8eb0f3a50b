//! Which groups of a stream are missing and when to ask a peer for them. Gossipsub's own repair comes with its
//! heartbeat, a second later, which is too late for live audio.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::time::MonoMs;

/// How long a missing number may still come by gossip before it is asked for, in milliseconds.
const PATIENCE_MS: u64 = 40;
/// Time between two askings for the same number, in milliseconds.
const RETRY_MS: u64 = 150;
/// How long a number is worth asking for, in milliseconds.
const GIVE_UP_MS: u64 = 2_000;
/// Silence after which the numbers to come are asked for, in milliseconds.
const SILENCE_MS: u64 = 350;
/// How long silence is taken for a fault rather than for the publisher's end, in milliseconds.
const SILENCE_MAX_MS: u64 = 15_000;
/// Most numbers asked for at once.
const MAX_ASK: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: MonoMs,
    asked: Option<MonoMs>,
}

/// The missing numbers of one stream.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    epoch: u64,
    newest: Option<u64>,
    heard: MonoMs,
    asked_ahead: MonoMs,
    missing: BTreeMap<u64, Missing>,
}

impl Repair {
    /// Notes a group that was taken.
    pub fn arrived(&mut self, now: MonoMs, epoch: u64, seq: u64) {
        let newest = match self.newest {
            Some(newest) if epoch == self.epoch => newest,
            Some(_) if epoch < self.epoch => return,
            _ => {
                *self = Repair { epoch, newest: Some(seq), heard: now, ..Repair::default() };
                return;
            }
        };
        self.missing.remove(&seq);
        if seq > newest {
            let from = newest.saturating_add(1).max(seq.saturating_sub(MAX_ASK));
            self.missing.extend((from..seq).map(|n| (n, Missing { since: now, asked: None })));
            (self.newest, self.heard) = (Some(seq), now);
        }
    }

    /// The epoch and the numbers to ask for now, each range at most 64 long.
    pub fn due(&mut self, now: MonoMs) -> Vec<(u64, RangeInclusive<u64>)> {
        self.missing.retain(|_, m| now.since(m.since) < GIVE_UP_MS);
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for (seq, missing) in &mut self.missing {
            let wait = missing.asked.map_or((missing.since, PATIENCE_MS), |at| (at, RETRY_MS));
            if now.since(wait.0) < wait.1 {
                continue;
            }
            missing.asked = Some(now);
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 == *seq => *last = *last.start()..=*seq,
                _ => ranges.push(*seq..=*seq),
            }
        }
        if let Some(newest) = self.newest {
            let silent = now.since(self.heard);
            if (SILENCE_MS..SILENCE_MAX_MS).contains(&silent) && now.since(self.asked_ahead) >= RETRY_MS {
                self.asked_ahead = now;
                ranges.push(newest.saturating_add(1)..=newest.saturating_add(MAX_ASK));
            }
        }
        ranges.into_iter().map(|range| (self.epoch, range)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_once_for_what_is_missing_and_gives_up() {
        let mut repair = Repair::default();
        repair.arrived(MonoMs(0), 1, 10);
        repair.arrived(MonoMs(100), 1, 14);
        assert_eq!(repair.due(MonoMs(100)), [], "gossip may still bring them");
        repair.arrived(MonoMs(120), 1, 12);
        assert_eq!(repair.due(MonoMs(140)), [(1, 11..=11), (1, 13..=13)]);
        assert_eq!(repair.due(MonoMs(150)), []);
        repair.arrived(MonoMs(160), 1, 11);
        assert_eq!(repair.due(MonoMs(300)), [(1, 13..=13)]);
        repair.arrived(MonoMs(2_050), 1, 15);
        assert_eq!(repair.due(MonoMs(2_101)), [], "13 is too old to matter");
    }

    #[test]
    fn asks_ahead_when_all_is_silent() {
        let mut repair = Repair::default();
        assert_eq!(repair.due(MonoMs(5_000)), [], "nothing was ever heard");
        repair.arrived(MonoMs(5_000), 1, 7);
        assert_eq!(repair.due(MonoMs(5_400)), [(1, 8..=71)]);
        assert_eq!(repair.due(MonoMs(30_000)), [], "the publisher is gone");
    }
}
