//! Publishing a stream: what may be published, its announcement and heartbeats, its frames and titles, and their way out.

mod grouping;
mod ogg_link;
mod old_format;
mod outgoing;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use p2pd_core::{
    id::{StreamId, StreamKey},
    text,
    time::MonoMs,
};
use p2pd_net::queue;
use p2pd_node::clock::wall;
use tokio::task::JoinHandle;

use self::{grouping::Grouping, ogg_link::Links, outgoing::Outgoing};
use crate::{
    Live, LiveError, StreamItem,
    directory::{
        message::{DirectoryMessage, Metadata},
        state::HEARTBEAT_MS,
    },
    group::{FLAG_END, Group, MAX_FRAME, MAX_TITLE, StreamConfig},
    json_format::{self, AudioMessage},
    lock, topic,
};

/// Groups that wait for the network before the oldest is dropped.
const OUT: usize = 32;
/// How long the last groups may take to leave before the stream is deregistered all the same.
const LAST_GROUPS: Duration = Duration::from_secs(2);
/// Durations of an Opus packet, in microseconds (RFC 6716, 2.1.4).
const FRAME_US: std::ops::RangeInclusive<u32> = 2_500..=120_000;
/// How often a stream in the old format says what it is, in milliseconds.
const DESCRIBE_MS: u64 = 5_000;
/// How soon a changed number of listeners is announced, in milliseconds.
const LISTENERS_MS: u64 = 2_000;

/// How a stream travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// In signed groups.
    Native(StreamConfig),
    /// In the old format.
    Json,
}

/// What a new stream is.
pub struct Opening {
    /// Its id.
    pub stream: StreamId,
    /// Its name for people; empty: the id.
    pub name: String,
    /// Its category, if any.
    pub category: String,
    /// How it travels.
    pub wire: Wire,
    /// What else is announced of it.
    pub metadata: Metadata,
}

pub(crate) struct Shared {
    key: StreamKey,
    topic: String,
    /// Where listeners of the old format follow a native stream, whatever its announcement says.
    old_topic: Option<String>,
    /// How many do.
    old_listeners: AtomicU32,
    frames: AtomicU64,
    groups: AtomicU64,
    dropped: AtomicU64,
    listeners: AtomicU32,
    beat: Mutex<(MonoMs, u32)>,
}

/// A stream that this daemon publishes, until dropped.
pub struct Publication {
    live: Live,
    shared: Arc<Shared>,
    out: queue::Writer<Outgoing>,
    groups: Option<Grouping>,
    /// What is sent to listeners of the old format of a native stream.
    links: Option<Links>,
    description: Description,
    /// Ends once `out` is dropped and all in it was sent.
    sender: Option<JoinHandle<()>>,
}

/// What a stream says of itself in the old format, again and again for those who came late.
struct Description {
    metadata: Metadata,
    said: Option<MonoMs>,
}

impl Description {
    fn is_due(&self, now: MonoMs) -> bool {
        self.said.is_none_or(|said| now.since(said) >= DESCRIBE_MS)
    }
}

/// How a publication goes.
pub struct Progress {
    /// Frames or chunks that were taken.
    pub frames: u64,
    /// Groups or messages that were made of them.
    pub groups: u64,
    /// Those that the network was too slow for.
    pub dropped: u64,
    /// Who listens, here and elsewhere.
    pub listeners: u32,
}

fn field(field: &'static str, fault: impl Into<String>) -> LiveError {
    LiveError::Field { field, fault: fault.into() }
}

fn check(config: &StreamConfig) -> Result<(), LiveError> {
    let fault = if config.codec != "opus" {
        format!("codec is `{}`, takes `opus`", text::clean(&config.codec, 32))
    } else if !(1..=2).contains(&config.channels) {
        format!("channels is {}, takes 1 or 2", config.channels)
    } else if !FRAME_US.contains(&config.frame_us) {
        format!("frame_us is {}, takes 2500 to 120000", config.frame_us)
    } else if !(1..=50).contains(&config.frames_per_group) {
        format!("frames_per_group is {}, takes 1 to 50", config.frames_per_group)
    } else if config.sample_rate != 48_000 {
        format!("sample_rate is {}, takes 48000", config.sample_rate)
    } else {
        return Ok(());
    };
    Err(field("open.config", fault))
}

