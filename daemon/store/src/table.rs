//! A table of an open database, its rows, and how far a write goes.

use rocksdb::{ColumnFamily, DB, WriteOptions};

use crate::{StoreError, Unreadable, schema::key_text};

/// Key and record.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

pub(crate) fn table<'a>(db: &'a DB, name: &'static str) -> Result<&'a ColumnFamily, StoreError> {
    db.cf_handle(name).ok_or(StoreError::Damaged(name))
}

pub(crate) fn unreadable(table: &'static str, key: &[u8], fault: String) -> Unreadable {
    Unreadable { table, key: key_text(table, key), fault }
}

/// How far a write has come when it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It survives the end of this process.
    System,
    /// It survives power loss.
    Disk,
}

pub(crate) fn written(reach: Reach) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(reach == Reach::Disk);
    options
}
