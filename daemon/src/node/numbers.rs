//! Numbers that grow also over a restart, whatever becomes of the clock: those of values in the DHT, and the epochs of streams. Written
//! with the rest of the state, so that nothing live waits for the disk, and what is newer never lands first.

use p2pd_core::{
    time::{RunMs, UnixMs},
    value,
};
use p2pd_store::{Store, StoreError};

use p2pd_node::disk::number;

use super::{Node, lock, wall};

/// Names of the settings that keep them.
pub(super) const EPOCH: &str = "epoch";
pub(super) const VALUE: &str = "value-seq";

/// The last ones given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    epoch: u64,
    value: u64,
}

/// Those in use, and those on disk.
pub(super) struct State {
    last: Numbers,
    written: Numbers,
}

impl State {
    pub(super) fn restore(store: &Store) -> Result<Self, StoreError> {
        let kept = |name| Ok::<_, StoreError>(number(store, name)?.unwrap_or_default());
        let last = Numbers { epoch: kept(EPOCH)?, value: kept(VALUE)? };
        Ok(State { last, written: last })
    }
}

impl Numbers {
    pub(super) fn write(self, store: &Store) -> Result<(), StoreError> {
        store.set_setting(EPOCH, &self.epoch.to_string())?;
        store.set_setting(VALUE, &self.value.to_string())
    }
}

impl Node {
    /// When a stream that begins now begins, in milliseconds since 1970, and later than any before it, also where the clock was set back:
    /// listeners take nothing of an earlier epoch.
    pub(super) fn next_epoch(&self) -> u64 {
        let last = &mut lock(&self.0.numbers).last;
        last.epoch = wall().0.max(last.epoch.saturating_add(1));
        last.epoch
    }

    /// The number of a value that is put now.
    pub(super) fn next_value(&self, now: UnixMs) -> u64 {
        let running: RunMs = self.0.clock.running();
        let last = &mut lock(&self.0.numbers).last;
        last.value = value::next_seq(last.value, now, running);
        last.value
    }

    /// Those that are not on disk yet.
    pub(super) fn unwritten_numbers(&self) -> Option<Numbers> {
        let state = lock(&self.0.numbers);
        (state.last != state.written).then_some(state.last)
    }

    /// These are written.
    pub(super) fn numbers_are_written(&self, numbers: Option<Numbers>) {
        if let Some(numbers) = numbers {
            lock(&self.0.numbers).written = numbers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_cannot_be_read_does_not_begin_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Numbers { epoch: 7, value: 9 }.write(&store).unwrap();
        assert!(State::restore(&store).unwrap().last == Numbers { epoch: 7, value: 9 });
        for name in [EPOCH, VALUE] {
            store.set_setting(name, "7x").unwrap();
            let told = State::restore(&store).err().unwrap().to_string();
            assert!(told.contains(&format!("store drop settings '{name}'")), "{told}");
            store.drop_record("settings", name).unwrap();
        }
    }
}
