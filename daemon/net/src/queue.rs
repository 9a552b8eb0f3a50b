//! A bounded queue between tasks that never makes the writer wait: when full, the oldest item goes and the reader is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::ring::{Cause, Next, Ring};
use tokio::sync::Notify;

struct Shared<T> {
    ring: Mutex<State<T>>,
    filled: Notify,
    drained: Notify,
}

struct State<T> {
    ring: Ring<T>,
    closed: bool,
    abandoned: bool,
}

/// The end that writes; the reader sees the end of the queue when it is gone.
pub struct Writer<T>(Arc<Shared<T>>);

/// The end that reads.
pub struct Reader<T>(Arc<Shared<T>>);

/// A queue of at most `items` items that weigh at most `bytes` together.
pub fn bounded<T>(items: usize, bytes: usize) -> (Writer<T>, Reader<T>) {
    let state = State { ring: Ring::new(items, bytes), closed: false, abandoned: false };
    let shared = Arc::new(Shared { ring: Mutex::new(state), filled: Notify::new(), drained: Notify::new() });
    (Writer(shared.clone()), Reader(shared))
}

impl<T> Shared<T> {
    // A panic while the lock is held cannot leave a ring half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Writer<T> {
    /// Adds an item that weighs so many bytes. Returns the older ones that were dropped for it.
    pub fn push(&self, weight: usize, item: T) -> Vec<T> {
        let dropped = self.0.lock().ring.push(weight, item);
        self.0.filled.notify_one();
        dropped
    }

    /// Tells the reader of items that never came here.
    pub fn lose(&self, count: u64, cause: Cause) {
        self.0.lock().ring.lose(count, cause);
        self.0.filled.notify_one();
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.0.lock().ring.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.0.lock().ring.is_empty()
    }

    /// What tells when the reader has caught up.
    pub fn room(&self) -> Room<T> {
        Room(self.0.clone())
    }

    /// Whether the reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.0.lock().abandoned
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.0.lock().abandoned = true;
        self.0.drained.notify_waiters();
    }
}

/// Tells a writer who would rather wait than have items dropped when there is room again.
pub struct Room<T>(Arc<Shared<T>>);

impl<T> Room<T> {
    /// Waits while the queue is more than three quarters full and its reader there. The last quarter is for those who
    /// were told at the same time.
    pub async fn wait(&self) {
        loop {
            let drained = self.0.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            let crowded = {
                let state = self.0.lock();
                state.ring.is_crowded() && !state.abandoned
            };
            if !crowded {
                return;
            }
            drained.await;
        }
    }
}

impl<T> Reader<T> {
    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().ring.is_empty()
    }

    /// The next item or gap; `None` when the writer is gone and all is read. Cancel-safe.
    pub async fn next(&mut self) -> Option<Next<T>> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(next) = state.ring.pop() {
                    self.0.drained.notify_waiters();
                    return Some(next);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_tells_its_reader_of_the_gap() {
        let (writer, mut reader) = bounded(2, usize::MAX);
        for n in 0..5 {
            writer.push(1, n);
        }
        drop(writer);
        assert_eq!(reader.next().await, Some(Next::Gap { from: 0, to: 2, cause: Cause::SlowReader }));
        assert_eq!(reader.next().await, Some(Next::Item(3)));
        assert_eq!(reader.next().await, Some(Next::Item(4)));
        assert_eq!(reader.next().await, None);
    }
}
