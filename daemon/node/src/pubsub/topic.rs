//! What is known of a topic: who uses it here, what it holds its messages to, and who is there.

use std::sync::{Arc, Mutex};

use p2pd_core::{
    tally::Arrived,
    topic_settings::{Identity, TopicSettings},
};
use p2pd_store::{SettingsRecord, Store, StoreError, TopicRecord, Unreadable};

use super::{
    TopicItem,
    log::{Log, LogStatus},
};
use crate::fanout::Fanout;
use crate::{
    disk::unreadable,
    lock,
    pubsub::{PubSub, PubSubError},
};

/// Most topics with settings; they stay across restarts.
const MAX_SETTINGS: usize = 1000;

/// A topic that programs of this daemon use, or have settings for.
#[derive(Default)]
pub(super) struct Topic {
    pub(super) readers: Fanout<TopicItem>,
    pub(super) settings: Option<TopicSettings>,
    /// The same, or the usual ones, for its judge.
    pub(super) in_force: Arc<Mutex<TopicSettings>>,
    pub(super) log: Option<Log>,
    /// What came of it from those connected, since it is followed.
    pub(super) arrived: Arc<Mutex<Arrived>>,
    /// Held by the program that judges its messages, for whom the topic is followed though nobody reads it.
    pub(super) validator: Arc<()>,
    /// How many used it when last looked at.
    pub(super) count: usize,
    /// Messages that were larger than it takes.
    pub(super) too_large: u64,
}

impl Topic {
    /// A topic as it was kept.
    pub(super) fn restored(name: &str, record: &TopicRecord, log: Option<Log>) -> Result<Self, StoreError> {
        let count = usize::from(log.is_some());
        let settings = record.settings.map(|settings| read(name, settings)).transpose()?;
        let mut topic = Topic { log, count, ..Topic::default() };
        topic.set(settings);
        Ok(topic)
    }

    /// Holds it to these settings from now on; `None`: to the usual ones.
    pub(super) fn set(&mut self, settings: Option<TopicSettings>) {
        self.settings = settings;
        *lock(&self.in_force) = settings.unwrap_or_default();
    }

    pub(super) fn record(&self) -> TopicRecord {
        TopicRecord { settings: self.settings.as_ref().map(written), log: self.log.as_ref().map(|log| log.record) }
    }

    /// Who needs the topic followed.
    pub(super) fn users(&mut self) -> usize {
        self.readers.sweep() + self.log.as_ref().map_or(0, |log| 1 + log.readers()) + Arc::strong_count(&self.validator)
            - 1
    }
}

/// A topic and who is there.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicStatus {
    /// Its name.
    pub name: String,
    /// Connected peers that follow it.
    pub peers: usize,
    /// Those that exchange whole messages with this daemon.
    pub mesh_peers: usize,
    /// Programs of this daemon that read it live.
    pub readers: usize,
    /// A program judges its messages.
    pub validated: bool,
    /// Its log, where it has one.
    pub log: Option<LogStatus>,
    /// What its messages are held to.
    pub settings: TopicSettings,
    /// Messages that were refused for their size.
    pub too_large: u64,
}

/// What was told of a topic last.
pub struct TopicWatch {
    name: String,
    told: Option<TopicStatus>,
}

impl TopicWatch {
    /// The topic as it is, once it is not as was told before.
    pub async fn next(&mut self, owner: &PubSub) -> Result<TopicStatus, PubSubError> {
        loop {
            let changed = owner.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = owner.topic(&self.name).await?;
            if self.told.as_ref() != Some(&now) {
                self.told = Some(now.clone());
                return Ok(now);
            }
            changed.await;
        }
    }
}

impl PubSub {
    /// A topic, also one that nobody uses here.
    pub async fn topic(&self, name: &str) -> Result<TopicStatus, PubSubError> {
        self.check_topic(name)?;
        let peers = self.0.with.net.pubsub.topic_peers(name).await?;
        let mut topics = lock(&self.0.topics);
        let mut unused = Topic::default();
        let topic = topics.get_mut(name).unwrap_or(&mut unused);
        Ok(TopicStatus {
            name: name.to_owned(),
            peers: peers.followers.len(),
            mesh_peers: peers.mesh,
            readers: topic.readers.sweep(),
            validated: Arc::strong_count(&topic.validator) > 1,
            log: topic.log.as_ref().map(Log::status),
            settings: topic.settings.unwrap_or_default(),
            too_large: topic.too_large,
        })
    }

    /// The topics that this daemon follows or has settings for, ordered; those of p2pd's own protocols by name only.
    pub async fn topics(&self) -> Result<(Vec<String>, Vec<TopicStatus>), PubSubError> {
        let used: Vec<String> = lock(&self.0.topics).keys().cloned().collect();
        let mut names = self.0.with.net.pubsub.topics().await?;
        names.extend(used.iter().cloned());
        names.sort();
        names.dedup();
        let mut topics = Vec::new();
        for name in names.iter().filter(|name| used.contains(name)) {
            topics.push(self.topic(name).await?);
        }
        Ok((names, topics))
    }

    /// Watches who is there.
    pub fn watch_topic(&self, name: &str) -> Result<TopicWatch, PubSubError> {
        self.check_topic(name)?;
        Ok(TopicWatch { name: name.to_owned(), told: None })
    }

