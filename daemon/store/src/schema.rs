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
//! rules      peer id or range of IPs, UTF-8      -> RuleRecord        who may connect                       (since 4; before: settings, "access")
//! pins       peer id, UTF-8                      -> PinRecord         whom to stay connected to             (since 4; before: settings, "pins")
//! ```
//!
//! A change of this picture adds a migration (`migrate.rs`) and a test that opens the version before. `directory` and `peers` are learnt
//! anew where they cannot be read; everything else is what people or programs gave, and is never left out without a word.

use prost::Message;

use crate::record::{EventRecord, MessageRecord};

/// Version of the picture above.
pub(crate) const VERSION: u32 = 4;
pub(crate) const VERSION_KEY: &[u8] = b"schema";
pub(crate) const SETTINGS: &str = "settings";
pub(crate) const DIRECTORY: &str = "directory";
pub(crate) const PEERS: &str = "peers";
pub(crate) const EVENTS: &str = "events";
pub(crate) const TOPICS: &str = "topics";
pub(crate) const MESSAGES: &str = "messages";
pub(crate) const RULES: &str = "rules";
pub(crate) const PINS: &str = "pins";
pub(crate) const TABLES: [&str; 8] = [SETTINGS, DIRECTORY, PEERS, EVENTS, TOPICS, MESSAGES, RULES, PINS];
/// Events kept.
pub(crate) const MAX_EVENTS: usize = 10_000;

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

/// Whether a record can be read, of a table that is not learnt anew and whose reader does not tell of each itself, as those of rules, pins
/// and topics do.
pub(crate) fn check(table: &str, key: &[u8], value: &[u8]) -> Result<(), String> {
    fn decoded<M: Message + Default>(value: &[u8]) -> Result<(), String> {
        M::decode(value).map(drop).map_err(|error| error.to_string())
    }
    match table {
        SETTINGS => std::str::from_utf8(value).map(drop).map_err(|error| error.to_string()),
        MESSAGES => decoded::<MessageRecord>(value),
        EVENTS if key.len() != size_of::<u64>() => Err("its number has another length".to_owned()),
        EVENTS => decoded::<EventRecord>(value),
        _ => Ok(()),
    }
}

/// A key as text for people, who give it back to name the record. Whatever cannot be shown is escaped.
pub(crate) fn key_text(table: &str, key: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).escape_debug().to_string();
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
    match table {
        EVENTS => number(key).map_or_else(|| text(key), |number| number.to_string()),
        MESSAGES => {
            let (topic, tail) = key.split_at_checked(key.len().saturating_sub(8)).unwrap_or((key, &[]));
            match (topic.get(2..), number(tail)) {
                (Some(topic), Some(number)) => format!("{}/{number}", text(topic)),
                _ => text(key),
            }
        }
        _ => text(key),
    }
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

    #[test]
    fn keys_are_told_as_text() {
        assert_eq!(key_text(MESSAGES, &message_key("a/b", 7)), "a/b/7");
        assert_eq!(key_text(EVENTS, &7u64.to_be_bytes()), "7");
        assert_eq!(key_text(RULES, b"192.0.2.0/24"), "192.0.2.0/24");
        assert_eq!(key_text(RULES, b"a\x1b[1m"), "a\\u{1b}[1m");
        for table in TABLES {
            assert_eq!(key_text(table, b""), "", "{table}");
            assert!(!key_text(table, &[0xff]).is_empty(), "{table}");
        }
    }
}
