//! The task that writes all logs, and drops what is too old.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use p2pd_core::{ring::Next, time::RunMs};
use p2pd_net::queue;
use p2pd_store::{Keep, MessageRecord, TopicRecord};

use super::super::TopicItem;
use crate::{
    clock::wall,
    lock,
    pubsub::{PubSub, PubSubError},
};

/// Messages that wait for the disk, and their bytes.
pub(in crate::pubsub) const WAITING: (usize, usize) = (4096, 16 << 20);
/// Most messages written in one batch.
const BATCH: usize = 512;
/// How often old messages go although none comes.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a log is kept that nobody reads, in milliseconds.
const UNREAD_MS: u64 = 7 * 86_400_000;
/// How long the end of the daemon waits for the disk.
const FLUSH: Duration = Duration::from_secs(2);

/// A message on its way to the disk.
pub(in crate::pubsub) struct ToWrite {
    pub(in crate::pubsub) topic: String,
    pub(in crate::pubsub) number: u64,
    /// `None`: the message was larger than the topic takes.
    pub(in crate::pubsub) item: Option<TopicItem>,
    pub(in crate::pubsub) id: Bytes,
}

impl ToWrite {
    fn record(self, now: RunMs) -> MessageRecord {
        let running = now.0;
        let Some(TopicItem { sender, data, received_ms }) = self.item else {
            return MessageRecord { too_large: true, received: wall().0, running, ..MessageRecord::default() };
        };
        let sender = sender.map(|sender| Bytes::copy_from_slice(sender.as_bytes())).unwrap_or_default();
        MessageRecord { sender, data, received: received_ms, running, id: self.id, ..MessageRecord::default() }
    }
}

/// Writes what comes until the daemon ends.
pub(in crate::pubsub) async fn write_logs(owner: PubSub, mut waiting: queue::Reader<ToWrite>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let first = tokio::select! {
            next = waiting.next() => next,
            _ = sweep.tick() => {
                owner.sweep_logs().await;
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut batch: BTreeMap<String, Vec<(u64, MessageRecord)>> = BTreeMap::new();
        let more = std::iter::from_fn(|| waiting.next().now_or_never().flatten());
        for next in std::iter::once(first).chain(more.take(BATCH)) {
            // What was dropped is a hole in the numbers, which readers see.
            let Next::Item(to_write) = next else { continue };
            batch
                .entry(to_write.topic.clone())
                .or_default()
                .push((to_write.number, to_write.record(owner.0.with.clock.running())));
        }
        for (topic, messages) in batch {
            if let Err(error) = owner.write_log(&topic, messages, 0).await {
                tracing::warn!(%error, topic, "messages of a log were not written");
            }
        }
        for (topic, next) in owner.holes(&waiting) {
            if let Err(error) = owner.write_log(&topic, Vec::new(), next).await {
                tracing::warn!(%error, topic, "what a log has lost was not written");
            }
        }
    }
}

impl PubSub {
    /// Waits for what is on its way to the disk.
    pub async fn flush_logs(&self) {
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
    async fn write_log(&self, name: &str, messages: Vec<(u64, MessageRecord)>, next: u64) -> Result<(), PubSubError> {
        let _writing = self.0.writing.lock().await;
        let (mut record, keep): (TopicRecord, Keep) = {
            let topics = lock(&self.0.topics);
            let Some(topic) = topics.get(name).filter(|topic| topic.log.is_some()) else { return Ok(()) };
            let settings = topic.settings.unwrap_or_default();
            let since = self.0.with.clock.running().0.saturating_sub(u64::from(settings.keep_s).saturating_mul(1000));
            (topic.record(), Keep { bytes: settings.keep_bytes, since })
        };
        let first = record.log.map_or(0, |log| log.next);
        // The log may have been forgotten and begun anew meanwhile.
        let messages: Vec<_> = messages.into_iter().filter(|(number, _)| *number >= first).collect();
        let next = messages.last().map_or(next, |(number, _)| number.saturating_add(1));
        record.log.iter_mut().for_each(|log| log.next = log.next.max(next));
        let topic = name.to_owned();
        let appended = self
            .0
            .with
            .disk
            .run(move |store| store.append(&topic, &mut record, &messages, keep).map(|()| record))
            .await;
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
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Drops what is too old, and logs that nobody has read for long.
    async fn sweep_logs(&self) {
        let now = self.0.with.clock.running();
        let logs: Vec<(String, bool)> = {
            let mut topics = lock(&self.0.topics);
            let logs = topics.iter_mut().filter_map(|(name, topic)| Some((name, topic.log.as_mut()?)));
            logs.map(|(name, log)| {
                if log.readers() > 0 {
                    log.record.read = now.0;
                }
                (name.clone(), now.since(RunMs(log.record.read)) > UNREAD_MS)
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
    async fn end_log(&self, name: &str) -> Result<(), PubSubError> {
        tracing::info!(topic = name, "nobody has read this log for seven days; it ends");
        self.forget_of_topic(name, |topic| topic.log = None).await
    }
}
