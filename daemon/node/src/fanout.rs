//! One source, many readers, each with a bounded queue of its own: a slow reader loses its own items and is told.

use std::time::Duration;

use p2pd_core::ring::Cause;
use p2pd_net::queue::{self, Reader, Room, Writer};

/// The readers of one source.
pub struct Fanout<T> {
    /// Each with how long the source should wait for it when it is slow.
    readers: Vec<(Writer<T>, Option<Duration>)>,
}

impl<T> Default for Fanout<T> {
    fn default() -> Self {
        Fanout { readers: Vec::new() }
    }
}

impl<T: Clone> Fanout<T> {
    /// Admits a reader that may be `items` items and `bytes` bytes behind.
    pub fn join(&mut self, items: usize, bytes: usize) -> Reader<T> {
        self.join_after(items, bytes, [])
    }

    /// Admits a reader that gets `earlier` items first, each with its weight.
    pub fn join_after(
        &mut self,
        items: usize,
        bytes: usize,
        earlier: impl IntoIterator<Item = (usize, T)>,
    ) -> Reader<T> {
        let (writer, reader) = queue::bounded(items, bytes);
        for (weight, item) in earlier {
            writer.push(weight, item);
        }
        self.readers.push((writer, None));
        reader
    }

    /// Admits a reader for whom the source should wait so long before it may lose anything.
    pub fn join_patient(&mut self, items: usize, bytes: usize, patience: Duration) -> Reader<T> {
        let (writer, reader) = queue::bounded(items, bytes);
        self.readers.push((writer, Some(patience)));
        reader
    }

    /// What to wait for before the next item, and how long at most.
    pub fn rooms(&self) -> Vec<(Room<T>, Duration)> {
        self.readers.iter().filter_map(|(reader, patience)| Some((reader.room(), (*patience)?))).collect()
    }

    /// Gives every reader the item.
    pub fn push(&self, weight: usize, item: &T) {
        for (reader, _) in &self.readers {
            reader.push(weight, item.clone());
        }
    }

    /// Tells every reader that so many never came here.
    pub fn lose(&self, count: u64, cause: Cause) {
        self.readers.iter().for_each(|(reader, _)| reader.lose(count, cause));
    }

    /// Forgets readers that are gone. Returns how many are left.
    pub fn sweep(&mut self) -> usize {
        self.readers.retain(|(reader, _)| !reader.is_abandoned());
        self.readers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use p2pd_core::ring::Next;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Lose,
        Join,
        Read(usize),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Push),
            1 => Just(Step::Lose),
            1 => Just(Step::Join),
            4 => (0usize..8).prop_map(Step::Read),
            1 => (0usize..8).prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        /// Whoever comes and goes, each reader gets every item since it joined, in order, or is told of the gap.
        #[test]
        fn every_reader_can_account_for_everything(steps in steps()) {
            let mut fanout = Fanout::default();
            // Each with the item that it has to hear of next.
            let mut readers: Vec<(Reader<u64>, u64)> = Vec::new();
            let mut pushed = 0;
            let read = |(reader, due): &mut (Reader<u64>, u64)| {
                let next = reader.next().now_or_never().flatten();
                match next {
                    Some(Next::Item(item)) => {
                        assert_eq!(item, *due);
                        *due += 1;
                    }
                    Some(Next::Gap { from, to, .. }) => *due += to - from + 1,
                    None => return false,
                }
                true
            };
            for step in steps {
                match step {
                    Step::Push => {
                        fanout.push(1, &pushed);
                        pushed += 1;
                    }
                    Step::Lose => {
                        fanout.lose(3, Cause::Busy);
                        pushed += 3;
                    }
                    Step::Join => readers.push((fanout.join(4, usize::MAX), pushed)),
                    Step::Read(n) => {
                        if let Some(reader) = readers.get_mut(n) {
                            read(reader);
                        }
                    }
                    Step::Leave(n) if n < readers.len() => drop(readers.swap_remove(n)),
                    Step::Leave(_) => {}
                }
            }
            prop_assert_eq!(fanout.sweep(), readers.len());
            for reader in &mut readers {
                while read(reader) {}
                prop_assert_eq!(reader.1, pushed);
            }
        }
    }
}
