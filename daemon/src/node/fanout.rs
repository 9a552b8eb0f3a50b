//! One source, many readers, each with a bounded queue of its own: a slow reader loses its own items and is told.

use p2pd_net::queue::{self, Reader, Writer};

/// The readers of one source.
pub(crate) struct Fanout<T> {
    readers: Vec<Writer<T>>,
}

impl<T: Clone> Fanout<T> {
    pub(crate) fn new() -> Self {
        Fanout { readers: Vec::new() }
    }

    /// Admits a reader that may be `items` items and `bytes` bytes behind.
    pub(crate) fn join(&mut self, items: usize, bytes: usize) -> Reader<T> {
        let (writer, reader) = queue::bounded(items, bytes);
        self.readers.push(writer);
        reader
    }

    /// Gives every reader the item.
    pub(crate) fn push(&self, weight: usize, item: &T) {
        for reader in &self.readers {
            reader.push(weight, item.clone());
        }
    }

    /// Forgets readers that are gone. Returns how many are left.
    pub(crate) fn sweep(&mut self) -> usize {
        self.readers.retain(|reader| !reader.is_abandoned());
        self.readers.len()
    }
}
