//! What p2pd keeps on disk. This crate alone names RocksDB; it knows neither the network nor the API.
//!
//! What can be relearnt from the network is left out where it cannot be read; what people and programs gave stops the reader with its
//! name. The identity key is a file beside the database.

mod db;
mod error;
mod health;
mod learnt;
mod log;
mod mend;
mod migrate;
mod pins;
mod record;
mod rules;
mod schema;
mod table;
mod unreadable;

pub use db::Store;
pub use error::{Rows, StoreError, Unreadable};
pub use learnt::{DirectoryChange, Learnt};
pub use log::Keep;
pub use record::{
    DirectoryRecord, EventRecord, LogRecord, MessageRecord, PeerRecord, PinRecord, SettingsRecord, TopicRecord,
};
