//! The one error of this floor. Corrupt is not missing.

use std::path::PathBuf;

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
    /// A record that cannot be read.
    #[error(
        "corrupt record in `{table}`; move the database directory away to start with an empty one (the identity is kept beside it)"
    )]
    Corrupt {
        /// Column family.
        table: &'static str,
    },
    /// Closed, since it could not be opened again after it had failed; that is tried again.
    #[error("the database is closed after a fault of the disk, until it can be opened again")]
    Closed,
    /// What the disk says.
    #[error("disk: {0}")]
    Disk(std::io::Error),
    /// What RocksDB says.
    #[error("database: {0}")]
    Database(#[from] rocksdb::Error),
}
