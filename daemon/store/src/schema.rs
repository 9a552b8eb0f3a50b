//! The tables, their keys and their records.
//!
//! ```text
//! default    "schema"                            -> u32 big-endian: version of everything below
//! settings   name, UTF-8                         -> value, UTF-8
//! directory  len u8, publisher, stream id, UTF-8 -> DirectoryRecord   a stream that was live when last heard
//! peers      peer id bytes                       -> PeerRecord        how it was reached before
//! events     u64 big-endian, from 0              -> EventRecord       ring: the newest 10,000
//! ```
//!
//! A change of this picture adds a migration below and a test that opens the version before.

/// Version of the picture above.
pub(crate) const VERSION: u32 = 1;
pub(crate) const VERSION_KEY: &[u8] = b"schema";
pub(crate) const SETTINGS: &str = "settings";
pub(crate) const DIRECTORY: &str = "directory";
pub(crate) const PEERS: &str = "peers";
pub(crate) const EVENTS: &str = "events";
pub(crate) const TABLES: [&str; 4] = [SETTINGS, DIRECTORY, PEERS, EVENTS];
/// Events kept.
pub(crate) const MAX_EVENTS: u64 = 10_000;

/// Reads the version before and writes the difference into the batch.
pub(crate) type Migration = fn(&rocksdb::DB, &mut rocksdb::WriteBatch) -> Result<(), crate::StoreError>;

/// What brings a database from one version to the next; entry `n` makes version `n + 2` of version `n + 1`. Each is
/// committed together with the new version number in one batch.
pub(crate) const MIGRATIONS: [Migration; 0] = [];

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
}
