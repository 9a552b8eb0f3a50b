//! The directory of streams: the pure state, those who watch it, and the talk with other peers about it.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use p2pd_core::{
    admission::{Bucket, CLOCK_TOLERANCE_MS},
    announce::{self, AnnounceError, DirectoryMessage, Filter, Metadata},
    directory::{Change, Directory, Effect, Entry},
    id::{PeerId, StreamId, StreamKey, StreamRef},
    time::{MonoMs, UnixMs},
    topic,
};
use p2pd_net::TopicRule;
use p2pd_store::{DirectoryRecord, Store, StoreError};
use tokio::sync::broadcast;

use super::{Node, NodeError, WATCH, lock, streams::Waiting, wall};

/// Least time between two questions of ours, in milliseconds.
const ASK_EVERY_MS: u64 = 300;
/// Announcements for newcomers per second, and how many at once; peers take five a second of all that we say.
const ANNOUNCE_RATE: (u32, u32) = (1, 16);
/// Most newcomers who are told directly; the others hear it by gossip.
const MAX_NEWCOMERS: usize = 64;

pub(super) struct State {
    directory: Directory,
    told: broadcast::Sender<StreamChange>,
    asked: Option<MonoMs>,
    /// A question came too soon after the one before; all is asked for within a second.
    ask_later: bool,
    /// Whether the disk's copy is behind.
    pub(super) changed: bool,
    /// The time of what this daemon said last.
    said: UnixMs,
    newcomers: Newcomers,
}

/// Peers that follow the directory since a moment ago, and what of our own they have not been told yet.
struct Newcomers {
    peers: Vec<PeerId>,
    streams: VecDeque<StreamId>,
    rate: Bucket,
}

impl State {
    /// A time for what is said now, later than that of all before: of two at the same time, nobody knows which holds.
    fn next_time(&mut self) -> UnixMs {
        const AHEAD: u64 = CLOCK_TOLERANCE_MS / 2;
        let (wall, next) = (wall().0, self.said.0.saturating_add(1));
        // After the clock was set back by much it counts anew; others would take the time for one to come.
        self.said = UnixMs(if next.saturating_sub(wall) < AHEAD { wall.max(next) } else { wall });
        self.said
    }
}

/// An entry as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) key: StreamKey,
    pub(crate) entry: Entry,
    pub(crate) age_ms: u64,
    pub(crate) local: bool,
    /// Of a native stream of ours.
    pub(crate) old_listeners: u32,
}

/// A change of the directory.
#[derive(Clone, Debug)]
pub(crate) enum StreamChange {
    Present(Box<Listed>),
    Gone { key: StreamKey, reason: &'static str },
}

impl State {
    pub(super) fn restore(store: &Store, now: MonoMs) -> Result<Self, StoreError> {
        let mut directory = Directory::default();
        for (publisher, stream, record) in store.directory()? {
            // A record of an older or newer p2pd may hold a name that is none today; the network tells it anew.
            let (Ok(publisher), Ok(stream)) = (PeerId::from_bytes(&publisher), stream.parse()) else { continue };
            let Ok(metadata) = serde_json::from_str(&record.metadata) else { continue };
            directory.restore(now, StreamKey { publisher, stream }, Metadata(metadata), UnixMs(record.time));
        }
        let (told, said) = (broadcast::Sender::new(WATCH), UnixMs::default());
        let newcomers =
            Newcomers { peers: Vec::new(), streams: VecDeque::new(), rate: Bucket::full(now, ANNOUNCE_RATE.1) };
        Ok(State { directory, told, asked: None, ask_later: false, changed: false, said, newcomers })
    }
}

impl Node {
    pub(super) async fn follow_directory(&self) -> Result<(), NodeError> {
        Ok(self.0.net.subscribe(&self.directory_topic(), TopicRule::Directory).await?)
    }

    pub(super) fn directory_topic(&self) -> String {
        topic::directory(self.network())
    }

    /// Applies a message of a peer, or of our own.
    pub(super) async fn apply(&self, sender: &PeerId, message: DirectoryMessage, time: UnixMs) {
        let now = self.now();
        let (changes, rest): (Vec<_>, Vec<_>) = {
            let mut state = lock(&self.0.directory);
            let effects = state.directory.apply(now, sender, message, time);
            state.changed |= !effects.is_empty();
            effects.into_iter().partition(|effect| matches!(effect, Effect::Change(_)))
        };
        self.tell(changes.into_iter().filter_map(|e| if let Effect::Change(c) = e { Some(c) } else { None }));
        for effect in rest {
            match effect {
                Effect::Ask(publisher) => {
                    self.ask(Filter { publisher: Some(publisher.to_string()), ..Filter::default() }).await
                }
                Effect::Answer { filter, request } => self.answer(&filter, request).await,
                Effect::Change(_) => {}
            }
        }
    }

