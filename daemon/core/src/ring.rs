//! A bounded queue of one reader that drops its oldest item when full, and says which are missing.

use std::collections::VecDeque;

/// What a reader gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// An item, in the order of pushing.
    Item(T),
    /// Items with these positions (inclusive, counted from 0 since the ring was made) were dropped unread.
    Gap {
        /// First position lost.
        from: u64,
        /// Last position lost.
        to: u64,
        /// Why.
        cause: Cause,
    },
}

/// Why items are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The reader was too slow for them.
    SlowReader,
    /// They never came here: whoever brings them was too slow.
    Busy,
    /// They never came here: they are larger than is taken.
    TooLarge,
    /// They never came here: the connection to who sent them was too slow.
    NotReceived,
}

/// How many items never came here.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    busy: u64,
    too_large: u64,
    not_received: u64,
}

/// The queue; bounded by number of items and by their summed weight in bytes.
#[derive(Debug)]
pub struct Ring<T> {
    items: VecDeque<Held<T>>,
    max_items: usize,
    max_bytes: usize,
    bytes: usize,
    /// Since the last push; the reader may know already.
    lost: Lost,
    /// Position of the next item that is pushed.
    next: u64,
    /// Position that the reader expects next.
    expected: u64,
}

#[derive(Debug)]
struct Held<T> {
    position: u64,
    /// Of the positions before this one.
    lost: Lost,
    weight: usize,
    item: T,
}

