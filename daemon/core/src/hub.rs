//! One publisher, many readers: each reader has a ring of its own, so that a slow one loses its own items and nobody else's.

use std::collections::BTreeMap;

use crate::ring::{Next, Ring};

/// Names one reader of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(u64);

/// The readers of one source. Items are cloned per reader, so `T` should be a handle (`Arc`, `Bytes`).
#[derive(Debug)]
pub struct Hub<T> {
    readers: BTreeMap<ReaderId, Ring<T>>,
    last: u64,
    max_readers: usize,
}

impl<T: Clone> Hub<T> {
    /// A hub that admits `max_readers` readers.
    pub fn new(max_readers: usize) -> Self {
        Hub { readers: BTreeMap::new(), last: 0, max_readers }
    }

    /// Admits a reader, whose ring holds `max_items` and `max_bytes`; `None` when the hub is full.
    pub fn join(&mut self, max_items: usize, max_bytes: usize) -> Option<ReaderId> {
        if self.readers.len() >= self.max_readers {
            return None;
        }
        self.last = self.last.saturating_add(1);
        let id = ReaderId(self.last);
        self.readers.insert(id, Ring::new(max_items, max_bytes));
        Some(id)
    }

    /// Forgets a reader and what it has not read.
    pub fn leave(&mut self, reader: ReaderId) {
        self.readers.remove(&reader);
    }

    /// Gives every reader the item, which weighs `weight` bytes. Returns how many older items readers lost for it.
    pub fn push(&mut self, weight: usize, item: &T) -> usize {
        self.readers.values_mut().map(|ring| ring.push(weight, item.clone())).sum()
    }

    /// The next thing for this reader.
    pub fn pop(&mut self, reader: ReaderId) -> Option<Next<T>> {
        self.readers.get_mut(&reader)?.pop()
    }

    /// Number of readers.
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// Whether nobody reads.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_reader_loses_only_its_own() {
        let mut hub = Hub::new(2);
        let (slow, fast) = (hub.join(4, 1000).unwrap(), hub.join(4, 1000).unwrap());
        assert!(hub.join(4, 1000).is_none(), "the hub is full");
        for n in 0..10u32 {
            hub.push(1, &n);
            assert_eq!(hub.pop(fast), Some(Next::Item(n)));
        }
        assert_eq!(hub.pop(slow), Some(Next::Gap { from: 0, to: 5 }));
        assert_eq!(hub.pop(slow), Some(Next::Item(6)));
        hub.leave(slow);
        assert_eq!(hub.len(), 1);
    }
}
