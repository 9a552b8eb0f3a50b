//! Logs of topics, for durable subscriptions: one task writes what comes, in batches that are on disk before any reader
//! sees them; readers page through the disk at their own pace and cost no memory while they are away.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use p2pd_core::{id::PeerId, ring::Next};
use p2pd_net::{TopicRule, queue};
use p2pd_store::{Keep, LogRecord, MessageRecord, Store, StoreError, TopicRecord};
use tokio::sync::watch;

use super::{Topic, TopicItem, topic::LogStatus};
use crate::node::{Node, NodeError, blocking, first_number, lock, wall};

/// Most logs.
const MAX_LOGS: usize = 32;
/// Messages that wait for the disk, and their bytes.
pub(in crate::node) const WAITING: (usize, usize) = (4096, 16 << 20);
/// Most messages written in one batch.
const BATCH: usize = 512;
/// Ids of the newest messages, so that none that comes again, also after a restart, is taken twice.
const REMEMBERED: usize = 4096;
/// How long the same content is the same message, in milliseconds: less than gossipsub's own minute, so that what that lets
/// through is kept.
const SAME_MS: u64 = 30_000;
/// How much of the disk a reader reads ahead.
const PAGE: (usize, u64) = (256, 1 << 20);
/// How often old messages go although none comes.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a log is kept that nobody reads, in milliseconds.
const UNREAD_MS: u64 = 7 * 86_400_000;
/// How long the end of the daemon waits for the disk.
const FLUSH: Duration = Duration::from_secs(2);

/// A log that messages are added to.
pub(in crate::node) struct Log {
    pub(super) record: LogRecord,
    /// Number of the message to come; the record's `next` is what is on disk.
    next: u64,
    /// The record's `next`, for readers.
    written: watch::Sender<u64>,
    /// Ids of the newest messages, and when those came.
    known: HashMap<Bytes, u64>,
    order: VecDeque<Bytes>,
}

/// A message on its way to the disk.
pub(in crate::node) struct ToWrite {
    pub(super) topic: String,
    pub(super) number: u64,
    pub(super) item: TopicItem,
    pub(super) id: Bytes,
}

/// Where a durable reader begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    Now,
    Oldest,
    After(u64),
}

impl Log {
    fn restored(record: LogRecord, newest: Vec<(Bytes, u64)>) -> Self {
        let (written, _) = watch::channel(record.next);
        let mut log = Log { record, next: record.next, written, known: HashMap::new(), order: VecDeque::new() };
        newest.into_iter().for_each(|(id, received_ms)| log.remember(id, received_ms));
        log
    }

    /// A new one. No cursor of an earlier log of this topic means anything in it.
    fn begin() -> Self {
        let first = first_number();
        Log::restored(LogRecord { oldest: first, next: first, ..LogRecord::default() }, Vec::new())
    }

    /// The number of a message; `None` when it is there already. An id that is a hash of the content means the same message
    /// for a while only: a sensor may say the same again.
    pub(super) fn admit(&mut self, id: &Bytes, by_content: bool, received_ms: u64) -> Option<u64> {
        let same = |came: &u64| !by_content || received_ms.abs_diff(*came) < SAME_MS;
        if self.known.get(id).is_some_and(same) {
            return None;
        }
        self.remember(id.clone(), received_ms);
        let number = self.next;
        self.next = self.next.saturating_add(1);
        Some(number)
    }

    /// Leaves out the numbers of messages that were lost, so that readers see the gap.
    pub(super) fn lose(&mut self, count: u64) {
        self.next = self.next.saturating_add(count);
    }

