//! Following streams: one subscription of the network for all local readers of a stream, kept while any is left.

mod awaited;
mod reader;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use p2pd_core::{
    id::{PeerId, StreamId, StreamKey},
    ring::{Cause, Next},
    text,
    time::MonoMs,
};
use p2pd_node::fanout::Fanout;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use self::awaited::Awaited;
pub use self::{
    awaited::Waiting,
    reader::{StreamItem, StreamReader},
};
use crate::{
    JsonItem, JsonJudge, JsonTopic, Listed, Live, LiveError, TooLarge, group::Group, json_format::AudioMessage, lock,
    native, topic,
};

/// What a reader may be behind, in items and bytes: 64 groups are 2.5 s of the smallest ones.
const READER: (usize, usize) = (64, 1 << 20);
/// Most local readers of one stream.
const MAX_READERS: usize = 1024;
/// How long a stream is followed after its last reader left, in milliseconds; a reader who comes back finds it warm.
const LINGER_MS: u64 = 5_000;
/// How soon a connection with the publisher is seen to again, in milliseconds; twice as long after each dial that failed, up to
/// the second. A hostile publisher may announce a stranger's address.
const REACH_MS: u64 = 1_000;
const REACH_MAX_MS: u64 = 30_000;

/// A stream that is followed. Two publishers of one id in JSON share a topic, but are two of these.
pub(super) struct Followed {
    /// `None`: in the old format.
    native: Option<Native>,
    readers: Fanout<StreamItem>,
    /// Published here: followed without readers too.
    publishing: bool,
    idle: MonoMs,
    /// When a connection with its publisher is seen to next, and how long after that again.
    reach: (MonoMs, u64),
}

/// A stream in the native format, whose missing groups are fetched while it is followed.
struct Native {
    stream: native::Stream,
    _repair: Option<AbortOnDropHandle<()>>,
}

/// The streams that are followed, and those that are waited for in the old format.
#[derive(Default)]
pub(super) struct Streams {
    followed: HashMap<StreamKey, Followed>,
    awaited: HashMap<StreamId, Awaited>,
    /// Topics of the old format that are followed.
    json: HashMap<StreamId, JsonTopic>,
}

impl Followed {
    fn topic(&self, network: &str, key: &StreamKey) -> String {
        if self.native.is_some() { topic::audio_native(key) } else { topic::audio_json(network, &key.stream) }
    }
}

impl Live {
    /// Follows a stream; returns its topic. Done whole, also when whoever asked goes away.
    pub(super) async fn follow(&self, key: &StreamKey, json: bool, publishing: bool) -> Result<String, LiveError> {
        let (live, key) = (self.clone(), key.clone());
        // Not one of the changes that `Tasks` counts: those wait for the disk, and nobody who listens does.
        let following = tokio::spawn(async move { live.begin_to_follow(&key, json, publishing).await });
        following.await.map_err(|ended| LiveError::Internal(ended.to_string()))?
    }

    async fn begin_to_follow(&self, key: &StreamKey, json: bool, publishing: bool) -> Result<String, LiveError> {
        let _leaving = self.0.following.lock().await;
        if let Some(topic) = self.end_other_format(key, json) {
            let _ = self.0.with.net.pubsub.unsubscribe(&topic).await;
        }
        let native =
            if json { self.follow_json(&key.stream).await.map(|()| None) } else { self.follow_native(key).await }?;
        let idle = self.0.with.clock.now();
        let followed = &mut lock(&self.0.streams).followed;
        let new = || Followed { native, readers: Fanout::default(), publishing, idle, reach: (MonoMs(0), REACH_MS) };
        let followed = followed.entry(key.clone()).or_insert_with(new);
        followed.publishing |= publishing;
        followed.idle = idle;
        Ok(followed.topic(&self.0.with.network, key))
    }

    /// Lets go of a stream that is followed in another format than its publisher uses now. Returns the topic to leave.
    fn end_other_format(&self, key: &StreamKey, json: bool) -> Option<String> {
        let network = &self.0.with.network;
        let Streams { followed, awaited, json: topics } = &mut *lock(&self.0.streams);
        let other = |followed: &Followed| followed.native.is_some() == json && !followed.publishing;
        followed.get(key).filter(|followed| other(followed))?;
        let ended = followed.remove(key)?;
        ended.readers.push(0, &StreamItem::Ended("ended"));
        let topic = ended.topic(network, key);
        self.0.groups.remove(key);
        if ended.native.is_none() {
            // Others may publish this id in the old format.
            let mut others = followed.iter();
            if awaited.contains_key(&key.stream) || others.any(|(key, other)| other.topic(network, key) == topic) {
                return None;
            }
            topics.remove(&key.stream);
        }
        Some(topic)
    }