    /// Drops what is stale.
    pub(super) fn sweep_directory(&self) {
        let now = self.now();
        let changes = {
            let mut state = lock(&self.0.directory);
            let changes = state.directory.sweep(now);
            state.changed |= !changes.is_empty();
            changes
        };
        self.tell(changes);
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let (key, reason) = match change {
                Change::Present(key) => (key, None),
                Change::Ended(key) => (key, Some("ended")),
                Change::Stale(key) => (key, Some("stale")),
            };
            let subject = key.to_string();
            match reason {
                Some(reason) => {
                    self.happened(if reason == "ended" { "stream-ended" } else { "stream-stale" }, &subject);
                    self.end_readers(&key, reason);
                    let _ = lock(&self.0.directory).told.send(StreamChange::Gone { key, reason });
                }
                None => {
                    let now = self.now();
                    let state = lock(&self.0.directory);
                    if let Some(listed) = state.directory.get(&key).map(|entry| self.listed(now, &key, entry)) {
                        let _ = state.told.send(StreamChange::Present(Box::new(listed)));
                    }
                    drop(state);
                    self.happened("stream-present", &subject);
                }
            }
        }
    }

    fn listed(&self, now: MonoMs, key: &StreamKey, entry: &Entry) -> Listed {
        let local = key.publisher == self.0.me;
        let old_listeners = if local { self.old_listeners(&key.stream) } else { 0 };
        Listed { key: key.clone(), entry: entry.clone(), age_ms: now.since(entry.heard), local, old_listeners }
    }

    /// Sends a message about our own streams, and applies it here too. That nobody hears it yet is no fault.
    pub(super) async fn say(&self, message: DirectoryMessage) -> Result<(), AnnounceError> {
        self.say_also_to(message, Vec::new()).await
    }

