//! Topics of local programs: one subscription of the network for all who use a topic, each by its own terms.

mod config;
mod error;
mod heard;
mod judge;
mod log;
mod outbound;
mod tallies;
mod topic;
mod validators;
mod waiting;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use p2pd_core::{
    id::PeerId,
    ring::Cause,
    topic_settings::{Identity, TopicSettings},
};
use p2pd_net::{Event, Handle, queue, queue::Reader};
use tokio::sync::{Notify, mpsc};

pub use self::{
    config::TopicLimits,
    error::PubSubError,
    log::{LogReader, LogStatus, Logged, Start},
    outbound::Outbound,
    tallies::Counts,
    topic::{TopicStatus, TopicWatch, meshes, unreadable_settings},
    validators::{Ruling, ToJudge, ValidatorEvent},
    waiting::{Room, RoomSoon},
};
use self::{judge::Judges, log::ToWrite, topic::Topic, waiting::Waiting};
use crate::{
    clock::{Clock, wall},
    disk::Disk,
    lock,
    oversized::Oversized,
    tasks::Tasks,
};

/// How often topics that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// What a reader may be behind, in items and bytes, unless it says otherwise.
const READER: (usize, usize) = (256, 1 << 20);
/// What a reader may be behind for whom local publishers wait.
const PATIENT_READER: (usize, usize) = (1024, 4 << 20);

/// A message of a topic.
#[derive(Clone, Debug)]
pub struct TopicItem {
    /// Who signed it, if anybody.
    pub sender: Option<PeerId>,
    /// The payload.
    pub data: Bytes,
    /// When it came, in milliseconds since 1970.
    pub received_ms: u64,
}

/// What happens while a live reader is slow.
pub enum Live {
    /// It may be so many messages behind; 0: the usual number.
    DropOldest(usize),
    /// Local publishers wait so long for it.
    Block(Duration),
}

/// A program that judges a topic's messages; the topic is followed while it is here.
pub struct Validator {
    questions: mpsc::Receiver<ValidatorEvent>,
    _attached: Arc<()>,
}

impl Validator {
    /// What it is told next; `None` when the network has stopped.
    pub async fn next(&mut self) -> Option<ValidatorEvent> {
        self.questions.recv().await
    }
}

/// What the owner of topics is given.
pub struct Setup {
    /// Who this daemon is.
    pub me: PeerId,
    /// How topics begin that belong to p2pd itself.
    pub reserved: Vec<String>,
    /// Most topics with a log.
    pub max_logs: usize,
    /// The network.
    pub net: Handle,
    /// The store.
    pub disk: Disk,
    /// Work beside callers.
    pub tasks: Tasks,
    /// Time.
    pub clock: Clock,
}

struct Shared {
    with: Setup,
    topics: Mutex<HashMap<String, Topic>>,
    /// Told when a topic gets or loses a follower, here or elsewhere.
    changed: Notify,
    /// Messages on their way to the disk.
    to_log: queue::Writer<ToWrite>,
    /// Messages of programs on their way to the network.
    waiting: Waiting,
    judges: Judges,
    /// Held while a topic's record on disk changes.
    writing: tokio::sync::Mutex<()>,
    /// Held while a topic begins or ends to be followed.
    following: tokio::sync::Mutex<()>,
    /// Messages that were not handed on for want of room.
    dropped: AtomicU64,
    too_large: Oversized,
}

/// The owner of topics, behind a cloneable handle.
#[derive(Clone)]
pub struct PubSub(Arc<Shared>);

/// What is carried to the disk, for [`PubSub::run`].
pub struct ToDisk(queue::Reader<ToWrite>);

impl PubSub {
    /// An owner without topics; `restore` takes up those that were kept.
    pub fn new(with: Setup) -> (Self, ToDisk) {
        let (to_log, to_disk) = queue::bounded(log::WAITING.0, log::WAITING.1);
        let shared = Shared {
            waiting: Waiting::new(with.net.peers.held()),
            with,
            topics: Mutex::default(),
            changed: Notify::new(),
            to_log,
            judges: Judges::default(),
            writing: tokio::sync::Mutex::default(),
            following: tokio::sync::Mutex::default(),
            dropped: AtomicU64::default(),
            too_large: Oversized::default(),
        };
        (PubSub(Arc::new(shared)), ToDisk(to_disk))
    }