impl Live {
    /// Announces a stream and takes its frames until the publication is dropped.
    pub async fn publish_stream(&self, opening: Opening) -> Result<Publication, LiveError> {
        let key = StreamKey { publisher: self.0.with.me.clone(), stream: opening.stream.clone() };
        if let Wire::Native(config) = &opening.wire {
            check(config)?;
        }
        let json = opening.wire == Wire::Json;
        let shared = self.reserve(&key, json)?;
        // From here on the publication is undone by dropping it.
        let (out, queue) = queue::bounded(OUT, usize::MAX);
        let (groups, links) = match &opening.wire {
            Wire::Native(config) => {
                let epoch = self.next_epoch();
                // No two streams have the same one, nearly.
                let serial = u32::try_from(epoch & 0xffff_ffff).unwrap_or_default();
                let links = Links::new(config.channels, config.pre_skip, serial);
                (Some(Grouping::new(config.clone(), &self.0.with.signer, epoch)), Some(links))
            }
            Wire::Json => (None, None),
        };
        let sender = Some(tokio::spawn(outgoing::run(self.clone(), shared.clone(), queue)));
        let description = Description { metadata: Metadata::default(), said: None };
        let mut publication = Publication { live: self.clone(), shared, out, groups, links, description, sender };
        self.follow(&key, json, true).await?;
        let metadata = self.describe(&publication.shared.topic, opening).await?;
        let announced =
            self.say(DirectoryMessage::Announce { stream: key.stream.clone(), metadata: metadata.clone() }).await;
        announced
            .map_err(|_| field("open.metadata_json", "the announcement would be larger than 8 KiB; shorten it"))?;
        if json {
            publication.describe(metadata);
        } else {
            publication.description.metadata = metadata;
            self.count_old_listeners(None).await;
        }
        Ok(publication)
    }

    fn reserve(&self, key: &StreamKey, json: bool) -> Result<Arc<Shared>, LiveError> {
        let max = self.0.with.settings.max_publications as usize;
        let mut publications = lock(&self.0.publications);
        if publications.contains_key(&key.stream) {
            return Err(LiveError::StreamExists(key.stream.to_string()));
        }
        if publications.len() >= max {
            return Err(LiveError::Limit(format!("{max} streams are published already (streams.max_publications)")));
        }
        let old = topic::audio_json(&self.0.with.network, &key.stream);
        let (topic, old_topic) = if json { (old, None) } else { (topic::audio_native(key), Some(old)) };
        let shared = Arc::new(Shared {
            key: key.clone(),
            topic,
            old_topic,
            old_listeners: AtomicU32::default(),
            frames: AtomicU64::default(),
            groups: AtomicU64::default(),
            dropped: AtomicU64::default(),
            listeners: AtomicU32::default(),
            beat: Mutex::new((self.0.with.clock.now(), 0)),
        });
        publications.insert(key.stream.clone(), shared.clone());
        Ok(shared)
    }

    async fn describe(&self, topic: &str, opening: Opening) -> Result<Metadata, LiveError> {
        let mut metadata = opening.metadata;
        let name = if opening.name.is_empty() { opening.stream.to_string() } else { text::clean(&opening.name, 200) };
        metadata.set("name", name);
        if !opening.category.is_empty() {
            metadata.set("category", text::clean(&opening.category, 64));
        }
        metadata.set("topic", topic);
        metadata
            .set("publisherAddrs", self.told_addresses().await?.iter().map(ToString::to_string).collect::<Vec<_>>());
        match &opening.wire {
            Wire::Native(config) => metadata.set_config(config),
            Wire::Json => {
                metadata.0.remove("config");
            }
        }
        Ok(metadata)
    }

    /// Says that our streams are still there: each 30 s, and soon after the number of listeners changed.
    pub(super) async fn heartbeats(&self) {
        let all: Vec<_> = lock(&self.0.publications).values().cloned().collect();
        for shared in all {
            let remote =
                self.0.with.net.pubsub.topic_peers(&shared.topic).await.map_or(0, |peers| peers.followers.len());
            let remote = remote.saturating_add(shared.old_listeners.load(Ordering::Relaxed) as usize);
            let listeners = u32::try_from(remote.saturating_add(self.readers_of(&shared.key))).unwrap_or(u32::MAX);
            shared.listeners.store(listeners, Ordering::Relaxed);
            let now = self.0.with.clock.now();
            let due = {
                let mut beat = lock(&shared.beat);
                let since = now.since(beat.0);
                let due = since >= HEARTBEAT_MS || (listeners != beat.1 && since >= LISTENERS_MS);
                if due {
                    *beat = (now, listeners);
                }
                due
            };
            if due {
                let _ = self
                    .say(DirectoryMessage::Heartbeat { stream: shared.key.stream.clone(), listeners: Some(listeners) })
                    .await;
            }
        }
    }
}