impl<T> Ring<T> {
    /// A ring of at most `max_items` items that weigh at most `max_bytes` together. One item always fits.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        let (items, max_items, lost) = (VecDeque::new(), max_items.max(1), Lost::default());
        Ring { items, max_items, max_bytes, bytes: 0, lost, next: 0, expected: 0 }
    }

    /// Adds an item, dropping the oldest as needed. Returns those.
    pub fn push(&mut self, weight: usize, item: T) -> Vec<T> {
        let lost = std::mem::take(&mut self.lost);
        self.items.push_back(Held { position: self.next, lost, weight, item });
        self.next = self.next.saturating_add(1);
        self.bytes = self.bytes.saturating_add(weight);
        let mut dropped = Vec::new();
        while self.items.len() > self.max_items || (self.bytes > self.max_bytes && self.items.len() > 1) {
            if let Some(oldest) = self.items.pop_front() {
                self.bytes = self.bytes.saturating_sub(oldest.weight);
                dropped.push(oldest.item);
            }
        }
        dropped
    }

    /// Counts items that never came here; of a slow reader's, which did, the ring knows itself.
    pub fn lose(&mut self, count: u64, cause: Cause) {
        let lost = match cause {
            Cause::TooLarge => &mut self.lost.too_large,
            Cause::NotReceived => &mut self.lost.not_received,
            Cause::Busy | Cause::SlowReader => &mut self.lost.busy,
        };
        *lost = lost.saturating_add(count);
        self.next = self.next.saturating_add(count);
    }

    /// The next item, or the gap before it; `None` when all is read.
    pub fn pop(&mut self) -> Option<Next<T>> {
        let newest = (self.next, self.lost);
        let (position, lost) = self.items.front().map_or(newest, |held| (held.position, held.lost));
        let fitted = position.saturating_sub(lost.too_large);
        let received = fitted.saturating_sub(lost.not_received);
        // First what this reader was too slow for, then what nobody got.
        let ends = [
            (received.saturating_sub(lost.busy), Cause::SlowReader),
            (received, Cause::Busy),
            (fitted, Cause::NotReceived),
            (position, Cause::TooLarge),
        ];
        for (end, cause) in ends {
            if self.expected < end {
                let from = std::mem::replace(&mut self.expected, end);
                return Some(Next::Gap { from, to: end - 1, cause });
            }
        }
        let Held { position, weight, item, .. } = self.items.pop_front()?;
        self.bytes = self.bytes.saturating_sub(weight);
        self.expected = position.saturating_add(1);
        Some(Next::Item(item))
    }

    /// What is unread, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|held| &held.item)
    }

    /// Whether more than three quarters of its items or bytes are taken.
    pub fn is_crowded(&self) -> bool {
        self.items.len() > self.max_items / 4 * 3 || self.bytes > self.max_bytes / 4 * 3
    }

    /// Number of unread items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is unread.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_tells_who_was_slow() {
        let mut ring = Ring::new(2, usize::MAX);
        for item in 0..4 {
            ring.push(1, item);
        }
        ring.lose(3, Busy);
        ring.push(1, 4);
        let all: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        let gap = |from, to, cause| Next::Gap { from, to, cause };
        use Cause::{Busy, NotReceived, SlowReader, TooLarge};
        assert_eq!(all, [gap(0, 2, SlowReader), Next::Item(3), gap(4, 6, Busy), Next::Item(4)]);
        // What was dropped with its gap before it.
        ring.lose(1, Busy);
        (5..8).for_each(|item| drop(ring.push(1, item)));
        let all: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        assert_eq!(all, [gap(8, 9, SlowReader), Next::Item(6), Next::Item(7)]);
        // What nothing came after, and nothing told twice.
        ring.lose(2, Busy);
        assert_eq!(ring.pop(), Some(gap(12, 13, Busy)));
        ring.lose(1, Busy);
        ring.push(1, 8);
        let all: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        assert_eq!(all, [gap(14, 14, Busy), Next::Item(8)]);
        // What never came, for one reason and the other.
        ring.lose(1, TooLarge);
        ring.lose(3, NotReceived);
        ring.lose(2, Busy);
        ring.push(1, 9);
        let all: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
        let gaps = [gap(16, 17, Busy), gap(18, 20, NotReceived), gap(21, 21, TooLarge)];
        assert_eq!(all, [&gaps[..], &[Next::Item(9)]].concat());
    }

    #[test]
    fn the_newest_item_stays_however_heavy_it_is() {
        let mut ring = Ring::new(3, 10);
        assert!(ring.push(11, 'a').is_empty());
        assert_eq!((ring.len(), ring.is_empty()), (1, false));
        assert_eq!(ring.push(10, 'b'), ['a']);
        assert_eq!(ring.push(1, 'c'), ['b'], "11 bytes are too many");
        assert!(ring.push(9, 'd').is_empty(), "10 are not");
        assert_eq!((ring.push(0, 'e'), ring.push(0, 'f')), (vec![], vec!['c']), "nor are three items");
        assert_eq!(ring.items().collect::<Vec<_>>(), [&'d', &'e', &'f']);
        while ring.pop().is_some() {}
        assert_eq!((ring.len(), ring.is_empty(), ring.bytes), (0, true, 0));
    }

    #[test]
    fn a_ring_is_crowded_from_three_quarters_on() {
        let crowded = |items: usize, weight: usize| {
            let mut ring = Ring::new(100, 1_000);
            (0..items).for_each(|_| drop(ring.push(weight, ())));
            ring.is_crowded()
        };
        assert_eq!([crowded(0, 0), crowded(75, 1), crowded(76, 1)], [false, false, true]);
        assert_eq!([crowded(2, 375), crowded(2, 376)], [false, true]);
    }

    proptest! {
        /// Whatever is pushed is read in order or lies in exactly one gap.
        #[test]
        fn every_item_is_delivered_or_in_a_gap(
            ops in prop::collection::vec((0u8..5, 0usize..40), 0..400), max in 1usize..20, bytes in 0usize..300,
        ) {
            let mut ring = Ring::new(max, bytes);
            let (mut pushed, mut seen) = (0u64, 0u64);
            let mut read = |ring: &mut Ring<u64>| match ring.pop() {
                Some(Next::Item(n)) => { assert_eq!(n, seen); seen += 1; true }
                Some(Next::Gap { from, to, .. }) => { assert_eq!(from, seen); assert!(to >= from); seen = to + 1; true }
                None => false,
            };
            for (step, weight) in ops {
                match step {
                    0 | 1 => { ring.push(weight, pushed); pushed += 1; }
                    2 => { ring.lose(2, Cause::Busy); ring.lose(1, Cause::TooLarge); ring.lose(1, Cause::NotReceived); pushed += 4; }
                    _ => { read(&mut ring); }
                }
                prop_assert!(ring.len() <= max);
                prop_assert!(ring.bytes <= bytes || ring.len() == 1);
            }
            while read(&mut ring) {}
            prop_assert_eq!(seen, pushed);
        }
    }
}
