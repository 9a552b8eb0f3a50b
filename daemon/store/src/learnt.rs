//! What the network tells anew: the directory and the peer book. Not synced, and a record that cannot be read is left out, but counted.

use prost::Message;
use rocksdb::{IteratorMode, WriteBatch};

use crate::{
    Store, StoreError,
    record::{DirectoryRecord, PeerRecord},
    schema::{DIRECTORY, PEERS, directory_key, read_directory_key},
    table::{Reach, table},
};

/// A stream of the directory: publisher, stream id, and its record, or none where it is gone.
pub type DirectoryChange = (Vec<u8>, String, Option<DirectoryRecord>);

/// Records of a table, and the keys of those that cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnt<T> {
    /// Those that can.
    pub records: Vec<T>,
    /// Keys of the others.
    pub unreadable: Vec<Vec<u8>>,
}

impl Store {
    fn learnt<T>(&self, name: &'static str, read: impl Fn(&[u8], &[u8]) -> Option<T>) -> Result<Learnt<T>, StoreError> {
        self.call(|db| {
            let mut all = Learnt { records: Vec::new(), unreadable: Vec::new() };
            for row in db.iterator_cf(table(db, name)?, IteratorMode::Start) {
                let (key, value) = row?;
                match read(&key, &value) {
                    Some(record) => all.records.push(record),
                    None => all.unreadable.push(key.into_vec()),
                }
            }
            Ok(all)
        })
    }

    /// Every stream of the directory: publisher, stream id, record.
    pub fn directory(&self) -> Result<Learnt<(Vec<u8>, String, DirectoryRecord)>, StoreError> {
        self.learnt(DIRECTORY, |key, value| {
            let (publisher, stream) = read_directory_key(key)?;
            Some((publisher, stream, DirectoryRecord::decode(value).ok()?))
        })
    }

    /// Replaces the directory as a whole; not synced, since the network tells it anew.
    pub fn replace_directory(&self, entries: &[(Vec<u8>, String, DirectoryRecord)]) -> Result<(), StoreError> {
        self.call(|db| {
            let table = table(db, DIRECTORY)?;
            let mut batch = WriteBatch::default();
            for row in db.iterator_cf(table, IteratorMode::Start) {
                batch.delete_cf(table, row?.0);
            }
            for (publisher, stream, record) in entries {
                batch.put_cf(table, directory_key(publisher, stream), record.encode_to_vec());
            }
            self.write(db, batch, Reach::System)
        })
    }

    /// Writes what has changed of the directory; not synced either.
    pub fn change_directory(&self, changes: &[DirectoryChange]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.call(|db| {
            let table = table(db, DIRECTORY)?;
            let mut batch = WriteBatch::default();
            for (publisher, stream, record) in changes {
                let key = directory_key(publisher, stream);
                match record {
                    Some(record) => batch.put_cf(table, key, record.encode_to_vec()),
                    None => batch.delete_cf(table, key),
                }
            }
            self.write(db, batch, Reach::System)
        })
    }

    /// Every peer of the peer book.
    pub fn peers(&self) -> Result<Learnt<(Vec<u8>, PeerRecord)>, StoreError> {
        self.learnt(PEERS, |key, value| Some((key.to_vec(), PeerRecord::decode(value).ok()?)))
    }

    /// One peer of the peer book; none where its record cannot be read, which the next one replaces.
    pub fn peer(&self, peer: &[u8]) -> Result<Option<PeerRecord>, StoreError> {
        let record = self.call(|db| Ok(db.get_cf(table(db, PEERS)?, peer)?))?;
        Ok(record.and_then(|bytes| PeerRecord::decode(bytes.as_slice()).ok()))
    }

    /// Writes a peer into the peer book.
    pub fn put_peer(&self, peer: Vec<u8>, record: PeerRecord) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, PEERS)?, &peer, record.encode_to_vec());
            self.write(db, batch, Reach::System)
        })
    }

    /// Takes peers out of it.
    pub fn forget_peers(&self, peers: &[Vec<u8>]) -> Result<(), StoreError> {
        if peers.is_empty() {
            return Ok(());
        }
        self.call(|db| {
            let (table, mut batch) = (table(db, PEERS)?, WriteBatch::default());
            peers.iter().for_each(|peer| batch.delete_cf(table, peer));
            self.write(db, batch, Reach::System)
        })
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::DB;

    use super::*;

    #[test]
    fn the_directory_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let entry = (vec![1, 2], "town".to_owned(), DirectoryRecord { metadata: "{}".into(), time: 5 });
        Store::open(directory.path()).unwrap().replace_directory(std::slice::from_ref(&entry)).unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.directory().unwrap().records, [entry]);
        store.replace_directory(&[]).unwrap();
        assert!(store.directory().unwrap().records.is_empty());
    }

    #[test]
    fn of_the_directory_is_written_what_changed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let entry = |n: u16| (vec![1], n.to_string(), DirectoryRecord { metadata: "{}".into(), time: n.into() });
        let all: Vec<_> = (0..1_000).map(entry).collect();
        store.replace_directory(&all).unwrap();
        let records = || store.call(|db| Ok(db.latest_sequence_number())).unwrap();
        let before = records();
        store.change_directory(&[(vec![1], "7".into(), None), (vec![1], "new".into(), Some(entry(9).2))]).unwrap();
        store.change_directory(&[]).unwrap();
        assert_eq!(records() - before, 2);
        let kept = store.directory().unwrap().records;
        assert_eq!(kept.len(), 1_000);
        assert!(kept.iter().all(|(_, stream, _)| stream != "7") && kept.iter().any(|(_, stream, _)| stream == "new"));
    }

    #[test]
    fn peers_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (0..9u8).for_each(|n| store.put_peer(vec![n], PeerRecord { seen: n.into(), ..PeerRecord::default() }).unwrap());
        store.forget_peers(&(0..5u8).map(|n| vec![n]).collect::<Vec<_>>()).unwrap();
        assert_eq!(store.peers().unwrap().records.iter().map(|(p, _)| p[0]).collect::<Vec<_>>(), [5, 6, 7, 8]);
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_hides_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let junk = |name, key: &[u8]| store.call(|db: &DB| Ok(db.put_cf(table(db, name)?, key, b"\xff")?)).unwrap();
        store.put_peer(vec![7], PeerRecord { seen: 7, ..PeerRecord::default() }).unwrap();
        junk(PEERS, &[1]);
        junk(PEERS, &[9]);
        let Learnt { records, unreadable } = store.peers().unwrap();
        assert_eq!((records.len(), &unreadable[..]), (1, &[vec![1], vec![9]][..]));
        assert_eq!(store.peer(&[1]).unwrap(), None, "it is learnt anew");
        store.forget_peers(&unreadable).unwrap();
        assert!(store.peers().unwrap().unreadable.is_empty());
        junk(DIRECTORY, b"\xffx");
        store.change_directory(&[(vec![1], "town".into(), Some(DirectoryRecord::default()))]).unwrap();
        let Learnt { records, unreadable } = store.directory().unwrap();
        assert_eq!((records.len(), unreadable.len()), (1, 1));
        assert!(!store.has_failed(), "the disk is well");
    }
}
