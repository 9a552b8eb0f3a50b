//! What brings a database of an older version to the picture of `schema.rs`, step by step. Nothing that people gave is lost on the way:
//! what cannot be understood becomes a record that cannot be read, which stops the start under its name.

use rocksdb::{DB, WriteBatch};

use crate::{
    StoreError, pins, rules,
    schema::{PINS, RULES, SETTINGS},
    table::{Row, table},
};

/// Reads the version before and writes the difference into the batch.
pub(crate) type Migration = fn(&DB, &mut WriteBatch) -> Result<(), StoreError>;

/// Entry `n` makes version `n + 2` of version `n + 1`. Each is committed together with the new version number in one batch.
pub(crate) const MIGRATIONS: [Migration; 3] = [no_logs_yet, as_before, rules_and_pins];

/// Version 2 has two more tables, which are made when the database is opened, and begin empty.
fn no_logs_yet(_: &DB, _: &mut WriteBatch) -> Result<(), StoreError> {
    Ok(())
}

/// Version 3 reads what version 2 wrote as that did, and writes more than it could read.
fn as_before(_: &DB, _: &mut WriteBatch) -> Result<(), StoreError> {
    Ok(())
}

/// Version 4 has a record for each rule and each pin. Before, all rules were one setting, and all pins another, with a line for each.
fn rules_and_pins(db: &DB, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let settings = table(db, SETTINGS)?;
    let mut take = |setting, to, of_line: fn(&[u8]) -> Row| {
        let text = db.get_cf(settings, setting)?.unwrap_or_default();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (key, record) = of_line(line);
            batch.put_cf(table(db, to)?, key, record);
        }
        batch.delete_cf(settings, setting);
        Ok(())
    };
    take("access", RULES, rules::of_line)?;
    take("pins", PINS, pins::of_line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PinRecord, Store, Unreadable, record::TopicRecord, schema::VERSION};

    /// A database as version `n` left it, with these settings.
    fn of_version(n: u32, settings: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let tables: &[&str] = match n {
            1 => &["settings", "directory", "peers", "events"],
            _ => &["settings", "directory", "peers", "events", "topics", "messages"],
        };
        let db = DB::open_cf(&options, directory.path(), tables).unwrap();
        db.put(b"schema", n.to_be_bytes()).unwrap();
        for (name, value) in settings {
            db.put_cf(db.cf_handle("settings").unwrap(), name, value).unwrap();
        }
        directory
    }

    fn version(store: &Store) -> Vec<u8> {
        store.call(|db| Ok(db.get(b"schema")?)).unwrap().unwrap()
    }

    #[test]
    fn a_database_of_version_1_is_taken_over() {
        let directory = of_version(1, &[("epoch", b"7")]);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("7"));
        assert!(store.topics().unwrap().is_empty() && store.rules().unwrap().is_empty());
        assert_eq!(version(&store), VERSION.to_be_bytes());
    }

    #[test]
    fn a_database_of_version_2_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let settings = crate::SettingsRecord { identity: 1, ..Default::default() };
        let topic = TopicRecord { settings: Some(settings), log: None };
        {
            let store = Store::open(directory.path()).unwrap();
            store.put_topic("chat", &topic).unwrap();
            store.call(|db| Ok(db.put(b"schema", 2u32.to_be_bytes())?)).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.topics().unwrap(), [("chat".to_owned(), topic)]);
        assert_eq!(version(&store), VERSION.to_be_bytes());
    }

    #[test]
    fn rules_and_pins_of_version_3_become_records() {
        let pins = b"12D3a /ip4/192.0.2.7/tcp/1,/ip4/192.0.2.8/tcp/1 relay,home passive\n12D3b   untagged\n12D3c  x untagged\n";
        let directory = of_version(3, &[("access", b"deny 192.0.2.0/24\nallow 192.0.2.7/32\n"), ("pins", pins)]);
        let store = Store::open(directory.path()).unwrap();
        let rule = |subject: &str, allow| Ok((subject.to_owned(), allow));
        assert_eq!(store.rules().unwrap(), [rule("192.0.2.0/24", false), rule("192.0.2.7/32", true)]);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let addresses = texts(&["/ip4/192.0.2.7/tcp/1", "/ip4/192.0.2.8/tcp/1"]);
        let all = [
            ("12D3a", PinRecord { addresses, tags: texts(&["relay", "home"]), untagged: false, passive: true }),
            ("12D3b", PinRecord { untagged: true, ..PinRecord::default() }),
            ("12D3c", PinRecord { untagged: true, tags: texts(&["x"]), ..PinRecord::default() }),
        ];
        assert_eq!(store.pins().unwrap(), all.map(|(peer, pin)| Ok((peer.to_owned(), pin))));
        assert_eq!((store.setting("access").unwrap(), store.setting("pins").unwrap()), (None, None));
        assert_eq!(version(&store), VERSION.to_be_bytes());
        // And stay.
        drop(store);
        assert_eq!(Store::open(directory.path()).unwrap().rules().unwrap().len(), 2);
    }

    #[test]
    fn a_line_that_is_none_is_kept_as_a_record_that_stops_the_start() {
        let rules = b"deny 192.0.2.0/24\nforbid 198.51.100.0/24\ndeny\n\xff\xfe";
        let pins = b"12D3a\n12D3b   untagged new\n";
        let directory = of_version(3, &[("access", rules), ("pins", pins)]);
        let store = Store::open(directory.path()).unwrap();
        let names = |rows: Vec<Result<String, Unreadable>>| -> Vec<_> {
            rows.into_iter().map(|row| row.unwrap_or_else(|unreadable| format!("! {}", unreadable.key))).collect()
        };
        let rules = store.rules().unwrap().into_iter().map(|row| row.map(|(subject, _)| subject)).collect();
        assert_eq!(names(rules), ["192.0.2.0/24", "! deny", "! forbid 198.51.100.0/24", "! \u{fffd}\u{fffd}"]);
        let pins = store.pins().unwrap().into_iter().map(|row| row.map(|(peer, _)| peer)).collect();
        assert_eq!(names(pins), ["! 12D3a", "! 12D3b   untagged new"]);
    }
}
