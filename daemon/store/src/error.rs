//! The one error of this floor. Corrupt is not missing.

use std::path::PathBuf;

/// A record that cannot be read, by the names that people give to table and key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the record `{key}` of the table `{table}` cannot be read: {fault}. With the daemon stopped, `p2pd store drop {table} '{key}'` removes it for good, and `p2pd store check` lists all such records"
)]
pub struct Unreadable {
    /// The table.
    pub table: &'static str,
    /// The key, as [`crate::Store::drop_record`] takes it.
    pub key: String,
    /// What is wrong with it.
    pub fault: String,
}

/// The records of a table, or which of them cannot be read.
pub type Rows<T> = Vec<Result<T, Unreadable>>;

/// What to do where the files of the database are damaged themselves.
fn remedy(error: &rocksdb::Error) -> &'static str {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            "; its files are damaged: restore a back-up of the data directory, or move its `db` away to start with an empty one (the identity is kept beside it)"
        }
        _ if error.as_ref().contains("No space left") => "; have 12 MiB or more free on its file system",
        // A file that the database lists.
        _ if error.as_ref().contains("No such file or directory") => {
            "; one of its files is gone: restore a back-up of the data directory, or move its `db` away to start with an empty one (the identity is kept beside it)"
        }
        _ => "",
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a newer p2pd; left untouched.
    #[error(
        "{path} has schema {found}, this p2pd knows up to {known}: it was written by a newer version; install that, or move the directory away"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A record that cannot be read, and is not relearnt from others.
    #[error("{0}")]
    Corrupt(#[from] Unreadable),
    /// What the database says of its own tables cannot be read.
    #[error(
        "{0} of the database cannot be read; restore a back-up of the data directory, or move its `db` away to start with an empty one (the identity is kept beside it)"
    )]
    Damaged(&'static str),
    /// Closed, since it could not be opened again after it had failed; that is tried again.
    #[error("the database is closed after a fault of the disk, until it can be opened again")]
    Closed,
    /// What the disk says.
    #[error("disk: {0}")]
    Disk(std::io::Error),
    /// What RocksDB says.
    #[error("database: {0}{remedy}", remedy = remedy(.0))]
    Database(#[from] rocksdb::Error),
}
