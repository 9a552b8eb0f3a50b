//! Logs of topics, for durable subscriptions: one task writes what comes, in batches that are on disk before any reader
//! sees them; readers page through the disk at their own pace and cost no memory while they are away.

mod reader;
mod writer;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use p2pd_core::time::RunMs;
use p2pd_store::{Keep, LogRecord, MessageRecord, Store, StoreError, TopicRecord};
use tokio::sync::watch;

pub use self::reader::{LogReader, Logged};
pub(super) use self::writer::{ToWrite, WAITING, write_logs};
use super::Topic;
use crate::{
    clock::{first_number, wall},
    lock,
    pubsub::{PubSub, PubSubError},
};

/// Ids of the newest messages, so that none that comes again, also after a restart, is taken twice.
const REMEMBERED: usize = 4096;
/// How long the same content is the same message, in milliseconds: less than gossipsub's own minute, so that what that lets
/// through is kept.
const SAME_MS: u64 = 30_000;

/// A log and who reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogStatus {
    /// Number of the oldest message that is kept.
    pub oldest: u64,
    /// And of the newest.
    pub newest: u64,
    /// What they take.
    pub bytes: u64,
    /// Programs that read it.
    pub readers: usize,
}

/// A log that messages are added to.
pub(in crate::pubsub) struct Log {
    pub(super) record: LogRecord,
    /// Number of the message to come; the record's `next` is what is on disk.
    next: u64,
    /// The record's `next`, for readers.
    written: watch::Sender<u64>,
    /// Ids of the newest messages, and when those came.
    known: HashMap<Bytes, RunMs>,
    order: VecDeque<Bytes>,
}

/// Where a durable reader begins.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// With what comes from now on.
    Now,
    /// With the oldest message that is kept.
    Oldest,
    /// After the one of this number.
    After(u64),
}

impl Log {
    fn restored(record: LogRecord, newest: Newest) -> Self {
        let (written, _) = watch::channel(record.next);
        let mut log = Log { record, next: record.next, written, known: HashMap::new(), order: VecDeque::new() };
        newest.into_iter().for_each(|(id, came)| log.remember(id, RunMs(came)));
        log
    }

    /// A new one. No cursor of an earlier log of this topic means anything in it.
    fn begin(now: RunMs) -> Self {
        let first = first_number(now);
        Log::restored(LogRecord { oldest: first, next: first, ..LogRecord::default() }, Vec::new())
    }

    /// The number of a message; `None` when it is there already. An id that is a hash of the content means the same message
    /// for a while only: a sensor may say the same again.
    pub(super) fn admit(&mut self, id: &Bytes, by_content: bool, now: RunMs) -> Option<u64> {
        let same = |came: &RunMs| !by_content || now.since(*came) < SAME_MS;
        if self.known.get(id).is_some_and(same) {
            return None;
        }
        self.remember(id.clone(), now);
        Some(self.skip())
    }