    fn remember(&mut self, id: Bytes, received_ms: u64) {
        if id.is_empty() || self.known.insert(id.clone(), received_ms).is_some() {
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

/// A reader of a log.
pub(crate) struct LogReader {
    node: Node,
    topic: String,
    /// Number that is read next.
    next: u64,
    written: watch::Receiver<u64>,
    page: VecDeque<(u64, MessageRecord)>,
}

/// What a log's reader gets.
pub(crate) enum Logged {
    Item(TopicItem),
    Gap { from: u64, to: u64, reason: &'static str },
}

/// What a record of the log is to a reader.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// That the daemon was away before it.
    Away,
    /// It is not the next.
    Missing,
    Message,
}

/// Of a record with this number, for a reader who is at `next`; `oldest` is kept.
fn step(next: u64, number: u64, away: bool, oldest: Option<u64>) -> Step {
    let nothing_expired = oldest.is_none_or(|oldest| oldest <= next);
    if away && (nothing_expired || number <= next) {
        Step::Away
    } else if number > next {
        Step::Missing
    } else {
        Step::Message
    }
}

impl LogReader {
    /// The cursor after what was read last.
    pub(crate) fn cursor(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// What comes next; `None` when the log is forgotten.
    pub(crate) async fn next(&mut self) -> Option<Result<Logged, NodeError>> {
        loop {
            if let Some((number, message)) = self.page.pop_front() {
                match step(self.next, number, message.away, self.oldest()) {
                    Step::Away => {
                        let from = std::mem::replace(&mut self.next, number.saturating_add(1));
                        return Some(Ok(Logged::Gap { from, to: number, reason: "daemon-away" }));
                    }
                    Step::Missing => {
                        self.page.push_front((number, message));
                        return Some(Ok(self.gap(number).await));
                    }
                    Step::Message => {}
                }
                self.next = number.saturating_add(1);
                let sender = (!message.sender.is_empty()).then(|| PeerId::from_bytes(&message.sender)).transpose();
                let Ok(sender) = sender else { return Some(Err(NodeError::Internal("a sender in a log".into()))) };
                let item = TopicItem { sender, data: message.data, received_ms: message.received };
                return Some(Ok(Logged::Item(item)));
            }
            let written = *self.written.borrow_and_update();
            if self.next < written {
                let (store, topic, from) = (self.node.0.store.clone(), self.topic.clone(), self.next);
                match blocking(move || store.messages_from(&topic, from, PAGE.0, PAGE.1)).await {
                    Ok(page) if page.is_empty() => return Some(Ok(self.gap(written).await)),
                    Ok(page) => self.page = page.into(),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            self.written.changed().await.ok()?;
        }
    }

    /// The oldest number that is kept; `None` when the log is forgotten.
    fn oldest(&self) -> Option<u64> {
        lock(&self.node.0.topics).get(&self.topic).and_then(|topic| Some(topic.log.as_ref()?.record.oldest))
    }

    /// The numbers up to `number` are not there, or no more.
    async fn gap(&mut self, number: u64) -> Logged {
        // What the disk has let go of is known once the batch is written.
        drop(self.node.0.writing_logs.lock().await);
        let from = std::mem::replace(&mut self.next, number);
        let expired = self.oldest().is_none_or(|oldest| from < oldest);
        let reason = if expired { "expired" } else { "store-busy" };
        Logged::Gap { from, to: number.saturating_sub(1), reason }
    }
}

impl Node {
    /// Reads a topic's log, which begins now if there is none.
    pub(crate) async fn subscribe_durable(&self, topic: &str, from: Start) -> Result<LogReader, NodeError> {
        self.check_topic(topic)?;
        let _writing = self.0.writing_logs.lock().await;
        self.room_for_log(topic)?;
        let leaving = self.0.following.lock().await;
        let (record, reader) = self.with_topic(topic, |found| {
            if let (None, Start::After(asked)) = (&found.log, from) {
                // No log begins for a cursor of none.
                return Err(NodeError::NoLog { topic: topic.to_owned(), asked });
            }
            let log = found.log.get_or_insert_with(Log::begin);
            let next = begin_at(log, from)?;
            log.record.read = wall().0;
            let written = log.written.subscribe();
            let reader =
                LogReader { node: self.clone(), topic: topic.to_owned(), next, written, page: VecDeque::new() };
            Ok::<_, NodeError>((found.record(), reader))
        })?;
        if let Err(error) = self.0.net.subscribe(topic, TopicRule::Open).await {
            // It cannot have been followed before, so the log is new.
            self.with_topic(topic, |found| found.log = None);
            return Err(error.into());
        }
        drop(leaving);
        self.keep_topic(topic, record).await?;
        self.0.topics_changed.notify_waiters();
        Ok(reader)
    }

    fn room_for_log(&self, topic: &str) -> Result<(), NodeError> {
        let topics = lock(&self.0.topics);
        let others = topics.iter().filter(|(name, other)| *name != topic && other.log.is_some()).count();
        if others < MAX_LOGS {
            return Ok(());
        }
        Err(NodeError::Limit(format!("{MAX_LOGS} topics have logs already; `p2pctl topics forget` ends one")))
    }

    /// Takes up the topics that were kept: their settings, their logs, and following what has a log.
    pub(in crate::node) async fn restore_topics(&self) -> Result<(), NodeError> {
        let store = self.0.store.clone();
        for (name, mut record) in blocking(move || store.topics()).await? {
            let newest = if record.log.is_some() {
                let (store, topic) = (self.0.store.clone(), name.clone());
                let taken_up = blocking(move || take_up(&store, &topic, record)).await?;
                record = taken_up.0;
                taken_up.1
            } else {
                Vec::new()
            };
            let log = record.log.map(|log| Log::restored(log, newest));
            let follow = log.is_some();
            let topic = Topic::restored(&record, log)?;
            self.0.net.set_topic(&name, topic.settings).await?;
            lock(&self.0.topics).insert(name.clone(), topic);
            if follow {
                self.0.net.subscribe(&name, TopicRule::Open).await?;
            }
        }
        Ok(())
    }

    /// Waits for what is on its way to the disk.
    pub(in crate::node) async fn flush_logs(&self) {
        let waits: Vec<_> = lock(&self.0.topics)
            .values()
            .filter_map(|topic| topic.log.as_ref().map(|log| (log.written.subscribe(), log.next)))
            .collect();
        let all = async {
            for (mut written, next) in waits {
                let _ = written.wait_for(|n| *n >= next).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, all).await;
    }

    /// The logs whose last messages were lost before they were written, and the numbers after those.
    fn holes(&self, waiting: &queue::Reader<ToWrite>) -> Vec<(String, u64)> {
        let topics = lock(&self.0.topics);
        // Nothing is added while the topics are locked, so that what is not there will not come.
        if !waiting.is_empty() {
            return Vec::new();
        }
        let logs = topics.iter().filter_map(|(name, topic)| Some((name, topic.log.as_ref()?)));
        logs.filter(|(_, log)| log.next > log.record.next).map(|(name, log)| (name.clone(), log.next)).collect()
    }

    /// Writes one topic's part of a batch, or only drops what is too old; numbers below `next` that are not written are lost.
    async fn write_log(&self, name: &str, messages: Vec<(u64, MessageRecord)>, next: u64) -> Result<(), NodeError> {
        let _writing = self.0.writing_logs.lock().await;
        let (mut record, keep): (TopicRecord, Keep) = {
            let topics = lock(&self.0.topics);
            let Some(topic) = topics.get(name).filter(|topic| topic.log.is_some()) else { return Ok(()) };
            let settings = topic.settings.unwrap_or_default();
            let since = wall().0.saturating_sub(u64::from(settings.keep_s).saturating_mul(1000));
            (topic.record(), Keep { bytes: settings.keep_bytes, since })
        };
        let first = record.log.map_or(0, |log| log.next);
        // The log may have been forgotten and begun anew meanwhile.
        let messages: Vec<_> = messages.into_iter().filter(|(number, _)| *number >= first).collect();
        let next = messages.last().map_or(next, |(number, _)| number.saturating_add(1));
        record.log.iter_mut().for_each(|log| log.next = log.next.max(next));
        let (store, topic) = (self.0.store.clone(), name.to_owned());
        let appended = blocking(move || store.append(&topic, &mut record, &messages, keep).map(|()| record)).await;
        let mut topics = lock(&self.0.topics);
        let Some(log) = topics.get_mut(name).and_then(|topic| topic.log.as_mut()) else { return Ok(()) };
        let (record, failed) = match appended {
            Ok(record) => (record.log, None),
            Err(error) => (None, Some(error)),
        };
        let read = log.record.read;
        log.record = record.unwrap_or(log.record);
        log.record.read = read;
        // Also when the disk failed: readers then learn of the gap instead of waiting.
        log.record.next = log.record.next.max(next);
        log.written.send_replace(log.record.next);
        failed.map_or(Ok(()), Err)
    }

    /// Drops what is too old, and logs that nobody has read for long.
    async fn sweep_logs(&self) {
        let now = wall().0;
        let logs: Vec<(String, bool)> = {
            let mut topics = lock(&self.0.topics);
            let logs = topics.iter_mut().filter_map(|(name, topic)| Some((name, topic.log.as_mut()?)));
            logs.map(|(name, log)| {
                if log.readers() > 0 {
                    log.record.read = now;
                }
                (name.clone(), now.saturating_sub(log.record.read) > UNREAD_MS)
            })
            .collect()
        };
        for (name, unread) in logs {
            let swept = if unread { self.end_log(&name).await } else { self.write_log(&name, Vec::new(), 0).await };
            if let Err(error) = swept {
                tracing::error!(%error, topic = name, "the log could not be swept");
            }
        }
    }

    /// Ends a log; the topic's settings stay.
    async fn end_log(&self, name: &str) -> Result<(), NodeError> {
        tracing::info!(topic = name, "nobody has read this log for seven days; it ends");
        self.forget_of_topic(name, |topic| topic.log = None).await
    }
}

/// Ids of a log's newest messages, and when those came.
type Newest = Vec<(Bytes, u64)>;

/// Goes on with a log, in which it is noted that the daemon was away. Its numbers go on with the time, past any that a reader may
/// have had before a crash.
fn take_up(store: &Store, topic: &str, mut record: TopicRecord) -> Result<(TopicRecord, Newest), StoreError> {
    let newest = store.newest_ids(topic, REMEMBERED)?;
    let number = record.log.map_or(0, |log| log.next).max(first_number());
    let away = MessageRecord { received: wall().0, away: true, ..MessageRecord::default() };
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
fn begin_at(log: &Log, from: Start) -> Result<u64, NodeError> {
    let LogRecord { oldest, next, .. } = log.record;
    match from {
        Start::Now => Ok(next),
        Start::Oldest => Ok(oldest),
        Start::After(cursor) if cursor.saturating_add(1) < oldest || cursor >= next => {
            Err(NodeError::CursorExpired { asked: cursor, oldest })
        }
        Start::After(cursor) => Ok(cursor.saturating_add(1)),
    }
}

/// Writes what comes until the daemon ends.
pub(in crate::node) async fn write_logs(node: Node, mut waiting: queue::Reader<ToWrite>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let first = tokio::select! {
            next = waiting.next() => next,
            _ = sweep.tick() => {
                node.sweep_logs().await;
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut batch: BTreeMap<String, Vec<(u64, MessageRecord)>> = BTreeMap::new();
        let more = std::iter::from_fn(|| waiting.next().now_or_never().flatten());
        for next in std::iter::once(first).chain(more.take(BATCH)) {
            // What was dropped is a hole in the numbers, which readers see.
            let Next::Item(ToWrite { topic, number, item, id }) = next else { continue };
            let sender = item.sender.map(|sender| Bytes::copy_from_slice(sender.as_bytes())).unwrap_or_default();
            let record = MessageRecord { sender, data: item.data, received: item.received_ms, id, away: false };
            batch.entry(topic).or_default().push((number, record));
        }
        for (topic, messages) in batch {
            if let Err(error) = node.write_log(&topic, messages, 0).await {
                tracing::error!(%error, topic, "messages of a log were not written");
            }
        }
        for (topic, next) in node.holes(&waiting) {
            if let Err(error) = node.write_log(&topic, Vec::new(), next).await {
                tracing::error!(%error, topic, "what a log has lost was not written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_another_message_after_a_while() {
        let (mut log, id) = (Log::begin(), Bytes::from_static(b"id"));
        let first = log.admit(&id, true, 0).unwrap();
        assert_eq!(log.admit(&id, true, SAME_MS - 1), None);
        assert_eq!(log.admit(&id, true, SAME_MS), Some(first + 1));
        assert_eq!(log.admit(&id, true, SAME_MS + 1), None);
        assert_eq!(log.admit(&id, false, 9 * SAME_MS), None, "a number is never used again");
    }
}
