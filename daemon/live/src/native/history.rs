//! The last seconds of a stream, kept by every node that follows it: for a newcomer's burst and for groups that
//! somebody missed.

use std::{collections::BTreeMap, sync::Arc};

use p2pd_core::time::MonoMs;

use crate::group::Group;

/// How long groups are kept, in milliseconds.
pub(super) const KEPT_MS: u64 = 10_000;
/// Most bytes kept of one stream.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Groups of the newest epoch by number, with the time they came.
#[derive(Debug, Default)]
pub(super) struct History {
    epoch: u64,
    groups: BTreeMap<u64, (MonoMs, Arc<Group>)>,
    bytes: usize,
}

impl History {
    /// Keeps a group; a newer epoch replaces what was kept, an older one is left out.
    pub(super) fn insert(&mut self, now: MonoMs, group: Arc<Group>) {
        let (epoch, seq) = (group.body.epoch, group.body.seq);
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            *self = History { epoch, ..History::default() };
        }
        self.bytes = self.bytes.saturating_add(group.signed.len());
        if let Some((_, replaced)) = self.groups.insert(seq, (now, group)) {
            self.bytes = self.bytes.saturating_sub(replaced.signed.len());
        }
        self.forget(now);
    }

    fn forget(&mut self, now: MonoMs) {
        while let Some(oldest) = self.groups.first_entry() {
            if now.since(oldest.get().0) <= KEPT_MS && self.bytes <= MAX_BYTES {
                break;
            }
            let (_, group) = oldest.remove();
            self.bytes = self.bytes.saturating_sub(group.signed.len());
        }
    }

    /// The groups of the last `ms` milliseconds by arrival, oldest first.
    pub(super) fn last(&self, now: MonoMs, ms: u64) -> Vec<Arc<Group>> {
        self.groups.values().filter(|(at, _)| now.since(*at) <= ms).map(|(_, group)| group.clone()).collect()
    }

    /// The groups of `epoch` numbered `from` to `to`, as far as they are kept.
    pub(super) fn range(&self, epoch: u64, from: u64, to: u64) -> Vec<Arc<Group>> {
        if epoch != self.epoch || from > to {
            return Vec::new();
        }
        self.groups.range(from..=to).map(|(_, (_, group))| group.clone()).collect()
    }

    /// Epoch and number of the newest group.
    pub(super) fn newest(&self) -> Option<(u64, u64)> {
        self.groups.last_key_value().map(|(seq, _)| (self.epoch, *seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupBody;

    fn group(epoch: u64, seq: u64, size: usize) -> Arc<Group> {
        Arc::new(Group { body: GroupBody { epoch, seq, ..Default::default() }, signed: vec![0; size].into() })
    }

    #[test]
    fn keeps_ten_seconds_of_the_newest_epoch() {
        let mut history = History::default();
        for n in 0..200 {
            history.insert(MonoMs(n * 100), group(1, n, 900));
        }
        let now = MonoMs(19_900);
        assert_eq!(history.range(1, 0, 1000).first().unwrap().body.seq, 99);
        assert_eq!(history.last(now, 300).len(), 4);
        history.insert(now, group(2, 0, 900));
        assert_eq!(history.newest(), Some((2, 0)));
        history.insert(now, group(1, 200, 900));
        assert_eq!(history.range(1, 0, 1000).len(), 0, "an older epoch is not taken back");
    }

    #[test]
    fn is_bounded_in_bytes() {
        let mut history = History::default();
        for n in 0..1000 {
            history.insert(MonoMs(n), group(1, n, 32 * 1024));
        }
        assert!(history.bytes <= MAX_BYTES);
    }

    #[test]
    fn a_group_is_kept_for_exactly_ten_seconds_and_once() {
        let mut history = History::default();
        history.insert(MonoMs(0), group(1, 5, 100));
        history.insert(MonoMs(0), group(1, 6, 100));
        history.insert(MonoMs(10_000), group(1, 7, 100));
        assert_eq!((history.range(1, 0, 9).len(), history.bytes), (3, 300));
        history.insert(MonoMs(10_001), group(1, 7, 50));
        assert_eq!((history.range(1, 0, 9).len(), history.bytes), (1, 50), "in place of the other one");
        assert_eq!((history.range(1, 7, 7).len(), history.range(1, 8, 7).len()), (1, 0));
        assert_eq!((history.range(0, 0, 9).len(), history.last(MonoMs(10_301), 300).len()), (0, 1));
        assert_eq!(history.last(MonoMs(10_302), 300).len(), 0);
    }

    #[test]
    fn a_stream_may_take_two_mebibytes() {
        let mut history = History::default();
        (0..70).for_each(|n| history.insert(MonoMs(0), group(1, n, 32 * 1024)));
        assert_eq!(history.range(1, 0, 100).first().map(|group| group.body.seq), Some(6), "64 of them");
        assert_eq!(history.bytes, 2_097_152);
    }
}
