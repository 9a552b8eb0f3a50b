//! What p2pd keeps on disk. This crate alone names RocksDB; it knows neither the network nor the API.
//!
//! Everything here can be relearnt from the network or be set again; the identity key is a file beside the database.

mod db;
mod error;
mod health;
mod log;
mod mend;
mod record;
mod schema;

pub use db::{DirectoryChange, Store};
pub use error::StoreError;
pub use log::Keep;
pub use record::{DirectoryRecord, EventRecord, LogRecord, MessageRecord, PeerRecord, SettingsRecord, TopicRecord};
