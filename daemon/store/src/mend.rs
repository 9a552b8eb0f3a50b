//! What is done where writing has failed. RocksDB writes nothing more after some faults, such as a disk that was full, also once
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

    /// Has a database that failed to write do so again, as far as the disk allows it.
    pub fn mend(&self) -> Result<(), StoreError> {
        self.try_disk()?;
        if self.try_database().is_err() {
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
            let block = [0; 64 << 10];
            (0..ROOM / block.len()).try_for_each(|_| file.write_all(&block))?;
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
        *open = Some(db::open(&self.path)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
