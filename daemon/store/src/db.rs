//! The database: opened with the bounds of a small daemon, spoken to in the words of the domain. Calls block for a
//! disk access; keep them off the way of a frame.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Instant,
};

use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options,
    WriteBatch, WriteOptions,
};

use crate::{
    StoreError,
    health::Health,
    record::{DirectoryRecord, EventRecord, PeerRecord},
    schema::{
        DIRECTORY, EVENTS, MAX_EVENTS, MIGRATIONS, PEERS, SETTINGS, TABLES, VERSION, VERSION_KEY, directory_key,
        read_directory_key,
    },
};

/// The store; one process at a time has it open.
pub struct Store {
    pub(crate) path: PathBuf,
    /// `None` after it failed and could not be opened again.
    pub(crate) open: RwLock<Option<DB>>,
    pub(crate) health: Health,
}

/// A stream of the directory: publisher, stream id, and its record, or none where it is gone.
pub type DirectoryChange = (Vec<u8>, String, Option<DirectoryRecord>);

fn options() -> Options {
    let cache = Cache::new_lru_cache(4 << 20);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(1 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(8 << 20);
    options.set_max_open_files(64);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_max_background_jobs(2);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    // The default drops acknowledged records after the first bad one, without a word.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

/// The version of a database's schema, 0 of a new one.
fn known_version(db: &DB, path: &Path) -> Result<u32, StoreError> {
    let Some(bytes) = db.get(VERSION_KEY)? else { return Ok(0) };
    let found = bytes.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Corrupt { table: "default" })?;
    if found > VERSION {
        return Err(StoreError::Newer { path: path.into(), found, known: VERSION });
    }
    Ok(found)
}

/// Refuses a newer database that has other tables. RocksDB opens none without all its tables, and makes those that it lacks.
fn refuse_other_tables(path: &Path) -> Result<(), StoreError> {
    // There is none yet, or opening it tells the fault.
    let Ok(names) = DB::list_cf(&options(), path) else { return Ok(()) };
    let ours = |name: &String| name == "default" || TABLES.contains(&name.as_str());
    if names.iter().all(ours) && TABLES.iter().all(|table| names.iter().any(|name| name == table)) {
        return Ok(());
    }
    known_version(&DB::open_cf_for_read_only(&options(), path, names, false)?, path).map(drop)
}

/// Opens the database and brings it to this version's schema. Where there is none, makes one, or fails.
pub(crate) fn open(path: &Path, may_create: bool) -> Result<DB, StoreError> {
    refuse_other_tables(path)?;
    let tables = TABLES.map(|name| ColumnFamilyDescriptor::new(name, options()));
    let mut options = options();
    options.create_if_missing(may_create);
    options.create_missing_column_families(may_create);
    let db = DB::open_cf_descriptors(&options, path, tables)?;
    let found = known_version(&db, path)?;
    for (version, migration) in (2..).zip(MIGRATIONS).filter(|(version, _)| found > 0 && *version > found) {
        let mut batch = WriteBatch::default();
        migration(&db, &mut batch)?;
        batch.put(VERSION_KEY, u32::to_be_bytes(version));
        db.write_opt(batch, &written(Reach::Disk))?;
    }
    if found == 0 {
        db.put_opt(VERSION_KEY, VERSION.to_be_bytes(), &written(Reach::Disk))?;
    }
    Ok(db)
}

pub(crate) fn table<'a>(db: &'a DB, name: &'static str) -> Result<&'a ColumnFamily, StoreError> {
    db.cf_handle(name).ok_or(StoreError::Corrupt { table: name })
}

impl Store {
    /// Opens or creates the database and brings it to this version's schema. A newer one is refused untouched.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = RwLock::new(Some(open(path, true)?));
        Ok(Store { path: path.to_owned(), open, health: Health::default() })
    }

    /// Does something with the database, and notes how long that takes and what fails.
    pub(crate) fn call<T>(&self, act: impl FnOnce(&DB) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _running = self.health.begin(Instant::now());
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let done = open.as_ref().ok_or(StoreError::Closed).and_then(act);
        done.inspect_err(|error| self.health.failed(Instant::now(), error))
    }

    /// Writes all of a batch or nothing.
    pub(crate) fn write(&self, db: &DB, batch: WriteBatch, reach: Reach) -> Result<(), StoreError> {
        Ok(db.write_opt(batch, &written(reach))?)
    }

    pub(crate) fn all<T>(
        &self,
        table: &'static str,
        read: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.call(|db| {
            let rows = db.iterator_cf(self::table(db, table)?, IteratorMode::Start);
            rows.map(|row| {
                let (key, value) = row?;
                read(&key, &value).ok_or(StoreError::Corrupt { table })
            })
            .collect()
        })
    }

    /// A setting; survives power loss once `set_setting` has returned.
    pub fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let value = self.call(|db| Ok(db.get_cf(table(db, SETTINGS)?, name)?))?;
        value.map(|bytes| String::from_utf8(bytes).map_err(|_| StoreError::Corrupt { table: SETTINGS })).transpose()
    }

    /// Keeps a setting.
    pub fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, SETTINGS)?, name, value);
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Every stream of the directory: publisher, stream id, record.
    pub fn directory(&self) -> Result<Vec<(Vec<u8>, String, DirectoryRecord)>, StoreError> {
        self.all(DIRECTORY, |key, value| {
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
    pub fn peers(&self) -> Result<Vec<(Vec<u8>, PeerRecord)>, StoreError> {
        self.all(PEERS, |key, value| Some((key.to_vec(), PeerRecord::decode(value).ok()?)))
    }

    /// One peer of the peer book.
    pub fn peer(&self, peer: &[u8]) -> Result<Option<PeerRecord>, StoreError> {
        self.call(|db| {
            let record = db.get_cf(table(db, PEERS)?, peer)?;
            let read = |bytes: Vec<u8>| PeerRecord::decode(bytes.as_slice());
            record.map(read).transpose().map_err(|_| StoreError::Corrupt { table: PEERS })
        })
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

    /// The kept events after number `after`, oldest first, with their numbers.
    pub fn events_after(&self, after: Option<u64>) -> Result<Vec<(u64, EventRecord)>, StoreError> {
        let from = after.map_or(0, |n| n.saturating_add(1)).to_be_bytes();
        self.call(|db| {
            let rows = db.iterator_cf(table(db, EVENTS)?, IteratorMode::From(&from, rocksdb::Direction::Forward));
            rows.map(|row| {
                let (key, value) = row?;
                let number = key.as_ref().try_into().map(u64::from_be_bytes);
                let corrupt = StoreError::Corrupt { table: EVENTS };
                match (number, EventRecord::decode(value.as_ref())) {
                    (Ok(number), Ok(record)) => Ok((number, record)),
                    _ => Err(corrupt),
                }
            })
            .collect()
        })
    }

    /// Number of the newest event.
    pub fn last_event(&self) -> Result<Option<u64>, StoreError> {
        let last = self.call(|db| Ok(db.iterator_cf(table(db, EVENTS)?, IteratorMode::End).next().transpose()?))?;
        match last {
            None => Ok(None),
            Some((key, _)) => {
                let number = key.as_ref().try_into().map_err(|_| StoreError::Corrupt { table: EVENTS })?;
                Ok(Some(u64::from_be_bytes(number)))
            }
        }
    }

    /// Appends events and drops those beyond the newest 10,000.
    pub fn append_events(&self, events: &[(u64, EventRecord)]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        self.call(|db| {
            let table = table(db, EVENTS)?;
            let mut batch = WriteBatch::default();
            let newest = &events[events.len().saturating_sub(MAX_EVENTS)..];
            for (number, record) in newest {
                batch.put_cf(table, number.to_be_bytes(), record.encode_to_vec());
            }
            // The numbers leave gaps, so those on disk are counted.
            let mut rows = db.raw_iterator_cf(table);
            rows.seek_to_last();
            for _ in newest.len()..MAX_EVENTS {
                rows.prev();
            }
            if let Some(key) = rows.key() {
                batch.delete_range_cf(table, &0u64.to_be_bytes()[..], key);
                batch.delete_cf(table, key);
            }
            rows.status()?;
            self.write(db, batch, Reach::System)
        })
    }
}

/// How far a write has come when it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It survives the end of this process.
    System,
    /// It survives power loss.
    Disk,
}

fn written(reach: Reach) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(reach == Reach::Disk);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let entry = (vec![1, 2], "town".to_owned(), DirectoryRecord { metadata: "{}".into(), time: 5 });
        {
            let store = Store::open(directory.path()).unwrap();
            store.set_setting("epoch", "7").unwrap();
            store.replace_directory(std::slice::from_ref(&entry)).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("7"));
        assert_eq!(store.setting("other").unwrap(), None);
        assert_eq!(store.directory().unwrap(), [entry]);
        store.replace_directory(&[]).unwrap();
        assert!(store.directory().unwrap().is_empty());
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
        let kept = store.directory().unwrap();
        assert_eq!(kept.len(), 1_000);
        assert!(kept.iter().all(|(_, stream, _)| stream != "7") && kept.iter().any(|(_, stream, _)| stream == "new"));
    }

    #[test]
    fn peers_are_forgotten_and_the_events_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (0..9u8).for_each(|n| store.put_peer(vec![n], PeerRecord { seen: n.into(), ..PeerRecord::default() }).unwrap());
        store.forget_peers(&(0..5u8).map(|n| vec![n]).collect::<Vec<_>>()).unwrap();
        assert_eq!(store.peers().unwrap().iter().map(|(p, _)| p[0]).collect::<Vec<_>>(), [5, 6, 7, 8]);
        let events: Vec<_> = (0..MAX_EVENTS as u64 + 5).map(|n| (n, EventRecord::default())).collect();
        store.append_events(&events).unwrap();
        assert_eq!(store.events_after(None).unwrap().len(), MAX_EVENTS);
        assert_eq!(store.last_event().unwrap(), Some(MAX_EVENTS as u64 + 4));
        assert_eq!(store.events_after(Some(MAX_EVENTS as u64 + 2)).unwrap().len(), 2);
        // After a start the numbers begin far beyond.
        store.append_events(&[(u64::MAX - 1, EventRecord::default()), (u64::MAX, EventRecord::default())]).unwrap();
        let kept = store.events_after(None).unwrap();
        assert_eq!((kept.len(), kept[0].0), (MAX_EVENTS, 7));
    }

    #[test]
    fn corrupt_is_not_missing_and_newer_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        {
            let store = Store::open(directory.path()).unwrap();
            let junk = |db: &DB| Ok(db.put_cf(table(db, DIRECTORY)?, b"\xffx", b"junk")?);
            store.call(junk).unwrap();
            assert!(matches!(store.directory(), Err(StoreError::Corrupt { table: DIRECTORY })));
            store.call(|db| Ok(db.put(VERSION_KEY, 99u32.to_be_bytes())?)).unwrap();
        }
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 99, .. })));
    }

    #[test]
    fn a_newer_one_with_other_tables_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        {
            let mut db = open(directory.path(), true).unwrap();
            db.create_cf("to-come", &options()).unwrap();
            db.drop_cf(DIRECTORY).unwrap();
            db.put(VERSION_KEY, 99u32.to_be_bytes()).unwrap();
        }
        let before = DB::list_cf(&options(), directory.path()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 99, .. })));
        assert_eq!(DB::list_cf(&options(), directory.path()).unwrap(), before);
    }
}
