//! Epochs of streams: numbers that grow also over a restart, whatever becomes of the clock. Written with the rest of the state, so that
//! nothing live waits for the disk.

use p2pd_node::disk::number;
use p2pd_store::{Store, StoreError};

use p2pd_node::clock::wall;

use crate::{Live, lock};

/// Name of the setting that keeps the last one.
pub const EPOCH: &str = "epoch";

/// The last one given, and the last one on disk.
pub(crate) struct State {
    last: u64,
    written: u64,
}

impl State {
    pub(crate) fn restore(store: &Store) -> Result<Self, StoreError> {
        let last = number(store, EPOCH)?.unwrap_or_default();
        Ok(State { last, written: last })
    }
}

impl Live {
    /// When a stream that begins now begins, in milliseconds since 1970, and later than any before it, also where the clock was set back:
    /// listeners take nothing of an earlier epoch.
    pub(crate) fn next_epoch(&self) -> u64 {
        let last = &mut lock(&self.0.epoch).last;
        *last = wall().0.max(last.saturating_add(1));
        *last
    }

    /// The last one, where it is not on disk yet.
    pub(crate) fn unwritten_epoch(&self) -> Option<u64> {
        let state = lock(&self.0.epoch);
        (state.last != state.written).then_some(state.last)
    }

    /// This one is written.
    pub(crate) fn epoch_is_written(&self, epoch: Option<u64>) {
        if let Some(epoch) = epoch {
            lock(&self.0.epoch).written = epoch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_cannot_be_read_does_not_begin_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.set_setting(EPOCH, "7").unwrap();
        assert_eq!(State::restore(&store).unwrap().last, 7);
        store.set_setting(EPOCH, "7x").unwrap();
        let told = State::restore(&store).err().unwrap().to_string();
        assert!(told.contains("store drop settings 'epoch'"), "{told}");
    }
}
