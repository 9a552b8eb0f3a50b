//! What happened, numbered across restarts: kept on disk, and told to those who watch.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use p2pd_core::{
    bucket::{Bucket, Buckets},
    id::PeerId,
    time::MonoMs,
};
use p2pd_store::{EventRecord, StoreError};
use tokio::{sync::broadcast, time::MissedTickBehavior};

use crate::{
    clock::{Clock, first_number, wall},
    disk::{Disk, DiskError},
    lock,
};

/// What happens.
pub const KINDS: [&str; 22] = [
    "address-private",
    "address-public",
    "circuit-cut",
    "clock-right",
    "clock-wrong",
    "descriptors-enough",
    "descriptors-short",
    "directory-full",
    "events-left-out",
    "gossip-ended",
    "peer-connected",
    "peer-direct",
    "peer-disconnected",
    "peer-incompatible",
    "relay-lost",
    "relay-reserved",
    "started",
    "storage-back",
    "storage-failed",
    "stream-ended",
    "stream-present",
    "stream-stale",
];

/// Events that a watcher may be behind before it is cut off.
const WATCH: usize = 256;
/// Events that are not on disk yet. What comes while there are so many is told, but not kept.
const MAX_UNWRITTEN: usize = 4096;
/// Events that strangers cause: so many a second of all and at once, and the same of one peer. Of these 10,000 would be no
/// history otherwise. Others are counted.
const STRANGERS: (u32, u32) = (2, 2_000);
const OF_ONE: (u32, u32) = (1, 60);
/// Peers whose rate is remembered.
const MAX_BUCKETS: usize = 1024;
/// How often it is told how many were left out, in milliseconds.
const LEFT_OUT_MS: u64 = 60_000;
/// How often they are written.
const WRITE: Duration = Duration::from_secs(1);

/// Why events are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// A cursor before the oldest that is kept, or after the newest.
    #[error(
        "cursor {asked} is kept no more, or is not there yet: begin anew without one, or with the oldest left, {oldest}, by \
        `from_oldest`"
    )]
    CursorExpired {
        /// As asked.
        asked: u64,
        /// What is left.
        oldest: u64,
    },
    /// The disk's.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// One event and its number.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Its number.
    pub cursor: u64,
    /// By this machine's clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// What kind of thing.
    pub kind: String,
    /// To whom or what.
    pub subject: String,
}

/// Events that were left out.
struct LeftOut {
    since: MonoMs,
    count: u64,
}

struct State {
    next: u64,
    told: broadcast::Sender<Happened>,
    unwritten: Vec<Happened>,
    strangers: Bucket,
    of_one: Buckets<PeerId>,
    /// Apart, since whoever comes when there are many shares a bucket.
    of_chosen: Buckets<PeerId>,
    left_out: Option<LeftOut>,
    /// Peers that people chose, by who says so: their events are not lost in a flood of others.
    chosen: HashMap<&'static str, HashSet<PeerId>>,
}

struct Shared {
    state: Mutex<State>,
    disk: Disk,
    clock: Clock,
}

/// The owner of events, behind a cloneable handle.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

impl Happened {
    fn record(&self) -> (u64, EventRecord) {
        let record = EventRecord { time: self.time_ms, kind: self.kind.clone(), subject: self.subject.clone() };
        (self.cursor, record)
    }
}

impl Events {
    /// Goes on with the numbers after those on disk.
    pub fn restore(disk: Disk, clock: Clock) -> Result<Self, StoreError> {
        let last = disk.store().last_event()?;
        let next = last.map_or(0, |last| last.saturating_add(1)).max(first_number(clock.running()));
        let state = Mutex::new(State {
            next,
            told: broadcast::Sender::new(WATCH),
            unwritten: Vec::new(),
            strangers: Bucket::full(MonoMs(0), STRANGERS.1),
            of_one: Buckets::new(MAX_BUCKETS),
            of_chosen: Buckets::new(MAX_BUCKETS),
            left_out: None,
            chosen: HashMap::new(),
        });
        Ok(Events(Arc::new(Shared { state, disk, clock })))
    }

    /// Notes an event.
    pub fn happened(&self, kind: &str, subject: &str) {
        debug_assert!(cfg!(test) || KINDS.contains(&kind), "{kind}");
        let mut state = lock(&self.0.state);
        let event = Happened { cursor: state.next, time_ms: wall().0, kind: kind.into(), subject: subject.into() };
        state.next = state.next.saturating_add(1);
        if state.unwritten.len() < MAX_UNWRITTEN {
            state.unwritten.push(event.clone());
        }
        let _ = state.told.send(event);
    }

    /// Has the events of these peers come through whatever strangers cause, in place of those that `by` named before.
    pub fn choose(&self, by: &'static str, peers: impl IntoIterator<Item = PeerId>) {
        lock(&self.0.state).chosen.insert(by, peers.into_iter().collect());
    }

