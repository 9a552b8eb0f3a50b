//! Topics of local programs: one subscription of the network for all who use a topic, each by its own contract.

mod judge;
mod log;
mod outbound;
mod topic;
mod validators;
mod waiting;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use p2pd_core::{
    contract::{Identity, TopicSettings},
    id::PeerId,
    ring::Cause,
};
use p2pd_net::queue::Reader;
use tokio::sync::mpsc;

pub(super) use judge::Judges;
pub(crate) use log::{LogReader, Logged, Start};
pub(super) use log::{ToWrite, WAITING, write_logs};
pub(crate) use outbound::Outbound;
pub(super) use topic::Topic;
pub(in crate::node) use topic::unreadable_settings;
pub(crate) use topic::{LogStatus, TopicStatus, meshes};
pub(crate) use validators::{Ruling, ToJudge, ValidatorEvent};
pub(super) use waiting::Waiting;
pub(crate) use waiting::{Room, RoomSoon};

use super::{Node, NodeError, lock};

/// What a reader may be behind, in items and bytes, unless it says otherwise.
const READER: (usize, usize) = (256, 1 << 20);
/// What a reader may be behind for whom local publishers wait.
const PATIENT_READER: (usize, usize) = (1024, 4 << 20);

/// A message of a topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicItem {
    /// Who signed it, if anybody.
    pub(crate) sender: Option<PeerId>,
    pub(crate) data: Bytes,
    pub(crate) received_ms: u64,
}

/// What happens while a live reader is slow.
pub(crate) enum Live {
    /// It may be so many messages behind; 0: the usual number.
    DropOldest(usize),
    /// Local publishers wait so long for it.
    Block(Duration),
}

/// A program that judges a topic's messages; the topic is followed while it is here.
pub(crate) struct Validator {
    questions: mpsc::Receiver<ValidatorEvent>,
    _attached: Arc<()>,
}

impl Validator {
    /// What it is told next; `None` when the network has stopped.
    pub(crate) async fn next(&mut self) -> Option<ValidatorEvent> {
        self.questions.recv().await
    }
}

impl Node {
    fn check_topic(&self, topic: &str) -> Result<(), NodeError> {
        let fault = if topic.is_empty() || topic.len() > 256 {
            "takes 1 to 256 bytes".into()
        } else if topic == self.directory_topic()
            || topic.starts_with("/p2pd/")
            || topic.starts_with(&format!("{}/stream/", self.network()))
        {
            format!("`{topic}` belongs to p2pd's own protocols; use the stream calls")
        } else {
            return Ok(());
        };
        Err(NodeError::Field { field: "topic", fault })
    }

    /// Follows a topic live.
    pub(crate) async fn subscribe(&self, topic: &str, contract: Live) -> Result<Reader<TopicItem>, NodeError> {
        self.check_topic(topic)?;
        let _leaving = self.0.following.lock().await;
        // The reader first: a message may come as soon as the topic is followed.
        let reader = self.with_topic(topic, |topic| match contract {
            Live::DropOldest(0) => topic.readers.join(READER.0, READER.1),
            Live::DropOldest(items) => topic.readers.join(items, READER.1),
            Live::Block(patience) => topic.readers.join_patient(PATIENT_READER.0, PATIENT_READER.1, patience),
        });
        self.follow_topic(topic).await?;
        self.0.topics_changed.notify_waiters();
        Ok(reader)
    }

    /// Judges a topic's messages from now on.
    pub(crate) async fn validate(&self, topic: &str) -> Result<Validator, NodeError> {
        self.check_topic(topic)?;
        let _leaving = self.0.following.lock().await;
        self.follow_topic(topic).await?;
        let attached = self.with_topic(topic, |topic| topic.validator.clone());
        let questions = lock(&self.0.judges.validators).attach(topic.to_owned());
        let questions = questions.ok_or_else(|| NodeError::TopicTaken(topic.to_owned()))?;
        self.0.topics_changed.notify_waiters();
        Ok(Validator { questions, _attached: attached })
    }

    /// A validator's word on one message.
    pub(crate) async fn give_verdict(&self, topic: &str, number: u64, ruling: Ruling) -> Result<(), NodeError> {
        let ruled = lock(&self.0.judges.validators).rule(topic, number, ruling);
        if let Some(ruled) = ruled {
            self.conclude(ruled).await;
        }
        Ok(())
    }

    /// A message that came, or that a program of this daemon sent.
    pub(super) fn on_message(&self, topic: &str, sender: Option<PeerId>, data: Bytes, id: Bytes) {
        let mut topics = lock(&self.0.topics);
        let Some(found) = topics.get_mut(topic) else { return };
        let weight = data.len();
        let by_content = sender.is_none() || found.settings.is_some_and(|s| s.identity == Identity::Content);
        let item = TopicItem { sender, data, received_ms: super::wall().0 };
        if let Some(log) = &mut found.log
            && let Some(number) = log.admit(&id, by_content, self.running())
        {
            let write = ToWrite { topic: topic.to_owned(), number, item: Some(item.clone()), id };
            self.0.to_log.push(weight, write);
        }
        found.readers.push(weight, &item);
    }

    /// Tells readers that this daemon was too slow for so many messages of their topic.
    pub(super) fn lost_messages(&self, topic: &str, count: u64) {
        if let Some(topic) = lock(&self.0.topics).get_mut(topic) {
            topic.readers.lose(count, Cause::Busy);
            if let Some(log) = &mut topic.log {
                log.lose(count);
                // Who writes looks for what is missing then.
                self.0.to_log.lose(count, Cause::Busy);
            }
        }
    }

    /// Tells readers of a message that was larger than their topic takes.
    pub(super) fn refused_message(&self, topic: &str) {
        let mut topics = lock(&self.0.topics);
        let Some(found) = topics.get_mut(topic) else { return };
        found.too_large = found.too_large.saturating_add(1);
        found.readers.lose(1, Cause::TooLarge);
        if let Some(log) = &mut found.log {
            let (number, id) = (log.skip(), Bytes::new());
            self.0.to_log.push(0, ToWrite { topic: topic.to_owned(), number, item: None, id });
        }
    }

    /// Lets go of topics that nobody uses. Returns those to leave.
    pub(super) fn sweep_topics(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut changed = false;
        lock(&self.0.topics).retain(|name, topic| {
            let before = topic.count;
            topic.count = topic.users();
            changed |= before != topic.count;
            if topic.count == 0 && before > 0 {
                left.push(name.clone());
            }
            topic.count > 0 || topic.settings.is_some()
        });
        if changed {
            self.0.topics_changed.notify_waiters();
        }
        left
    }

    /// The connected peers that follow a topic.
    pub(crate) async fn topic_peers(&self, topic: &str) -> Result<Vec<PeerId>, NodeError> {
        Ok(self.0.net.pubsub.topic_peers(topic).await?.followers)
    }

    /// The settings of a topic, for its judge.
    fn with_settings(&self, topic: &str) -> Arc<Mutex<TopicSettings>> {
        self.with_topic(topic, |topic| topic.in_force.clone())
    }

    fn settings(&self, topic: &str) -> TopicSettings {
        lock(&self.0.topics).get(topic).and_then(|topic| topic.settings).unwrap_or_default()
    }

    /// Does something with a topic, which is new if it was not there, and is in use from now on.
    fn with_topic<T>(&self, topic: &str, act: impl FnOnce(&mut Topic) -> T) -> T {
        let mut topics = lock(&self.0.topics);
        let topic = topics.entry(topic.into()).or_default();
        let done = act(topic);
        topic.count = topic.users().max(1);
        done
    }
}
