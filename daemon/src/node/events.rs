//! What happened, numbered across restarts: kept on disk, and told to those who watch.

use p2pd_core::{
    id::PeerId,
    rate::{Bucket, Buckets},
    time::{MonoMs, RunMs},
};
use p2pd_store::{EventRecord, Store, StoreError};
use tokio::sync::broadcast;

use super::{Node, NodeError, WATCH, blocking, lock, running::first_number, wall};

/// One event and its number.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) cursor: u64,
    pub(crate) time_ms: u64,
    pub(crate) kind: String,
    pub(crate) subject: String,
}

pub(super) struct State {
    next: u64,
    told: broadcast::Sender<Happened>,
    /// Not yet on disk; `persist` empties it each second. What comes while it is full is told, but not kept.
    unwritten: Vec<Happened>,
    strangers: Bucket,
    of_one: Buckets<PeerId>,
    /// Since when, and how many.
    left_out: Option<(MonoMs, u64)>,
}

const MAX_UNWRITTEN: usize = 4096;
/// Events that strangers cause: so many a second of all and at once, and the same of one peer. Of these 10,000 would be no
/// history otherwise. Others are counted.
const STRANGERS: (u32, u32) = (2, 2_000);
const OF_ONE: (u32, u32) = (1, 60);
/// Peers whose rate is remembered.
const MAX_BUCKETS: usize = 1024;
/// How often it is told how many were left out, in milliseconds.
const LEFT_OUT_MS: u64 = 60_000;

impl State {
    pub(super) fn restore(store: &Store, running: RunMs) -> Result<Self, StoreError> {
        let next = store.last_event()?.map_or(0, |last| last.saturating_add(1)).max(first_number(running));
        Ok(State {
            next,
            told: broadcast::Sender::new(WATCH),
            unwritten: Vec::new(),
            strangers: Bucket::full(MonoMs(0), STRANGERS.1),
            of_one: Buckets::new(MAX_BUCKETS),
            left_out: None,
        })
    }
}

impl Happened {
    fn record(&self) -> (u64, EventRecord) {
        let record = EventRecord { time: self.time_ms, kind: self.kind.clone(), subject: self.subject.clone() };
        (self.cursor, record)
    }
}

impl Node {
    /// Notes an event.
    pub(super) fn happened(&self, kind: &str, subject: &str) {
        let mut state = lock(&self.0.events);
        let event = Happened { cursor: state.next, time_ms: wall().0, kind: kind.into(), subject: subject.into() };
        state.next = state.next.saturating_add(1);
        if state.unwritten.len() < MAX_UNWRITTEN {
            state.unwritten.push(event.clone());
        }
        let _ = state.told.send(event);
    }

    /// Notes an event that a peer, or somebody whose id is not known, can cause as often as it likes. Those of peers that people chose are
    /// not lost in a flood of others.
    pub(super) fn happened_to(&self, peer: Option<&PeerId>, kind: &str, subject: &str) {
        let now = self.now();
        let followed = self.followed_publishers();
        let is_pinned = |peer| lock(&self.0.pins).0.contains_key(peer);
        let chosen = peer.is_some_and(|peer| *peer == self.0.me || followed.contains(peer) || is_pinned(peer));
        let admitted = {
            let state = &mut *lock(&self.0.events);
            let admitted = peer.is_none_or(|peer| state.of_one.take(now, peer, OF_ONE.0, OF_ONE.1))
                && (chosen || state.strangers.take(now, STRANGERS.0, STRANGERS.1));
            if !admitted {
                let (_, count) = state.left_out.get_or_insert((now, 0));
                *count = count.saturating_add(1);
            }
            admitted
        };
        if admitted {
            self.happened(kind, subject);
        }
    }

    /// Tells how many events were left out, once a minute.
    pub(super) fn tell_left_out(&self) {
        let now = self.now();
        let due = lock(&self.0.events).left_out.take_if(|(since, _)| now.since(*since) >= LEFT_OUT_MS);
        if let Some((_, count)) = due {
            self.happened("events-left-out", &count.to_string());
        }
    }

    /// Events to write to disk.
    pub(super) fn unwritten(&self) -> Vec<(u64, EventRecord)> {
        lock(&self.0.events).unwritten.iter().map(Happened::record).collect()
    }

    /// Those up to this number are written.
    pub(super) fn are_written(&self, newest: Option<u64>) {
        lock(&self.0.events).unwritten.retain(|event| newest.is_none_or(|newest| event.cursor > newest));
    }

    /// The events after `after` (`None`: all that are kept), then those to come. One step, so that none falls between.
    pub(crate) async fn watch_events(
        &self,
        after: Option<u64>,
        past: bool,
    ) -> Result<(Vec<Happened>, broadcast::Receiver<Happened>), NodeError> {
        let (told, unwritten, next) = {
            let state = lock(&self.0.events);
            (state.told.subscribe(), state.unwritten.clone(), state.next)
        };
        if !past {
            return Ok((Vec::new(), told));
        }
        let store = self.0.store.clone();
        let kept = blocking(move || store.events_after(None)).await?;
        let oldest = kept.first().map(|(n, _)| *n).or(unwritten.first().map(|e| e.cursor)).unwrap_or(0);
        if let Some(asked) = after.filter(|n| *n > 0 && (n.saturating_add(1) < oldest || *n >= next)) {
            return Err(NodeError::CursorExpired { asked, oldest });
        }
        let written = kept.last().map(|(n, _)| *n);
        let from_disk =
            kept.into_iter().map(|(cursor, r)| Happened { cursor, time_ms: r.time, kind: r.kind, subject: r.subject });
        let rest = unwritten.into_iter().filter(|e| written.is_none_or(|n| e.cursor > n));
        Ok((from_disk.chain(rest).filter(|e| after.is_none_or(|n| e.cursor > n)).collect(), told))
    }
}
