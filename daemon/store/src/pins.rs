//! Peers to stay connected to, as people and programs pinned them: a record each.

use prost::Message;
use rocksdb::WriteBatch;

use crate::{
    Rows, Store, StoreError,
    record::PinRecord,
    schema::PINS,
    table::{Reach, Row, table},
};

fn read(value: &[u8]) -> Result<PinRecord, String> {
    let record = PinRecord::decode(value).map_err(|error| error.to_string())?;
    if record.encode_to_vec() != value {
        return Err("it has parts that this p2pd does not know".into());
    }
    if !record.untagged && record.tags.is_empty() {
        return Err("it says nothing of the pin".into());
    }
    Ok(record)
}

/// Key and record of a line as it was kept before version 4: peer, addresses, tags, and perhaps the words `untagged` and `passive`.
pub(crate) fn of_line(line: &[u8]) -> Row {
    let unknown = || (line.to_vec(), Vec::new());
    let Ok(text) = std::str::from_utf8(line) else { return unknown() };
    let list = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let [peer, addresses, tags, more @ ..] = &text.split(' ').collect::<Vec<_>>()[..] else { return unknown() };
    if more.iter().any(|word| !["untagged", "passive"].contains(word)) {
        return unknown();
    }
    let tags: Vec<String> = list(tags);
    let untagged = more.contains(&"untagged") || tags.is_empty();
    let record = PinRecord { addresses: list(addresses), tags, untagged, passive: more.contains(&"passive") };
    (peer.as_bytes().to_vec(), record.encode_to_vec())
}

impl Store {
    /// Every pinned peer's id, as text, and its pin; or which record cannot be read.
    pub fn pins(&self) -> Result<Rows<(String, PinRecord)>, StoreError> {
        self.rows(PINS, |key, value| Ok((key.to_owned(), read(value)?)))
    }

    /// Keeps a pin; survives power loss once this has returned.
    pub fn put_pin(&self, peer: &str, record: &PinRecord) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, PINS)?, peer, record.encode_to_vec());
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Forgets a pin, likewise.
    pub fn remove_pin(&self, peer: &str) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.delete_cf(table(db, PINS)?, peer);
            self.write(db, batch, Reach::Disk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_kept_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let pin = PinRecord { tags: vec!["relay".into()], passive: true, ..PinRecord::default() };
        {
            let store = Store::open(directory.path()).unwrap();
            store.put_pin("12D3a", &pin).unwrap();
            store.put_pin("12D3b", &pin).unwrap();
            store.remove_pin("12D3b").unwrap();
        }
        assert_eq!(Store::open(directory.path()).unwrap().pins().unwrap(), [Ok(("12D3a".into(), pin))]);
    }

    #[test]
    fn whatever_is_not_exactly_a_pin_cannot_be_read() {
        let pin = PinRecord { untagged: true, passive: true, ..PinRecord::default() }.encode_to_vec();
        assert!(read(&pin).is_ok());
        let unknown = [&pin[..], b"\x28\x01"].concat();
        for bad in [&b""[..], b"\xff", b"\x20\x01", &pin[..pin.len() - 1], &unknown] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