    /// Writes logs, judges what validators are late with, and ends to follow what nobody uses, until the daemon ends.
    pub async fn run(&self, to_disk: ToDisk, counts: Counts) {
        tokio::select! {
            () = self.tally(counts) => {}
            () = log::write_logs(self.clone(), to_disk.0) => {}
            () = self.judge_late() => {}
            () = self.sweep() => {}
        }
    }

    async fn sweep(&self) {
        let mut tick = tokio::time::interval(SWEEP);
        loop {
            tick.tick().await;
            let _following = self.0.following.lock().await;
            for topic in self.sweep_topics() {
                let _ = self.0.with.net.pubsub.unsubscribe(&topic).await;
            }
        }
    }

    /// Takes up what the network tells.
    pub fn on_event(&self, event: &Event) {
        if matches!(event, Event::Joined { .. } | Event::Left { .. } | Event::Disconnected { .. }) {
            self.0.changed.notify_waiters();
        }
    }

    /// What the network told was lost.
    pub fn on_gap(&self) {
        self.0.changed.notify_waiters();
    }

    /// Messages that this daemon was too slow for.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Messages that were refused because they are larger than their topics take.
    pub fn too_large(&self) -> u64 {
        self.0.too_large.count()
    }

    fn check_topic(&self, topic: &str) -> Result<(), PubSubError> {
        let fault = if topic.is_empty() || topic.len() > 256 {
            "takes 1 to 256 bytes".into()
        } else if self.0.with.reserved.iter().any(|reserved| topic.starts_with(reserved)) {
            format!("`{topic}` belongs to p2pd's own protocols; use the stream calls")
        } else {
            return Ok(());
        };
        Err(PubSubError::Field { field: "topic", fault })
    }

    /// Follows a topic live.
    pub async fn subscribe(&self, topic: &str, contract: Live) -> Result<Reader<TopicItem>, PubSubError> {
        self.check_topic(topic)?;
        let _leaving = self.0.following.lock().await;
        // The reader first: a message may come as soon as the topic is followed.
        let reader = self.with_topic(topic, |topic| match contract {
            Live::DropOldest(0) => topic.readers.join(READER.0, READER.1),
            Live::DropOldest(items) => topic.readers.join(items, READER.1),
            Live::Block(patience) => topic.readers.join_patient(PATIENT_READER.0, PATIENT_READER.1, patience),
        });
        self.follow_topic(topic).await?;
        self.0.changed.notify_waiters();
        Ok(reader)
    }

    /// Judges a topic's messages from now on.
    pub async fn validate(&self, topic: &str) -> Result<Validator, PubSubError> {
        self.check_topic(topic)?;
        let _leaving = self.0.following.lock().await;
        self.follow_topic(topic).await?;
        let attached = self.with_topic(topic, |topic| topic.validator.clone());
        let questions = lock(&self.0.judges.validators).attach(topic.to_owned());
        let questions = questions.ok_or_else(|| PubSubError::Judged(topic.to_owned()))?;
        self.0.changed.notify_waiters();
        Ok(Validator { questions, _attached: attached })
    }

    /// A validator's word on one message.
    pub async fn give_verdict(&self, topic: &str, number: u64, ruling: Ruling) -> Result<(), PubSubError> {
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
        let item = TopicItem { sender, data, received_ms: wall().0 };
        if let Some(log) = &mut found.log
            && let Some(number) = log.admit(&id, by_content, self.0.with.clock.running())
        {
            let write = ToWrite { topic: topic.to_owned(), number, item: Some(item.clone()), id };
            self.0.to_log.push(weight, write);
        }
        found.readers.push(weight, &item);
    }

    /// Tells readers that so many messages of their topic never came, since this daemon or the connection to their sender was too slow.
    pub(super) fn lost_messages(&self, topic: &str, count: u64, cause: Cause) {
        if cause == Cause::Busy {
            self.0.dropped.fetch_add(count, Ordering::Relaxed);
        }
        if let Some(topic) = lock(&self.0.topics).get_mut(topic) {
            topic.readers.lose(count, cause);
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
            self.0.changed.notify_waiters();
        }
        left
    }

    /// The connected peers that follow a topic.
    pub async fn topic_peers(&self, topic: &str) -> Result<Vec<PeerId>, PubSubError> {
        Ok(self.0.with.net.pubsub.topic_peers(topic).await?.followers)
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