    /// Holds a topic to these settings from now on, also after a restart.
    pub async fn set_topic(&self, name: &str, settings: TopicSettings) -> Result<(), PubSubError> {
        self.check_topic(name)?;
        settings.check().map_err(|(field, fault)| PubSubError::Field { field, fault })?;
        let _writing = self.0.writing.lock().await;
        let record = {
            let mut topics = lock(&self.0.topics);
            let others = topics.iter().filter(|(other, topic)| *other != name && topic.settings.is_some()).count();
            if others >= MAX_SETTINGS {
                let fault =
                    format!("{MAX_SETTINGS} topics have settings already; PubSubService.ForgetTopic makes room");
                return Err(PubSubError::Limit(fault));
            }
            let topic = topics.entry(name.to_owned()).or_default();
            topic.set(Some(settings));
            topic.record()
        };
        self.keep_topic(name, record).await?;
        self.0.with.net.pubsub.set_topic(name, Some(settings)).await?;
        self.0.changed.notify_waiters();
        Ok(())
    }

    /// Forgets the settings and the log of a topic; its durable readers end.
    pub async fn forget_topic(&self, name: &str) -> Result<(), PubSubError> {
        self.check_topic(name)?;
        self.forget_of_topic(name, |topic| {
            topic.set(None);
            topic.log = None;
        })
        .await?;
        Ok(self.0.with.net.pubsub.set_topic(name, None).await?)
    }

    /// Forgets what `forget` takes from a topic, its log at least; what is left is kept.
    pub(super) async fn forget_of_topic(&self, name: &str, forget: impl FnOnce(&mut Topic)) -> Result<(), PubSubError> {
        let _writing = self.0.writing.lock().await;
        let left = {
            let mut topics = lock(&self.0.topics);
            let topic = topics.get_mut(name).filter(|topic| topic.settings.is_some() || topic.log.is_some());
            let topic = topic.ok_or_else(|| PubSubError::NotFound(name.to_owned()))?;
            forget(topic);
            topic.record()
        };
        let topic = name.to_owned();
        self.0.with.disk.run(move |store| store.end_log(&topic, &left)).await?;
        self.0.changed.notify_waiters();
        Ok(())
    }

    /// Writes what is kept of a topic; `writing_logs` must be held.
    pub(super) async fn keep_topic(&self, name: &str, record: TopicRecord) -> Result<(), PubSubError> {
        let name = name.to_owned();
        Ok(self.0.with.disk.run(move |store| store.put_topic(&name, &record)).await?)
    }
}

/// The settings of a topic, or why its record holds none.
fn read(name: &str, record: SettingsRecord) -> Result<TopicSettings, Unreadable> {
    let bad = |fault: String| unreadable("topics", name.to_owned(), fault);
    let settings = TopicSettings {
        max_message: record.max_message,
        identity: match record.identity {
            0 => Identity::Sender,
            1 => Identity::Content,
            2 => Identity::Key,
            other => return Err(bad(format!("its messages are told apart in way {other}, which is none"))),
        },
        closed: record.closed,
        judging_ms: record.judging_ms,
        keep_s: record.keep_s,
        keep_bytes: record.keep_bytes,
        mesh: if record.mesh == 0 { TopicSettings::default().mesh } else { record.mesh },
        max_age_ms: record.max_age_ms,
        allow_unsigned: record.allow_unsigned,
    };
    settings.check().map_err(|(field, fault)| bad(format!("{field} {fault}")))?;
    Ok(settings)
}

/// Topics on disk whose settings are none.
pub fn unreadable_settings(store: &Store) -> Result<Vec<Unreadable>, StoreError> {
    let settings = store.readable_topics()?.into_iter().filter_map(|(name, record)| Some((name, record.settings?)));
    Ok(settings.filter_map(|(name, settings)| read(&name, settings).err()).collect())
}

/// The mesh of each topic that has settings, which the network has to know before it starts.
pub fn meshes(store: &Store) -> Result<Vec<(String, usize)>, StoreError> {
    let settings = store.topics()?.into_iter().filter_map(|(name, record)| Some((name, record.settings?)));
    settings
        .map(|(name, settings)| {
            let mesh = read(&name, settings)?.mesh;
            Ok((name, mesh as usize))
        })
        .collect()
}

fn written(settings: &TopicSettings) -> SettingsRecord {
    SettingsRecord {
        max_message: settings.max_message,
        identity: match settings.identity {
            Identity::Sender => 0,
            Identity::Content => 1,
            Identity::Key => 2,
        },
        closed: settings.closed,
        judging_ms: settings.judging_ms,
        keep_s: settings.keep_s,
        keep_bytes: settings.keep_bytes,
        mesh: settings.mesh,
        max_age_ms: settings.max_age_ms,
        allow_unsigned: settings.allow_unsigned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        for identity in [Identity::Sender, Identity::Key, Identity::Content] {
            let settings = TopicSettings {
                max_message: 1,
                identity,
                closed: true,
                judging_ms: 200,
                keep_s: 300,
                keep_bytes: 4 << 20,
                mesh: 5,
                max_age_ms: 6_000,
                allow_unsigned: true,
            };
            assert_eq!(read("chat", written(&settings)).unwrap(), settings);
        }
    }

    #[test]
    fn settings_that_are_none_are_told_by_their_topic() {
        let good = written(&TopicSettings::default());
        assert!(read("chat", good).is_ok());
        for bad in [SettingsRecord { identity: 9, ..good }, SettingsRecord { max_message: 0, ..good }] {
            let told = StoreError::from(read("chat", bad).unwrap_err()).to_string();
            assert!(told.contains("store drop topics 'chat'"), "{told}");
        }
    }
}