    async fn say_also_to(&self, message: DirectoryMessage, peers: Vec<PeerId>) -> Result<(), AnnounceError> {
        let time = lock(&self.0.directory).next_time();
        let bytes = announce::encode(&message, &self.0.me, time)?;
        let sent = self.0.net.publish_also_to(&self.directory_topic(), Bytes::from(bytes.clone()), peers).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "directory message not sent");
        }
        if let Ok((message, time)) = announce::decode(&bytes, &self.0.me) {
            Box::pin(self.apply(&self.0.me.clone(), message, time)).await;
        }
        Ok(())
    }

    /// Tells a peer that has begun to follow the directory what is published here. Those that do not ask heed heartbeats only of
    /// streams that they know.
    pub(super) async fn announce_to(&self, peer: PeerId) {
        {
            let mut state = lock(&self.0.directory);
            let own = state.directory.iter().filter(|(key, _)| key.publisher == self.0.me);
            let own: Vec<_> = own.map(|(key, _)| key.stream.clone()).collect();
            let newcomers = &mut state.newcomers;
            if own.is_empty() {
                return;
            }
            for stream in own {
                if !newcomers.streams.contains(&stream) {
                    newcomers.streams.push_back(stream);
                }
            }
            if newcomers.peers.len() < MAX_NEWCOMERS && !newcomers.peers.contains(&peer) {
                newcomers.peers.push(peer);
            }
        }
        self.announce_pending().await;
    }

    /// Tells newcomers what there was no time for before.
    pub(super) async fn announce_pending(&self) {
        while let Some((message, peers)) = self.next_announcement() {
            let _ = self.say_also_to(message, peers).await;
        }
    }

    fn next_announcement(&self) -> Option<(DirectoryMessage, Vec<PeerId>)> {
        let now = self.now();
        let mut state = lock(&self.0.directory);
        let State { directory, newcomers, .. } = &mut *state;
        while let Some(stream) = newcomers.streams.front() {
            let key = StreamKey { publisher: self.0.me.clone(), stream: stream.clone() };
            // It may have ended meanwhile.
            let Some(metadata) = directory.get(&key).map(|entry| entry.metadata.clone()) else {
                newcomers.streams.pop_front();
                continue;
            };
            if !newcomers.rate.take(now, ANNOUNCE_RATE.0, ANNOUNCE_RATE.1) {
                return None;
            }
            newcomers.streams.pop_front();
            return Some((DirectoryMessage::Announce { stream: key.stream, metadata }, newcomers.peers.clone()));
        }
        newcomers.peers.clear();
        None
    }

    /// Asks the network for streams, at most about three times a second.
    pub(super) async fn ask(&self, filter: Filter) {
        let now = self.now();
        {
            let mut state = lock(&self.0.directory);
            if state.asked.is_some_and(|at| now.since(at) < ASK_EVERY_MS) {
                state.ask_later = true;
                return;
            }
            state.asked = Some(now);
        }
        let message = DirectoryMessage::Query { filter, request: format!("{}-{}", self.0.me, wall().0) };
        if let Ok(bytes) = announce::encode(&message, &self.0.me, wall())
            && let Err(error) = self.0.net.publish(&self.directory_topic(), bytes.into()).await
        {
            tracing::debug!(%error, "directory not asked");
        }
    }

    /// Asks what could not be asked before.
    pub(super) async fn ask_pending(&self) {
        if std::mem::take(&mut lock(&self.0.directory).ask_later) {
            self.ask(Filter::default()).await;
        }
    }

    async fn answer(&self, filter: &Filter, request: String) {
        let own: Vec<_> = {
            let state = lock(&self.0.directory);
            let own = state
                .directory
                .iter()
                .filter(|(key, e)| key.publisher == self.0.me && filter.matches(&key.publisher, &e.metadata));
            own.map(|(key, entry)| (key.stream.clone(), entry.metadata.clone())).collect()
        };
        // One stream each, since several may not fit a message.
        for stream in own {
            let message = DirectoryMessage::Response { request: request.clone(), streams: vec![stream] };
            if let Ok(bytes) = announce::encode(&message, &self.0.me, wall()) {
                let _ = self.0.net.publish(&self.directory_topic(), bytes.into()).await;
            }
        }
    }

    /// The directory, ordered by publisher and id.
    pub(crate) fn streams(&self) -> Vec<Listed> {
        let now = self.now();
        lock(&self.0.directory).directory.iter().map(|(key, entry)| self.listed(now, key, entry)).collect()
    }

    pub(super) fn streams_listed(&self) -> usize {
        lock(&self.0.directory).directory.iter().count()
    }

    /// The directory and its changes from that moment on.
    pub(crate) fn watch_streams(&self) -> (Vec<Listed>, broadcast::Receiver<StreamChange>) {
        let now = self.now();
        let state = lock(&self.0.directory);
        let all = state.directory.iter().map(|(key, entry)| self.listed(now, key, entry)).collect();
        (all, state.told.subscribe())
    }

    /// The one stream that a person's reference names.
    pub(crate) fn find_stream(&self, wanted: &StreamRef) -> Result<Listed, NodeError> {
        let now = self.now();
        let state = lock(&self.0.directory);
        let found = state.directory.find(wanted);
        match found.as_slice() {
            [] => {
                let publisher = wanted.publisher.as_ref().map_or(String::new(), |p| format!("@{p}"));
                Err(NodeError::StreamNotFound(format!("{}{publisher}", wanted.stream)))
            }
            [key] => {
                let entry = state.directory.get(key).map(|entry| self.listed(now, key, entry));
                entry.ok_or_else(|| NodeError::StreamNotFound(key.to_string()))
            }
            _ => Err(NodeError::StreamAmbiguous(found)),
        }
    }

    /// Like `find_stream`, and waits for the stream to appear. In the old format it is followed meanwhile: with what is returned,
    /// `read_stream` reads it from its first moment on.
    pub(crate) async fn await_stream(
        &self,
        wanted: &StreamRef,
        wait: Duration,
    ) -> Result<(Listed, Option<Waiting>), NodeError> {
        let (_, mut changes) = self.watch_streams();
        let deadline = tokio::time::Instant::now() + wait;
        let mut waiting = None;
        loop {
            match self.find_stream(wanted) {
                Err(NodeError::StreamNotFound(name)) => {
                    if waiting.is_none() && !wait.is_zero() {
                        waiting = self.wait_in_old_format(&wanted.stream).await;
                    }
                    if tokio::time::timeout_at(deadline, changes.recv()).await.is_err() {
                        return Err(NodeError::StreamNotFound(name));
                    }
                }
                found => return Ok((found?, waiting)),
            }
        }
    }

    /// Where the publisher of a stream says it is reached.
    pub(super) fn addresses_of(&self, key: &StreamKey) -> Vec<String> {
        lock(&self.0.directory).directory.get(key).map(|entry| entry.metadata.addresses()).unwrap_or_default()
    }

    /// The directory is to be written anew.
    pub(super) fn directory_changed(&self) {
        lock(&self.0.directory).changed = true;
    }

    /// What goes to disk: the streams of others, if anything changed.
    pub(super) fn directory_records(&self, all: bool) -> Option<Vec<(Vec<u8>, String, DirectoryRecord)>> {
        let mut state = lock(&self.0.directory);
        if !std::mem::take(&mut state.changed) && !all {
            return None;
        }
        let others = state.directory.iter().filter(|(key, _)| key.publisher != self.0.me);
        let record = |(key, entry): (&StreamKey, &Entry)| {
            let metadata = serde_json::to_string(&entry.metadata.0).unwrap_or_default();
            let record = DirectoryRecord { metadata, time: entry.time.0 };
            (key.publisher.as_bytes().to_vec(), key.stream.to_string(), record)
        };
        Some(others.map(record).collect())
    }
}