    /// Notes an event that a peer, or somebody whose id is not known, can cause as often as it likes.
    pub fn happened_to(&self, peer: Option<&PeerId>, kind: &str, subject: &str) {
        let now = self.0.clock.now();
        let admitted = {
            let state = &mut *lock(&self.0.state);
            let chosen = peer.is_some_and(|peer| state.chosen.values().any(|chosen| chosen.contains(peer)));
            let of_one = if chosen { &mut state.of_chosen } else { &mut state.of_one };
            let admitted = peer.is_none_or(|peer| of_one.take(now, peer, OF_ONE.0, OF_ONE.1))
                && (chosen || state.strangers.take(now, STRANGERS.0, STRANGERS.1));
            if !admitted {
                let left_out = state.left_out.get_or_insert(LeftOut { since: now, count: 0 });
                left_out.count = left_out.count.saturating_add(1);
            }
            admitted
        };
        if admitted {
            self.happened(kind, subject);
        }
    }

    /// The number of the newest event; what comes is numbered higher.
    pub fn newest(&self) -> u64 {
        lock(&self.0.state).next.saturating_sub(1)
    }

    /// The events after `after` (`None`: all that are kept) where the `past` is asked for, then those to come. One step, so that none falls
    /// between.
    pub async fn watch(
        &self,
        after: Option<u64>,
        past: bool,
    ) -> Result<(Vec<Happened>, broadcast::Receiver<Happened>), EventsError> {
        let (told, unwritten, next) = {
            let state = lock(&self.0.state);
            (state.told.subscribe(), state.unwritten.clone(), state.next)
        };
        if !past {
            return Ok((Vec::new(), told));
        }
        let kept = self.0.disk.run(|store| store.events_after(None)).await?;
        let oldest = kept.first().map(|(n, _)| *n).or(unwritten.first().map(|e| e.cursor)).unwrap_or(0);
        if let Some(asked) = after.filter(|n| *n > 0 && (n.saturating_add(1) < oldest || *n >= next)) {
            return Err(EventsError::CursorExpired { asked, oldest });
        }
        let written = kept.last().map(|(n, _)| *n);
        let from_disk =
            kept.into_iter().map(|(cursor, r)| Happened { cursor, time_ms: r.time, kind: r.kind, subject: r.subject });
        let rest = unwritten.into_iter().filter(|e| written.is_none_or(|n| e.cursor > n));
        Ok((from_disk.chain(rest).filter(|e| after.is_none_or(|n| e.cursor > n)).collect(), told))
    }

    /// Writes what happened each second, and tells what was left out each minute, until the daemon ends.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(WRITE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.tell_left_out();
            if let Err(error) = self.write().await {
                tracing::debug!(%error, "events not written; trying again");
            }
        }
    }

    /// Writes what is not on disk yet. After a failure it is tried again.
    pub async fn write(&self) -> Result<(), DiskError> {
        let unwritten: Vec<_> = lock(&self.0.state).unwritten.iter().map(Happened::record).collect();
        let Some(newest) = unwritten.last().map(|(cursor, _)| *cursor) else { return Ok(()) };
        self.0.disk.run(move |store| store.append_events(&unwritten)).await?;
        lock(&self.0.state).unwritten.retain(|event| event.cursor > newest);
        Ok(())
    }

    /// Tells how many events were left out, once a minute.
    fn tell_left_out(&self) {
        let now = self.0.clock.now();
        let due = lock(&self.0.state).left_out.take_if(|left_out| now.since(left_out.since) >= LEFT_OUT_MS);
        if let Some(LeftOut { count, .. }) = due {
            self.happened("events-left-out", &count.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::time::RunMs;
    use p2pd_store::Store;

    use super::*;

    fn events(directory: &tempfile::TempDir) -> Events {
        let disk = Disk::new(Store::open(directory.path()).unwrap());
        Events::restore(disk, Clock::start(RunMs(0))).unwrap()
    }

    #[tokio::test]
    async fn events_go_on_from_a_cursor_over_what_is_on_disk_and_what_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let events = events(&directory);
        events.happened("a", "1");
        events.write().await.unwrap();
        events.happened("b", "2");
        let (all, mut live) = events.watch(None, true).await.unwrap();
        assert_eq!(all.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let (rest, _) = events.watch(Some(all[0].cursor), true).await.unwrap();
        assert_eq!(rest.len(), 1);
        events.happened("c", "3");
        assert_eq!(live.recv().await.unwrap().cursor, all[1].cursor + 1);
        assert!(matches!(events.watch(Some(1), true).await, Err(EventsError::CursorExpired { asked: 1, .. })));
    }

    #[tokio::test]
    async fn a_flood_of_strangers_leaves_out_none_of_a_chosen_peer() {
        let directory = tempfile::tempdir().unwrap();
        let events = events(&directory);
        let [chosen, greedy] = [1, 2].map(|n| PeerId::from_ed25519(&[n; 32]));
        events.choose("pins", [chosen.clone()]);
        for n in 0..3_000_u32 {
            let stranger = PeerId::from_ed25519(&[&n.to_be_bytes()[..], &[9; 28]].concat().try_into().unwrap());
            events.happened_to(Some(&stranger), "peer-connected", "");
            events.happened_to(Some(&greedy), "peer-connected", "greedy");
        }
        events.happened_to(Some(&chosen), "peer-connected", "chosen");
        let (all, _) = events.watch(None, true).await.unwrap();
        let of = |subject: &str| all.iter().filter(|event| event.subject == subject).count();
        assert!(all.len() < 2_200 && of("greedy") <= 70, "{} in all, {} of one", all.len(), of("greedy"));
        assert_eq!(of("chosen"), 1);
    }
}
