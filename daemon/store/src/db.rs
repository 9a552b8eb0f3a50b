//! The database: opened with the bounds of a small daemon, spoken to in the words of the domain. Calls block for a
//! disk access; keep them off the way of a frame.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Instant,
};

use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBRecoveryMode, IteratorMode, Options, WriteBatch,
    WriteBufferManager,
};

use crate::{
    Rows, StoreError,
    health::Health,
    migrate::MIGRATIONS,
    record::EventRecord,
    schema::{EVENTS, MAX_EVENTS, SETTINGS, TABLES, VERSION, VERSION_KEY},
    table::{Reach, table, unreadable, written},
};

/// Bytes of what was read last, of all tables together.
const BLOCK_CACHE: usize = 8 << 20;
/// Bytes that wait in memory to be written into files, of all tables together.
const WRITE_BUFFERS: usize = 8 << 20;

/// The store; one process at a time has it open.
pub struct Store {
    pub(crate) path: PathBuf,
    /// `None` after it failed and could not be opened again.
    pub(crate) open: RwLock<Option<DB>>,
    pub(crate) health: Health,
}

/// Memory that all tables share.
struct Memory {
    /// What was read last.
    cache: Cache,
    /// What is not yet in a table's files; beyond it, the table whose rows are oldest is written out.
    written: WriteBufferManager,
}

impl Memory {
    fn new() -> Self {
        // Nobody waits for what is written out.
        let written = WriteBufferManager::new_write_buffer_manager(WRITE_BUFFERS, false);
        Memory { cache: Cache::new_lru_cache(BLOCK_CACHE), written }
    }
}

fn options(memory: &Memory) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&memory.cache);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_manager(&memory.written);
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
    let found = bytes.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Damaged("the schema version"))?;
    if found > VERSION {
        return Err(StoreError::Newer { path: path.into(), found, known: VERSION });
    }
    Ok(found)
}

/// Refuses a newer database that has other tables. RocksDB opens none without all its tables, and makes those that it lacks.
fn refuse_other_tables(path: &Path) -> Result<(), StoreError> {
    // There is none yet, or opening it tells the fault.
    let Ok(names) = DB::list_cf(&Options::default(), path) else { return Ok(()) };
    let ours = |name: &String| name == "default" || TABLES.contains(&name.as_str());
    if names.iter().all(ours) && TABLES.iter().all(|table| names.iter().any(|name| name == table)) {
        return Ok(());
    }
    known_version(&DB::open_cf_for_read_only(&options(&Memory::new()), path, names, false)?, path).map(drop)
}

/// Opens the database and brings it to this version's schema. Where there is none, makes one, or fails.
pub(crate) fn open(path: &Path, may_create: bool) -> Result<DB, StoreError> {
    refuse_other_tables(path)?;
    let memory = Memory::new();
    let tables = TABLES.map(|name| ColumnFamilyDescriptor::new(name, options(&memory)));
    let mut options = options(&memory);
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

fn event_number(key: &[u8]) -> Result<u64, StoreError> {
    let number = key.try_into().map(u64::from_be_bytes);
    Ok(number.map_err(|_| unreadable(EVENTS, key, "its number has another length".into()))?)
}

impl Store {
    /// The directory of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

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

    /// Every row of a table, or which record `read` cannot read, and why.
    pub(crate) fn raw_rows<T>(
        &self,
        table: &'static str,
        read: impl Fn(&[u8], &[u8]) -> Result<T, String>,
    ) -> Result<Rows<T>, StoreError> {
        self.call(|db| {
            let rows = db.iterator_cf(self::table(db, table)?, IteratorMode::Start);
            rows.map(|row| {
                let (key, value) = row?;
                Ok(read(&key, &value).map_err(|fault| unreadable(table, &key, fault)))
            })
            .collect()
        })
    }

    /// The same of a table whose keys are text.
    pub(crate) fn rows<T>(
        &self,
        table: &'static str,
        read: impl Fn(&str, &[u8]) -> Result<T, String>,
    ) -> Result<Rows<T>, StoreError> {
        self.raw_rows(table, |key, value| {
            read(std::str::from_utf8(key).map_err(|_| "its key is no text".to_owned())?, value)
        })
    }

    /// A setting; survives power loss once `set_setting` has returned.
    pub fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let value = self.call(|db| Ok(db.get_cf(table(db, SETTINGS)?, name)?))?;
        let fault = |error: std::string::FromUtf8Error| unreadable(SETTINGS, name.as_bytes(), error.to_string());
        Ok(value.map(|bytes| String::from_utf8(bytes).map_err(fault)).transpose()?)
    }

    /// Keeps a setting.
    pub fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, SETTINGS)?, name, value);
            self.write(db, batch, Reach::Disk)
        })
    }

    /// The kept events after number `after`, oldest first, with their numbers.
    pub fn events_after(&self, after: Option<u64>) -> Result<Vec<(u64, EventRecord)>, StoreError> {
        let from = after.map_or(0, |n| n.saturating_add(1)).to_be_bytes();
        self.call(|db| {
            let rows = db.iterator_cf(table(db, EVENTS)?, IteratorMode::From(&from, rocksdb::Direction::Forward));
            rows.map(|row| {
                let (key, value) = row?;
                let record = EventRecord::decode(value.as_ref());
                Ok((event_number(&key)?, record.map_err(|error| unreadable(EVENTS, &key, error.to_string()))?))
            })
            .collect()
        })
    }

    /// Number of the newest event.
    pub fn last_event(&self) -> Result<Option<u64>, StoreError> {
        let last = self.call(|db| Ok(db.iterator_cf(table(db, EVENTS)?, IteratorMode::End).next().transpose()?))?;
        last.map(|(key, _)| event_number(&key)).transpose()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path()).unwrap().set_setting("epoch", "7").unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("7"));
        assert_eq!(store.setting("other").unwrap(), None);
    }

    #[test]
    fn the_events_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
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
    fn corrupt_is_not_missing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let put = |name, key: &[u8]| store.call(|db| Ok(db.put_cf(table(db, name)?, key, b"\xff")?)).unwrap();
        put(SETTINGS, b"epoch");
        let told = store.setting("epoch").unwrap_err().to_string();
        assert!(
            told.contains("`epoch` of the table `settings`") && told.contains("store drop settings 'epoch'"),
            "{told}"
        );
        put(EVENTS, &7u64.to_be_bytes());
        let told = store.events_after(None).unwrap_err().to_string();
        assert!(told.contains("store drop events '7'"), "{told}");
        put(EVENTS, b"odd");
        assert!(store.last_event().unwrap_err().to_string().contains("store drop events 'odd'"));
        store.call(|db| Ok(db.put(VERSION_KEY, b"x")?)).unwrap();
        drop(store);
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn a_newer_one_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.call(|db| Ok(db.put(VERSION_KEY, 99u32.to_be_bytes())?)).unwrap();
        drop(store);
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 99, .. })));
    }

    #[test]
    fn a_newer_one_with_other_tables_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        {
            let mut db = open(directory.path(), true).unwrap();
            db.create_cf("to-come", &Options::default()).unwrap();
            db.drop_cf(EVENTS).unwrap();
            db.put(VERSION_KEY, 99u32.to_be_bytes()).unwrap();
        }
        let before = DB::list_cf(&Options::default(), directory.path()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 99, .. })));
        assert_eq!(DB::list_cf(&Options::default(), directory.path()).unwrap(), before);
    }
}
