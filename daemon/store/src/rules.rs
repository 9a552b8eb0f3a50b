//! Who may connect: a record for each peer and each range of addresses that the operator ruled on.

use prost::Message;
use rocksdb::WriteBatch;

use crate::{
    Rows, Store, StoreError,
    record::RuleRecord,
    schema::RULES,
    table::{Reach, Row, table},
};

const ALLOWS: u32 = 1;
const DENIES: u32 = 2;

fn record(allow: bool) -> Vec<u8> {
    RuleRecord { verdict: if allow { ALLOWS } else { DENIES } }.encode_to_vec()
}

fn read(value: &[u8]) -> Result<bool, String> {
    match RuleRecord::decode(value) {
        Ok(RuleRecord { verdict: ALLOWS }) if value == record(true) => Ok(true),
        Ok(RuleRecord { verdict: DENIES }) if value == record(false) => Ok(false),
        Ok(_) => Err("it neither allows nor denies".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Key and record of a line as it was kept before version 4: `deny 192.0.2.0/24`.
pub(crate) fn of_line(line: &[u8]) -> Row {
    let rule = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' '));
    match rule {
        Some(("allow", subject)) => (subject.into(), record(true)),
        Some(("deny", subject)) => (subject.into(), record(false)),
        _ => (line.into(), Vec::new()),
    }
}

impl Store {
    /// What every rule is about, and whether it allows; or which record cannot be read.
    pub fn rules(&self) -> Result<Rows<(String, bool)>, StoreError> {
        self.rows(RULES, |key, value| Ok((key.to_owned(), read(value)?)))
    }

    /// Keeps a rule; survives power loss once this has returned.
    pub fn put_rule(&self, subject: &str, allow: bool) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, RULES)?, subject, record(allow));
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Forgets a rule, likewise.
    pub fn remove_rule(&self, subject: &str) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.delete_cf(table(db, RULES)?, subject);
            self.write(db, batch, Reach::Disk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_kept_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        {
            let store = Store::open(directory.path()).unwrap();
            store.put_rule("192.0.2.0/24", false).unwrap();
            store.put_rule("192.0.2.7/32", false).unwrap();
            store.put_rule("192.0.2.7/32", true).unwrap();
            store.put_rule("198.51.100.1/32", true).unwrap();
            store.remove_rule("198.51.100.1/32").unwrap();
        }
        let rules = Store::open(directory.path()).unwrap().rules().unwrap();
        assert_eq!(rules, [Ok(("192.0.2.0/24".into(), false)), Ok(("192.0.2.7/32".into(), true))]);
    }

    #[test]
    fn whatever_is_not_exactly_a_rule_cannot_be_read() {
        // Nothing, a verdict that is none, another field beside it, a number that is cut off, and one that is written longer.
        for bad in [&b""[..], b"\x08\x00", b"\x08\x03", b"\x08\x02\x10\x01", b"\x08", b"\x08\x82\x00", b"\xff"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!((read(&record(true)), read(&record(false))), (Ok(true), Ok(false)));
    }
}
