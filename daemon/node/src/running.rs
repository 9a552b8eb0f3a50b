//! Running time, by which ages of what is on disk are counted. The wall clock cannot tell them: a clock that is set forward, or is
//! wrong at boot, would make everything old at once.

use std::time::Duration;

use p2pd_core::time::RunMs;
use p2pd_store::{Store, StoreError};

use crate::{
    clock::{Clock, wall},
    disk::{Disk, DiskError, number},
};

/// How often it is kept.
const KEEP: Duration = Duration::from_secs(10);
/// Name of the setting that keeps it.
pub const SETTING: &str = "running-ms";

/// The running time that was kept; at a first start, the newest time on disk, which an older p2pd wrote; where there is none, the
/// wall clock's.
pub fn restore(store: &Store) -> Result<RunMs, StoreError> {
    Ok(RunMs(match number(store, SETTING)? {
        Some(kept) => kept,
        None => newest(store)?.unwrap_or_else(|| wall().0),
    }))
}

/// When the newest peer was connected or the newest message came. The clock may be wrong by now, and those times are what ages are
/// counted from.
fn newest(store: &Store) -> Result<Option<u64>, StoreError> {
    let mut newest = store.peers()?.records.iter().map(|(_, peer)| peer.seen).max();
    for (topic, record) in store.topics()? {
        let Some(log) = record.log else { continue };
        let came = store.newest_ids(&topic, 1)?.last().map(|(_, came)| *came);
        newest = newest.max(came).max(Some(log.read));
    }
    Ok(newest.filter(|newest| *newest > 0))
}

/// Keeps it. After a crash the time since the last call is missing, so that ages are a little less.
fn keep(store: &Store, running: RunMs) -> Result<(), StoreError> {
    store.set_setting(SETTING, &running.0.to_string())
}

/// Keeps it every ten seconds, until the daemon ends. That shows as well whether the disk takes anything, where there is nothing else to
/// write.
pub async fn run(disk: &Disk, clock: Clock) {
    let mut tick = tokio::time::interval(KEEP);
    loop {
        tick.tick().await;
        if let Err(error) = write(disk, clock).await {
            tracing::debug!(%error, "running time not written; trying again");
        }
    }
}

/// Keeps it now.
pub async fn write(disk: &Disk, clock: Clock) -> Result<(), DiskError> {
    let now = clock.running();
    disk.run(move |store| keep(store, now)).await
}

#[cfg(test)]
mod tests {
    use p2pd_store::{Keep, LogRecord, MessageRecord, PeerRecord, TopicRecord};

    use super::*;

    #[test]
    fn on_a_database_without_running_time_it_begins_with_the_newest_record_whatever_the_clock_says() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.put_peer(vec![1], PeerRecord { seen: 20, ..PeerRecord::default() }).unwrap();
        assert_eq!(restore(&store).unwrap(), RunMs(20));
        let mut topic = TopicRecord { log: Some(LogRecord::default()), settings: None };
        let message = |received| MessageRecord { received, ..MessageRecord::default() };
        let keep = Keep { bytes: 10_000, since: 0 };
        store.append("chat", &mut topic, &[(1, message(10)), (2, message(30))], keep).unwrap();
        assert_eq!(restore(&store).unwrap(), RunMs(30));
    }

    #[test]
    fn running_time_that_cannot_be_read_is_not_taken_for_a_first_start() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.set_setting(SETTING, "soon").unwrap();
        assert!(restore(&store).unwrap_err().to_string().contains("store drop settings 'running-ms'"));
        store.drop_record("settings", SETTING).unwrap();
        restore(&store).unwrap();
    }

    #[test]
    fn running_time_goes_on_where_it_was_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(wall().since(p2pd_core::time::UnixMs(restore(&store).unwrap().0)) < 60_000);
        keep(&store, RunMs(7)).unwrap();
        assert_eq!(restore(&store).unwrap(), RunMs(7));
    }
}