impl Publication {
    /// Takes a frame of a native stream; it plays for so long, 0: as the configuration says.
    pub fn frame(&mut self, data: Bytes, capture_us: u64, duration_us: u32) -> Result<(), LiveError> {
        let Some(groups) = &mut self.groups else { return Err(field("frame", "this stream is in JSON; send chunks")) };
        if data.is_empty() || data.len() > MAX_FRAME {
            return Err(field("frame.data", format!("has {} bytes, takes 1 to {MAX_FRAME}", data.len())));
        }
        let duration_us = if duration_us == 0 { groups.config.frame_us } else { duration_us };
        if !FRAME_US.contains(&duration_us) {
            return Err(field("frame.duration_us", format!("is {duration_us}, takes 2500 to 120000")));
        }
        self.shared.frames.fetch_add(1, Ordering::Relaxed);
        let capture_us = if capture_us == 0 { wall().0.saturating_mul(1000) } else { capture_us };
        let old = data.clone();
        if let Some(group) = groups.frame(&self.shared.key, data, capture_us, duration_us) {
            self.group(group);
        }
        self.frame_of_old(old, u64::from(duration_us) * 48 / 1000);
        Ok(())
    }

    /// Takes a slice of an encoded file of a JSON stream.
    pub fn chunk(&mut self, data: Bytes) -> Result<(), LiveError> {
        if self.groups.is_some() {
            return Err(field("chunk", "this stream is native; send frames"));
        }
        if data.is_empty() || data.len() > json_format::MAX_CHUNK {
            return Err(field("chunk", format!("has {} bytes, takes 1 to {}", data.len(), json_format::MAX_CHUNK)));
        }
        if self.description.is_due(self.live.0.with.clock.now()) {
            self.describe(self.description.metadata.clone());
        }
        self.shared.frames.fetch_add(1, Ordering::Relaxed);
        self.json(&AudioMessage::Audio(data.clone()));
        self.live.push_item(&self.shared.key, &StreamItem::Chunk(data));
        Ok(())
    }

    /// A title that begins with the next frame or chunk.
    pub fn title(&mut self, title: &str) {
        let text = text::clean(title, MAX_TITLE);
        match &mut self.groups {
            Some(groups) => {
                self.description.metadata.set("title", text.clone());
                self.description.said = None;
                groups.title(text);
            }
            None => {
                let mut metadata = self.description.metadata.clone();
                metadata.set("title", text);
                self.describe(metadata);
            }
        }
    }

    /// Says what a JSON stream is.
    fn describe(&mut self, metadata: Metadata) {
        let message = AudioMessage::Metadata(metadata.0.clone());
        self.json(&message);
        self.live.on_audio(self.shared.key.publisher.clone(), self.shared.key.stream.clone(), message);
        self.description = Description { metadata, said: Some(self.live.0.with.clock.now()) };
    }

    /// Sends what is left, marked as the end.
    pub fn finish(&mut self) {
        match &mut self.groups {
            Some(groups) => {
                let group = groups.close(&self.shared.key, FLAG_END);
                self.group(group);
                self.finish_old();
            }
            None => self.json(&AudioMessage::End(None)),
        }
    }

    fn group(&self, group: Group) {
        let group = Arc::new(group);
        self.shared.groups.fetch_add(1, Ordering::Relaxed);
        self.live.0.counters.groups_out.fetch_add(1, Ordering::Relaxed);
        self.send(group.signed.len(), Outgoing::Group(group.clone()));
        self.live.on_group(&self.shared.key, group, false);
    }

    fn json(&self, message: &AudioMessage) {
        self.shared.groups.fetch_add(1, Ordering::Relaxed);
        let bytes = json_format::encode(message, &self.shared.key.stream, wall());
        self.send(bytes.len(), Outgoing::Json(bytes));
    }

    fn send(&self, weight: usize, outgoing: Outgoing) {
        let dropped = self.out.push(weight, outgoing);
        let lost = dropped.iter().filter(|outgoing| outgoing.is_of_the_stream()).count();
        self.shared.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }

    /// The stream's name.
    pub fn key(&self) -> &StreamKey {
        &self.shared.key
    }

    /// How it goes.
    pub fn progress(&self) -> Progress {
        let shared = &self.shared;
        Progress {
            frames: shared.frames.load(Ordering::Relaxed),
            groups: shared.groups.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
            listeners: shared.listeners.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let (live, shared, sender) = (self.live.clone(), self.shared.clone(), self.sender.take());
        self.live.0.with.tasks.before_the_end(async move {
            // The last groups go first, so that nobody hears of the end before them.
            if let Some(sender) = sender {
                let _ = tokio::time::timeout(LAST_GROUPS, sender).await;
            }
            let _ = live.say(DirectoryMessage::Deregister { stream: shared.key.stream.clone() }).await;
            live.publishes_no_more(&shared.key);
            lock(&live.0.publications).remove(&shared.key.stream);
        });
    }
}
