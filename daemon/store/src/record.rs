//! Records of the tables. They belong to the disk alone: messages of the network and of the API change for other reasons.

use bytes::Bytes;
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
    /// When it was last connected, in running time.
    #[prost(uint64, tag = "2")]
    pub seen: u64,
    /// When it was first connected, in running time.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// This daemon has dialled it.
    #[prost(bool, tag = "4")]
    pub dialled: bool,
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

/// What is ruled of a peer or a range of addresses.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct RuleRecord {
    /// 1 allows, 2 denies. Any other number is unreadable, so that an empty record is none.
    #[prost(uint32, tag = "1")]
    pub(crate) verdict: u32,
}

/// A peer to stay connected to. It has a tag or is untagged, so that an empty record is none.
#[derive(Clone, PartialEq, Message)]
pub struct PinRecord {
    /// Where to reach it, as multiaddrs.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// Why, in words of whoever pinned it.
    #[prost(string, repeated, tag = "2")]
    pub tags: Vec<String>,
    /// It was pinned without a tag, too.
    #[prost(bool, tag = "3")]
    pub untagged: bool,
    /// It is kept when it comes, and not dialled.
    #[prost(bool, tag = "4")]
    pub passive: bool,
}

/// A topic of programs that has settings or a log.
#[derive(Clone, PartialEq, Message)]
pub struct TopicRecord {
    /// Settings, where they are not the usual ones.
    #[prost(message, optional, tag = "1")]
    pub settings: Option<SettingsRecord>,
    /// Its log, where it has one.
    #[prost(message, optional, tag = "2")]
    pub log: Option<LogRecord>,
}

/// Settings of a topic.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SettingsRecord {
    /// Largest message, in bytes.
    #[prost(uint32, tag = "1")]
    pub max_message: u32,
    /// What messages are told apart by: 0 sender, 1 content, 2 the sender's key.
    #[prost(uint32, tag = "2")]
    pub identity: u32,
    /// What no validator has judged is refused.
    #[prost(bool, tag = "3")]
    pub closed: bool,
    /// Time of a validator, in milliseconds.
    #[prost(uint32, tag = "4")]
    pub judging_ms: u32,
    /// Age at which messages leave the log, in seconds.
    #[prost(uint32, tag = "5")]
    pub keep_s: u32,
    /// Bytes that the log may hold.
    #[prost(uint64, tag = "6")]
    pub keep_bytes: u64,
    /// Peers of the mesh; 0 where it was written before there was a choice.
    #[prost(uint32, tag = "7")]
    pub mesh: u32,
    /// Greatest age of a message, in milliseconds; 0: any.
    #[prost(uint32, tag = "8")]
    pub max_age_ms: u32,
    /// Messages without a signature are taken, too.
    #[prost(bool, tag = "9")]
    pub allow_unsigned: bool,
}

/// Where a log begins and ends.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LogRecord {
    /// Number of the oldest message kept.
    #[prost(uint64, tag = "1")]
    pub oldest: u64,
    /// Number of the message to come.
    #[prost(uint64, tag = "2")]
    pub next: u64,
    /// Bytes of the payloads kept.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// When it last had a reader, in running time.
    #[prost(uint64, tag = "4")]
    pub read: u64,
}

/// A message of a log.
#[derive(Clone, PartialEq, Message)]
pub struct MessageRecord {
    /// Peer id of who signed it, bytes; none where nobody did.
    #[prost(bytes = "bytes", tag = "1")]
    pub sender: Bytes,
    /// Payload.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// When it came, milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub received: u64,
    /// What tells it apart from others.
    #[prost(bytes = "bytes", tag = "4")]
    pub id: Bytes,
    /// No message, but where the daemon was away.
    #[prost(bool, tag = "5")]
    pub away: bool,
    /// No message, but where one was larger than the topic took.
    #[prost(bool, tag = "6")]
    pub too_large: bool,
    /// When it came, in running time; 0 where it was written before there was that.
    #[prost(uint64, tag = "7")]
    pub running: u64,
}

impl MessageRecord {
    /// When it came, in running time, which began with the wall clock's.
    pub(crate) fn came(&self) -> u64 {
        if self.running == 0 { self.received } else { self.running }
    }
}