    /// Follows the topic of a stream id in the old format, unless it is followed already; `following` must be held.
    async fn follow_json(&self, stream: &StreamId) -> Result<(), LiveError> {
        let (json, subscription, mut heard) = JsonJudge::subscription(stream.clone(), self.0.clocks.heard.clone());
        let topic = topic::audio_json(&self.0.with.network, stream);
        if !self.0.with.net.pubsub.subscribe(&topic, subscription).await? {
            return Ok(());
        }
        lock(&self.0.streams).json.insert(stream.clone(), json);
        let (live, stream) = (self.clone(), stream.clone());
        self.0.with.tasks.until_stop(async move {
            while let Some(next) = heard.next().await {
                match next {
                    Next::Item(JsonItem::Message { sender, message }) => {
                        live.on_audio(sender, stream.clone(), message);
                    }
                    Next::Item(JsonItem::Ended { publisher, reason }) => {
                        let key = StreamKey { publisher, stream: stream.clone() };
                        live.push_item(&key, &StreamItem::Ended(reason));
                    }
                    Next::Item(JsonItem::TooLarge(refused)) => live.refused_of_stream(&topic, &stream, &refused),
                    Next::Gap { from, to, .. } => live.note_dropped(from, to),
                }
            }
        });
        Ok(())
    }

