//! Records of the tables. They belong to the disk alone: messages of the network and of the API change for other reasons.

use prost::Message;

/// A stream of the directory.
#[derive(Clone, PartialEq, Message)]
pub struct DirectoryRecord {
    /// What its publisher said of it, JSON.
    #[prost(string, tag = "1")]
    pub metadata: String,
    /// Publisher's time of the newest message, milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub time: u64,
}

/// A peer that was connected.
#[derive(Clone, PartialEq, Message)]
pub struct PeerRecord {
    /// Addresses it was reached at, newest first.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// When it was last connected, milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub seen: u64,
}

/// Something that happened.
#[derive(Clone, PartialEq, Message)]
pub struct EventRecord {
    /// When, milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub time: u64,
    /// What kind, as the API names it.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// Whom or what it is about.
    #[prost(string, tag = "3")]
    pub subject: String,
}