    /// The number that stands for a message that was not taken.
    pub(super) fn skip(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// Leaves out the numbers of messages that were lost, so that readers see the gap.
    pub(super) fn lose(&mut self, count: u64) {
        self.next = self.next.saturating_add(count);
    }

    fn remember(&mut self, id: Bytes, came: RunMs) {
        if id.is_empty() || self.known.insert(id.clone(), came).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn readers(&self) -> usize {
        self.written.receiver_count()
    }

    pub(super) fn status(&self) -> LogStatus {
        let LogRecord { oldest, next, bytes, .. } = self.record;
        LogStatus { oldest, newest: next.saturating_sub(1), bytes, readers: self.readers() }
    }
}

impl PubSub {
    /// Reads a topic's log, which begins now if there is none.
    pub async fn subscribe_durable(&self, topic: &str, from: Start) -> Result<LogReader, PubSubError> {
        self.check_topic(topic)?;
        let _writing = self.0.writing.lock().await;
        self.room_for_log(topic)?;
        let leaving = self.0.following.lock().await;
        let (record, reader) = self.with_topic(topic, |found| {
            if let (None, Start::After(asked)) = (&found.log, from) {
                // No log begins for a cursor of none.
                return Err(PubSubError::NoLog { topic: topic.to_owned(), asked });
            }
            let log = found.log.get_or_insert_with(|| Log::begin(self.0.with.clock.running()));
            let next = begin_at(log, from)?;
            log.record.read = self.0.with.clock.running().0;
            let reader = LogReader::new(self.clone(), topic, next, log.written.subscribe());
            Ok::<_, PubSubError>((found.record(), reader))
        })?;
        if let Err(error) = self.follow_topic(topic).await {
            // It cannot have been followed before, so the log is new.
            self.with_topic(topic, |found| found.log = None);
            return Err(error);
        }
        drop(leaving);
        self.keep_topic(topic, record).await?;
        self.0.changed.notify_waiters();
        Ok(reader)
    }

    fn room_for_log(&self, topic: &str) -> Result<(), PubSubError> {
        let topics = lock(&self.0.topics);
        let others = topics.iter().filter(|(name, other)| *name != topic && other.log.is_some()).count();
        match self.0.with.max_logs {
            0 => Err(PubSubError::Limit("this daemon keeps no logs (topics.max_logs is 0)".into())),
            most if others < most => Ok(()),
            most => {
                Err(PubSubError::Limit(format!("{most} topics have logs already; PubSubService.ForgetTopic ends one")))
            }
        }
    }

    /// Takes up the topics that were kept: their settings, their logs, and following what has a log.
    pub async fn restore(&self) -> Result<(), PubSubError> {
        for (name, mut record) in self.0.with.disk.run(|store| store.topics()).await? {
            let newest = if record.log.is_some() {
                let (topic, now) = (name.clone(), self.0.with.clock.running());
                let taken_up = self.0.with.disk.run(move |store| take_up(store, &topic, record, now)).await?;
                record = taken_up.0;
                taken_up.1
            } else {
                Vec::new()
            };
            let log = record.log.map(|log| Log::restored(log, newest));
            let follow = log.is_some();
            let topic = Topic::restored(&name, &record, log)?;
            self.0.with.net.pubsub.set_topic(&name, topic.settings).await?;
            lock(&self.0.topics).insert(name.clone(), topic);
            if follow {
                self.follow_topic(&name).await?;
            }
        }
        Ok(())
    }
}

/// Ids of a log's newest messages, and when those came in running time.
type Newest = Vec<(Bytes, u64)>;

/// Goes on with a log, in which it is noted that the daemon was away. Its numbers go on with the time, past any that a reader may
/// have had before a crash.
fn take_up(
    store: &Store,
    topic: &str,
    mut record: TopicRecord,
    now: RunMs,
) -> Result<(TopicRecord, Newest), StoreError> {
    let newest = store.newest_ids(topic, REMEMBERED)?;
    let number = record.log.map_or(0, |log| log.next).max(first_number(now));
    let away = MessageRecord { received: wall().0, running: now.0, away: true, ..MessageRecord::default() };
    // What is to go goes with the first message, or at the first look.
    let keep = Keep { bytes: u64::MAX, since: 0 };
    if let Err(error) = store.append(topic, &mut record, &[(number, away)], keep) {
        // Readers see the numbers that are left out all the same.
        tracing::error!(%error, topic, "that the daemon was away was not written");
        record.log.iter_mut().for_each(|log| log.next = number.saturating_add(1));
    }
    Ok((record, newest))
}

/// The number a reader begins with. Only what is on disk counts: a number that is not may be another message's after a
/// crash, and whoever had it for a cursor would miss that one.
fn begin_at(log: &Log, from: Start) -> Result<u64, PubSubError> {
    let LogRecord { oldest, next, .. } = log.record;
    match from {
        Start::Now => Ok(next),
        Start::Oldest => Ok(oldest),
        Start::After(cursor) if cursor.saturating_add(1) < oldest || cursor >= next => {
            Err(PubSubError::CursorExpired { asked: cursor, oldest })
        }
        Start::After(cursor) => Ok(cursor.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_another_message_after_a_while() {
        let (mut log, id) = (Log::begin(RunMs(0)), Bytes::from_static(b"id"));
        let first = log.admit(&id, true, RunMs(0)).unwrap();
        assert_eq!(log.admit(&id, true, RunMs(SAME_MS - 1)), None);
        assert_eq!(log.admit(&id, true, RunMs(SAME_MS)), Some(first + 1));
        assert_eq!(log.admit(&id, true, RunMs(SAME_MS + 1)), None);
        assert_eq!(log.admit(&id, false, RunMs(9 * SAME_MS)), None, "a number is never used again");
    }
}