    /// Follows a stream in the native format; `None` where it is followed already. `following` must be held.
    async fn follow_native(&self, key: &StreamKey) -> Result<Option<Native>, LiveError> {
        if lock(&self.0.streams).followed.contains_key(key) {
            return Ok(None);
        }
        let topic = topic::audio_native(key);
        let settings = &self.0.with.settings;
        let (stream, subscription, mut heard) =
            native::Stream::new(key.clone(), topic.clone(), settings.drop_percent, &self.0.with.net);
        self.0.with.net.pubsub.subscribe(&topic, subscription).await?;
        self.0.groups.add(key.clone(), stream.clone());
        let repair = settings.repair.then(|| {
            let (stream, net) = (stream.clone(), self.0.with.net.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                stream.burst(&net).await;
                stream.repair(&net).await;
            }))
        });
        let (live, key) = (self.clone(), key.clone());
        self.0.with.tasks.until_stop(async move {
            while let Some(next) = heard.next().await {
                match next {
                    Next::Item(native::Item::Group { group, repaired }) => {
                        live.0.counters.groups_in.fetch_add(1, Ordering::Relaxed);
                        live.on_group(&key, group, repaired);
                    }
                    Next::Item(native::Item::Ended(reason)) => live.push_item(&key, &StreamItem::Ended(reason)),
                    Next::Item(native::Item::TooLarge(refused)) => {
                        live.refused_of_stream(&topic, &key.stream, &refused);
                    }
                    Next::Gap { from, to, .. } => live.note_dropped(from, to),
                }
            }
        });
        Ok(Some(Native { stream, _repair: repair }))
    }

    /// A message of a stream was larger than is taken.
    fn refused_of_stream(&self, topic: &str, stream: &StreamId, refused: &TooLarge) {
        let TooLarge { sender, bytes, most } = refused;
        if let Some(publisher) = sender {
            self.lose_of_stream(&StreamKey { publisher: publisher.clone(), stream: stream.clone() });
        }
        self.0.counters.too_large.note(topic, sender.as_ref(), *bytes, *most);
    }

    /// A stream that is followed in the native format.
    pub(super) fn native(&self, key: &StreamKey) -> Option<native::Stream> {
        let followed = &lock(&self.0.streams).followed;
        followed.get(key).and_then(|followed| followed.native.as_ref()).map(|native| native.stream.clone())
    }

    /// Asks a peer that begins to follow a stream for its last seconds, where there is nothing of it yet.
    pub(super) fn on_joined(&self, peer: &PeerId, topic: &str) {
        let stream = {
            let followed = &lock(&self.0.streams).followed;
            let of_topic = |(key, followed): (&StreamKey, &Followed)| {
                let native = followed.native.as_ref()?;
                (topic::audio_native(key) == topic).then(|| native.stream.clone())
            };
            followed.iter().find_map(of_topic)
        };
        if let Some(stream) = stream {
            stream.burst_from(&self.0.with.net, peer.clone());
        }
    }

    pub(super) fn publishes_no_more(&self, key: &StreamKey) {
        if let Some(followed) = lock(&self.0.streams).followed.get_mut(key) {
            followed.publishing = false;
        }
    }

    /// Reads a stream of the directory, from `burst_ms` ago on; in the old format from when it was `waited` for.
    pub async fn read_stream(
        &self,
        listed: &Listed,
        burst_ms: u64,
        waited: Option<Waiting>,
    ) -> Result<StreamReader, LiveError> {
        let json = listed.entry.metadata.config().is_none();
        self.follow(&listed.key, json, false).await?;
        self.reach_publishers();
        let live = {
            let Streams { followed, awaited, .. } = &mut *lock(&self.0.streams);
            let followed = followed.get_mut(&listed.key);
            let followed =
                followed.ok_or_else(|| LiveError::Internal("a stream was let go while it was joined".into()))?;
            if followed.readers.sweep() >= MAX_READERS {
                return Err(LiveError::Limit(format!("this stream has {MAX_READERS} local readers already")));
            }
            let heard = waited.as_ref().filter(|_| json).and_then(|waited| awaited.get(&waited.stream));
            let heard = heard.map(|awaited| awaited.of(&listed.key.publisher)).unwrap_or_default();
            followed.readers.join_after(READER.0, READER.1, heard)
        };
        drop(waited);
        let native = if burst_ms > 0 { self.native(&listed.key) } else { None };
        let burst = native.map(|stream| stream.recent(burst_ms)).unwrap_or_default();
        Ok(StreamReader { burst: burst.into_iter(), seen: HashSet::new(), live })
    }

    /// Sees to connections with the publishers of what is read here, also after they moved or were cut off. Waits for
    /// none: other followers may serve us meanwhile.
    pub(super) fn reach_publishers(&self) {
        let now = self.0.with.clock.now();
        let wanted: Vec<StreamKey> = {
            let streams = &mut lock(&self.0.streams).followed;
            let due =
                streams.iter_mut().filter(|(key, followed)| key.publisher != self.0.with.me && followed.reach.0 <= now);
            due.map(|(key, followed)| {
                // Until the dial has ended.
                followed.reach.0 = MonoMs(u64::MAX);
                key.clone()
            })
            .collect()
        };
        for key in wanted {
            let addresses = self.addresses_of(&key);
            let live = self.clone();
            self.0.with.tasks.until_stop(async move {
                let (net, peer) = (&live.0.with.net, &key.publisher);
                let connected = net.peers.is_connected(peer).await.unwrap_or_default();
                let failed = if connected { None } else { net.dial.connect_peer(peer, addresses).await.err() };
                if let Some(followed) = lock(&live.0.streams).followed.get_mut(&key) {
                    let longer = followed.reach.1.saturating_mul(2).min(REACH_MAX_MS);
                    let wait = if failed.is_some() { longer } else { REACH_MS };
                    followed.reach = (MonoMs(live.0.with.clock.now().0.saturating_add(wait)), wait);
                }
                if let Some(error) = failed {
                    tracing::debug!(%error, "publisher not reached; relying on other listeners");
                }
            });
        }
    }

    /// A group that came from the network or from a publication of ours.
    pub(super) fn on_group(&self, key: &StreamKey, group: Arc<Group>, repaired: bool) {
        let weight = group.signed.len();
        if let Some(followed) = lock(&self.0.streams).followed.get(key) {
            followed.readers.push(weight, &StreamItem::Group { group, repaired });
        }
    }

    /// A message in the old format.
    pub(super) fn on_audio(&self, publisher: PeerId, stream: StreamId, message: AudioMessage) {
        let item = match message {
            AudioMessage::Audio(chunk) | AudioMessage::Iq(chunk) => StreamItem::Chunk(chunk),
            AudioMessage::End(_) => StreamItem::Ended("ended"),
            AudioMessage::Metadata(metadata) => {
                StreamItem::Metadata(text::clean(&Value::Object(metadata).to_string(), usize::MAX))
            }
        };
        self.0.counters.groups_in.fetch_add(1, Ordering::Relaxed);
        let key = StreamKey { publisher, stream };
        // A native stream comes in the old format, too, while somebody follows it so: as we do while we wait for one.
        let native = lock(&self.0.streams).followed.get(&key).is_some_and(|followed| followed.native.is_some());
        if !native {
            self.push_item(&key, &item);
        }
    }

    pub(super) fn push_item(&self, key: &StreamKey, item: &StreamItem) {
        let Streams { followed, awaited, .. } = &mut *lock(&self.0.streams);
        if let Some(awaited) = awaited.get_mut(&key.stream) {
            awaited.heard.push(item.weight(), (key.publisher.clone(), item.clone()));
        }
        if let Some(followed) = followed.get(key) {
            followed.readers.push(item.weight(), item);
        }
    }

    /// Follows a stream in the old format before anybody has announced it, and keeps what is heard of it.
    pub(super) async fn wait_in_old_format(&self, stream: &StreamId) -> Option<Waiting> {
        let (live, stream) = (self.clone(), stream.clone());
        tokio::spawn(async move { live.begin_to_wait(&stream).await }).await.ok()?
    }

    async fn begin_to_wait(&self, stream: &StreamId) -> Option<Waiting> {
        const MAX_AWAITED: usize = 32;
        let _leaving = self.0.following.lock().await;
        {
            let awaited = &mut lock(&self.0.streams).awaited;
            if awaited.len() >= MAX_AWAITED && !awaited.contains_key(stream) {
                return None;
            }
            let awaited = awaited.entry(stream.clone()).or_insert_with(Awaited::new);
            awaited.waiting = awaited.waiting.saturating_add(1);
        }
        let waiting = Waiting { live: self.clone(), stream: stream.clone() };
        // Without it, the stream is heard from a moment later on.
        self.follow_json(stream).await.ok().map(|()| waiting)
    }

    /// Tells the readers of a stream of a part that was larger than is taken.
    pub(super) fn lose_of_stream(&self, key: &StreamKey) {
        if let Some(followed) = lock(&self.0.streams).followed.get(key) {
            followed.readers.lose(1, Cause::TooLarge);
        }
    }

    /// Tells the readers of a stream that it is over, after what has come of it.
    pub(super) fn end_readers(&self, key: &StreamKey, reason: &'static str) {
        let streams = lock(&self.0.streams);
        if let Some(native) = streams.followed.get(key).and_then(|followed| followed.native.as_ref()) {
            native.stream.end(reason);
        } else if let Some(json) = streams.json.get(&key.stream) {
            json.end(key.publisher.clone(), reason);
        }
    }

    /// Lets go of streams without readers. Returns the topics to leave.
    pub(super) fn sweep_streams(&self) -> Vec<String> {
        let now = self.0.with.clock.now();
        let Streams { followed: streams, awaited, json } = &mut *lock(&self.0.streams);
        let mut left = Vec::new();
        let network = &self.0.with.network;
        awaited.retain(|stream, awaited| {
            if awaited.waiting == 0 {
                left.push(topic::audio_json(network, stream));
            }
            awaited.waiting > 0
        });
        streams.retain(|key, followed| {
            if followed.readers.sweep() > 0 || followed.publishing {
                followed.idle = now;
            }
            let keep = now.since(followed.idle) < LINGER_MS;
            if !keep {
                left.push(followed.topic(network, key));
                self.0.groups.remove(key);
            }
            keep
        });
        left.retain(|topic| !streams.iter().any(|(key, followed)| followed.topic(network, key) == *topic));
        left.retain(|topic| !awaited.keys().any(|stream| topic::audio_json(network, stream) == *topic));
        json.retain(|stream, _| !left.contains(&topic::audio_json(network, stream)));
        left
    }

    /// Who publishes what is followed here.
    pub(super) fn followed_publishers(&self) -> Vec<PeerId> {
        lock(&self.0.streams).followed.keys().map(|key| key.publisher.clone()).collect()
    }

    /// Local readers of one stream.
    pub(super) fn readers_of(&self, key: &StreamKey) -> usize {
        lock(&self.0.streams).followed.get_mut(key).map_or(0, |followed| followed.readers.sweep())
    }

    pub(super) fn local_readers(&self) -> usize {
        lock(&self.0.streams).followed.values_mut().map(|followed| followed.readers.sweep()).sum()
    }
}
