//! Records that cannot be read: found without being used, and removed by name, for an operator whose daemon refuses to start.

use rocksdb::{IteratorMode, WriteBatch};

use crate::{
    Store, StoreError, Unreadable,
    schema::{self, TABLES, key_text},
    table::{Reach, table},
};

impl Store {
    /// Every record that cannot be read and is not learnt anew.
    pub fn unreadable(&self) -> Result<Vec<Unreadable>, StoreError> {
        fn bad<T>(rows: Vec<Result<T, Unreadable>>) -> impl Iterator<Item = Unreadable> {
            rows.into_iter().filter_map(Result::err)
        }
        let mut all: Vec<_> = bad(self.rules()?).chain(bad(self.pins()?)).chain(bad(self.topic_rows()?)).collect();
        for name in TABLES {
            all.extend(bad(self.raw_rows(name, |key, value| schema::check(name, key, value))?));
        }
        Ok(all)
    }

    /// Removes the records of a table that have this name. How many there were.
    pub fn drop_record(&self, table: &str, key: &str) -> Result<usize, StoreError> {
        let Some(name) = TABLES.into_iter().find(|name| *name == table) else { return Ok(0) };
        self.call(|db| {
            let handle = self::table(db, name)?;
            let (mut batch, mut count) = (WriteBatch::default(), 0usize);
            for row in db.iterator_cf(handle, IteratorMode::Start) {
                let (found, _) = row?;
                if key_text(name, &found) == key {
                    batch.delete_cf(handle, found);
                    count = count.saturating_add(1);
                }
            }
            self.write(db, batch, Reach::Disk)?;
            Ok(count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{EVENTS, MESSAGES, PINS, RULES, SETTINGS, TOPICS, message_key};

    #[test]
    fn each_table_of_people_tells_its_bad_records_and_gives_them_up_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.put_rule("192.0.2.0/24", false).unwrap();
        let bad: [(&'static str, Vec<u8>, &str); 6] = [
            (RULES, b"198.51.100.0/24".to_vec(), "198.51.100.0/24"),
            (PINS, b"12D3a".to_vec(), "12D3a"),
            (TOPICS, b"chat".to_vec(), "chat"),
            (SETTINGS, b"epoch".to_vec(), "epoch"),
            (EVENTS, 5u64.to_be_bytes().to_vec(), "5"),
            (MESSAGES, message_key("chat", 7), "chat/7"),
        ];
        for (name, key, _) in &bad {
            store.call(|db| Ok(db.put_cf(table(db, name)?, key, b"\xff")?)).unwrap();
        }
        let told: Vec<_> = store.unreadable().unwrap().into_iter().map(|bad| (bad.table, bad.key)).collect();
        assert_eq!(told, bad.clone().map(|(table, _, key)| (table, key.to_owned())));
        for (table, _, key) in bad {
            assert_eq!(store.drop_record(table, key).unwrap(), 1, "{table}");
            assert_eq!(store.drop_record(table, key).unwrap(), 0, "{table}");
        }
        assert_eq!(store.unreadable().unwrap(), []);
        assert_eq!(store.rules().unwrap().len(), 1, "the good one stays");
        assert_eq!(store.drop_record("nothing", "x").unwrap(), 0);
    }
}
