//! What is done where the disk has failed. RocksDB writes nothing more after some faults, such as a disk that was full, also once
//! the cause is gone; it is then closed and opened anew, behind the handle that all have.

use std::{
    fs::{self, File},
    io::Write,
    sync::PoisonError,
    time::Instant,
};

use crate::{Store, StoreError, db};

/// Written to see that there is room. To open the database takes less: what its write-ahead log holds, of 8 MiB at most, is written
/// once more.
const ROOM: usize = 12 << 20;
/// Name of that file beside those of the database, which RocksDB ignores.
const TRIAL: &str = "trial.tmp";

impl Store {
    /// What is wrong with the disk, for people. Never waits.
    pub fn fault(&self) -> Option<String> {
        self.health.fault(Instant::now())
    }

    /// Whether something has failed. A disk that is only slow needs no mending, and would become slower by it.
    pub fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// Has a database that failed to write do so again, as far as the disk allows it.
    pub fn mend(&self) -> Result<(), StoreError> {
        if self.try_database().is_err() {
            self.try_disk()?;
            self.reopen()?;
            self.try_database()?;
        }
        self.health.writes_again(Instant::now());
        Ok(())
    }

    /// Finds whether the disk takes as much as it takes to open the database.
    fn try_disk(&self) -> Result<(), StoreError> {
        let path = self.path.join(TRIAL);
        let written = File::create(&path).and_then(|mut file| {
            let (mut block, mut noise) = ([0; 64 << 10], Noise(1));
            (0..ROOM / block.len()).try_for_each(|_| {
                noise.fill(&mut block);
                file.write_all(&block)
            })?;
            file.sync_data()
        });
        let _ = fs::remove_file(&path);
        written.map_err(StoreError::Disk)
    }

    fn try_database(&self) -> Result<(), StoreError> {
        self.set_setting("trial", "")
    }

    /// Closes the database and opens it. What was acknowledged is in its files. Waits for calls that are under way; others wait for it.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: a second one could not have the same files.
        drop(open.take());
        // One that has vanished is not replaced by an empty one: what is in memory would no longer agree with the disk.
        *open = Some(db::open(&self.path, false)?);
        Ok(())
    }
}

/// Bytes that no file system makes smaller: Marsaglia's xorshift, of a seed other than 0.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::DB;

    use super::*;
    use crate::{
        Keep, TopicRecord,
        schema::{MESSAGES, message_key},
    };

    #[test]
    fn a_database_is_opened_anew_behind_its_handle() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.set_setting("epoch", "7").unwrap();
        store.reopen().unwrap();
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("7"));
        // One that is closed, since it could not be opened, is opened at the next attempt.
        drop(store.open.write().unwrap().take());
        assert!(matches!(store.setting("epoch"), Err(StoreError::Closed)));
        store.mend().unwrap();
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("7"));
        assert!(!directory.path().join(TRIAL).exists());
    }

    #[test]
    fn a_database_that_has_vanished_is_not_replaced_by_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (current, aside) = (directory.path().join("CURRENT"), directory.path().join("aside"));
        fs::rename(&current, &aside).unwrap();
        store.reopen().unwrap_err();
        assert!(!current.exists());
        fs::rename(&aside, &current).unwrap();
        store.mend().unwrap();
    }

    #[test]
    fn a_message_that_cannot_be_read_is_a_fault_though_writing_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let junk = |db: &DB| Ok(db.put_cf(crate::table::table(db, MESSAGES)?, message_key("chat", 1), b"\xff")?);
        store.call(junk).unwrap();
        assert!(!store.has_failed());
        let mut record = TopicRecord::default();
        store.append("chat", &mut record, &[], Keep { bytes: 1, since: 0 }).unwrap_err();
        store.mend().unwrap();
        assert!(store.fault().is_some_and(|why| why.contains(MESSAGES)));
    }

    #[test]
    fn what_is_written_to_see_that_there_is_room_cannot_be_compressed() {
        let (mut block, mut noise) = ([0; 64 << 10], Noise(1));
        let mut counts = [0u32; 256];
        for _ in 0..4 {
            noise.fill(&mut block);
            block.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
        assert!(counts.iter().all(|count| (900..1_150).contains(count)), "{counts:?}");
    }
}
