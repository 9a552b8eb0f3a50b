//! What people and programs gave to be kept, and cannot be read. The daemon does not start without it: a rule that is left out lets in
//! who was denied, and the next change would be written over it. `p2pd store` finds such records and removes them.

use std::path::Path;

use anyhow::{Context, bail};
use p2pd_store::{Store, StoreError, Unreadable};

use p2pd_node::{disk::number, pubsub, running};

use crate::lock;

/// Records that hold nothing that this p2pd knows, though they are whole as far as the store can tell.
fn unknown(store: &Store) -> Result<Vec<Unreadable>, StoreError> {
    let mut all = p2pd_node::peers::unreadable_records(store)?;
    all.extend(pubsub::unreadable_settings(store)?);
    for name in [running::SETTING, p2pd_live::epoch::EPOCH, p2pd_node::dht::VALUE] {
        match number(store, name) {
            Err(StoreError::Corrupt(bad)) => all.push(bad),
            other => drop(other?),
        }
    }
    Ok(all)
}

/// Fails for the first of them. Asked before the network starts, which otherwise would be open to those whom a damaged rule denies.
pub(crate) fn refuse(store: &Store) -> Result<(), StoreError> {
    unknown(store)?.into_iter().next().map_or(Ok(()), |bad| Err(bad.into()))
}

/// Every record that would stop the start.
fn all(store: &Store) -> Result<Vec<Unreadable>, StoreError> {
    let mut all = store.unreadable()?;
    all.extend(unknown(store)?);
    all.sort_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
    all.dedup_by(|a, b| (a.table, &a.key) == (b.table, &b.key));
    Ok(all)
}

/// Does something with the database of a data directory that no daemon uses.
fn with_store<T>(data: &Path, act: impl FnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let database = data.join("db");
    if !database.is_dir() {
        bail!("there is no database in {}; --data names another directory", data.display());
    }
    let _lock = lock::take(data)?;
    act(&Store::open(&database)?)
}

/// The records of a stopped daemon that cannot be read, a line each.
pub(crate) fn check(data: &Path) -> anyhow::Result<Vec<String>> {
    let line = |bad: Unreadable| format!("{} '{}': {}", bad.table, bad.key, bad.fault);
    with_store(data, |store| Ok(all(store)?.into_iter().map(line).collect()))
}

/// Removes one of them. One that can be read stays.
pub(crate) fn remove(data: &Path, table: &str, key: &str) -> anyhow::Result<()> {
    with_store(data, |store| {
        let bad = all(store)?.into_iter().any(|bad| bad.table == table && bad.key == key);
        if !bad {
            bail!(
                "the table `{table}` has no record `{key}` that cannot be read; `p2pd store check` lists those there are"
            );
        }
        store.drop_record(table, key).map(drop).context("the record was not removed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_can_be_read_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        assert!(check(data).unwrap_err().to_string().contains("no database"));
        {
            let store = Store::open(&data.join("db")).unwrap();
            store.put_rule("192.0.2.0/24", false).unwrap();
            store.put_rule("300.1.1.1", false).unwrap();
            store.set_setting(running::SETTING, "soon").unwrap();
        }
        let bad = check(data).unwrap();
        assert!(bad.len() == 2 && bad[0].starts_with("rules '300.1.1.1': "), "{bad:?}");
        for (table, key) in [("rules", "192.0.2.0/24"), ("rules", "nothing"), ("settings", "300.1.1.1")] {
            assert!(remove(data, table, key).is_err(), "{table} {key}");
        }
        remove(data, "rules", "300.1.1.1").unwrap();
        assert_eq!(check(data).unwrap(), ["settings 'running-ms': it is no number"]);
        remove(data, "settings", running::SETTING).unwrap();
        assert_eq!(check(data).unwrap(), [""; 0]);
        assert_eq!(Store::open(&data.join("db")).unwrap().rules().unwrap(), [Ok(("192.0.2.0/24".into(), false))]);
    }
}
