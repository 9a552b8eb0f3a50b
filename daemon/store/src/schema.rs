//! The tables, their keys and their records.
//!
//! ```text
//! default    "schema"                            -> u32 big-endian: version of everything below
//! settings   name, UTF-8                         -> value, UTF-8
//! directory  len u8, publisher, stream id, UTF-8 -> DirectoryRecord   a stream that was live when last heard
//! peers      peer id bytes                       -> PeerRecord        how it was reached before
//! events     u64 big-endian, from 0              -> EventRecord       ring: the newest 10,000
//! topics     name, UTF-8                         -> TopicRecord       settings and bounds of the log        (since 2; identity, unsigned: 3)
//! messages   len u16, topic, u64 big-endian      -> MessageRecord     logs of topics                        (since 2; without sender: 3)
//! ```
//!
//! A change of this picture adds a migration below and a test that opens the version before.

/// Version of the picture above.
pub(crate) const VERSION: u32 = 3;
pub(crate) const VERSION_KEY: &[u8] = b"schema";
pub(crate) const SETTINGS: &str = "settings";
pub(crate) const DIRECTORY: &str = "directory";
pub(crate) const PEERS: &str = "peers";
pub(crate) const EVENTS: &str = "events";
pub(crate) const TOPICS: &str = "topics";
pub(crate) const MESSAGES: &str = "messages";
pub(crate) const TABLES: [&str; 6] = [SETTINGS, DIRECTORY, PEERS, EVENTS, TOPICS, MESSAGES];
/// Events kept.
pub(crate) const MAX_EVENTS: usize = 10_000;

/// Reads the version before and writes the difference into the batch.
pub(crate) type Migration = fn(&rocksdb::DB, &mut rocksdb::WriteBatch) -> Result<(), crate::StoreError>;

/// What brings a database from one version to the next; entry `n` makes version `n + 2` of version `n + 1`. Each is
/// committed together with the new version number in one batch.
pub(crate) const MIGRATIONS: [Migration; 2] = [no_logs_yet, as_before];

/// Version 2 has two more tables, which are made when the database is opened, and begin empty.
fn no_logs_yet(_: &rocksdb::DB, _: &mut rocksdb::WriteBatch) -> Result<(), crate::StoreError> {
    Ok(())
}

/// Version 3 reads what version 2 wrote as that did, and writes more than it could read.
fn as_before(_: &rocksdb::DB, _: &mut rocksdb::WriteBatch) -> Result<(), crate::StoreError> {
    Ok(())
}

/// Key of a directory entry.
pub(crate) fn directory_key(publisher: &[u8], stream: &str) -> Vec<u8> {
    let len = u8::try_from(publisher.len()).unwrap_or(u8::MAX);
    [&[len][..], publisher, stream.as_bytes()].concat()
}

/// Publisher and stream id of a directory key.
pub(crate) fn read_directory_key(key: &[u8]) -> Option<(Vec<u8>, String)> {
    let (len, rest) = key.split_first()?;
    let (publisher, stream) = rest.split_at_checked((*len).into())?;
    Some((publisher.to_vec(), String::from_utf8(stream.to_vec()).ok()?))
}

/// Key of a message of a log; all of one topic lie together, in the order of their numbers.
pub(crate) fn message_key(topic: &str, number: u64) -> Vec<u8> {
    let len = u16::try_from(topic.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes()[..], topic.as_bytes(), &number.to_be_bytes()].concat()
}

/// The number of a message of `topic`; `None` where the key is another topic's.
pub(crate) fn read_message_key(topic: &str, key: &[u8]) -> Option<u64> {
    let (len, rest) = key.split_first_chunk()?;
    let (name, number) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    (name == topic.as_bytes()).then_some(())?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_keys_round_trip() {
        let key = directory_key(&[1, 2, 3], "town");
        assert_eq!(read_directory_key(&key), Some((vec![1, 2, 3], "town".into())));
        assert_eq!(read_directory_key(&[9, 1]), None);
        assert_eq!(read_directory_key(&[]), None);
    }

    #[test]
    fn message_keys_round_trip() {
        let key = message_key("chat", 7);
        assert_eq!(read_message_key("chat", &key), Some(7));
        assert_eq!(read_message_key("cha", &key), None);
        assert_eq!(read_message_key("chat", &[0]), None);
        assert!(message_key("chat", 255) < message_key("chat", 256));
    }
}
