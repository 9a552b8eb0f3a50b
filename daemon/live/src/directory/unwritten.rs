//! What the disk's copy of the directory lacks. Streams of others alone are kept there.

use std::collections::BTreeSet;

use p2pd_core::id::StreamKey;
use p2pd_store::{DirectoryChange, DirectoryRecord};

use crate::{
    Live,
    directory::state::{Entry, MAX_ENTRIES},
    lock,
};

/// The streams that changed since they were written.
#[derive(Debug, PartialEq)]
pub(crate) enum Unwritten {
    Streams(BTreeSet<StreamKey>),
    /// So many changed while the disk took nothing that all are written anew.
    All,
}

impl Default for Unwritten {
    fn default() -> Self {
        Unwritten::Streams(BTreeSet::new())
    }
}

impl Unwritten {
    pub(super) fn add(&mut self, streams: impl IntoIterator<Item = StreamKey>) {
        if let Unwritten::Streams(unwritten) = self {
            unwritten.extend(streams);
            if unwritten.len() > MAX_ENTRIES {
                *self = Unwritten::All;
            }
        }
    }
}

/// What is to be written.
pub(crate) enum ToDisk {
    Changes(Vec<DirectoryChange>),
    All(Vec<(Vec<u8>, String, DirectoryRecord)>),
}

fn record(entry: &Entry) -> DirectoryRecord {
    let metadata = serde_json::to_string(&entry.metadata.0).unwrap_or_default();
    DirectoryRecord { metadata, time: entry.time.0 }
}

impl Live {
    /// What goes to disk now. If it cannot be written, `directory_not_written` takes back which streams it is of.
    pub(crate) fn directory_changes(&self) -> (Unwritten, ToDisk) {
        let state = &mut *lock(&self.0.directory);
        let unwritten = std::mem::take(&mut state.unwritten);
        let names = |key: &StreamKey| (key.publisher.as_bytes().to_vec(), key.stream.to_string());
        let of_others = |key: &StreamKey| key.publisher != self.0.with.me;
        let to_disk = match &unwritten {
            Unwritten::Streams(streams) => {
                let change = |key: &StreamKey| {
                    let (publisher, stream) = names(key);
                    (publisher, stream, state.directory.get(key).map(record))
                };
                ToDisk::Changes(streams.iter().filter(|key| of_others(key)).map(change).collect())
            }
            Unwritten::All => {
                let entry = |(key, entry): (&StreamKey, &Entry)| {
                    let (publisher, stream) = names(key);
                    (publisher, stream, record(entry))
                };
                ToDisk::All(state.directory.iter().filter(|(key, _)| of_others(key)).map(entry).collect())
            }
        };
        (unwritten, to_disk)
    }

    /// Takes back what was not written.
    pub(crate) fn directory_not_written(&self, unwritten: Unwritten) {
        let state = &mut *lock(&self.0.directory);
        match unwritten {
            Unwritten::Streams(streams) => state.unwritten.add(streams),
            Unwritten::All => state.unwritten = Unwritten::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::id::PeerId;

    use super::*;

    #[test]
    fn a_stream_that_changes_often_is_written_once_and_too_many_are_all() {
        let key = |n: usize| StreamKey {
            publisher: PeerId::from_ed25519(&[1; 32]),
            stream: format!("s{n}").parse().unwrap(),
        };
        let mut unwritten = Unwritten::default();
        (0..1_000).for_each(|n| unwritten.add([key(n % 2)]));
        assert_eq!(unwritten, Unwritten::Streams(BTreeSet::from([key(0), key(1)])));
        unwritten.add((0..=MAX_ENTRIES).map(key));
        assert_eq!(unwritten, Unwritten::All);
    }
}
