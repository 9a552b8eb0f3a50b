//! The directory of streams: the pure state, those who watch it, and the talk with other peers about it.

mod judge;
pub mod message;
mod newcomers;
mod own_addresses;
mod questions;
pub(crate) mod state;
mod unwritten;

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use p2pd_core::{
    id::{PeerId, StreamId, StreamKey, StreamRef},
    multiaddr::Multiaddr,
    ring::Next,
    time::{MonoMs, UnixMs},
    verdict::CLOCK_TOLERANCE_MS,
};
use p2pd_net::queue;
use p2pd_node::{clock::wall, peers::readable};
use p2pd_store::{Learnt, Store, StoreError};
use tokio::sync::broadcast;

pub(super) use self::unwritten::ToDisk;
pub use self::{
    judge::{DirectoryJudge, Heard, Publishers},
    state::{Entry, MAX_ENTRIES, MAX_PER_PUBLISHER},
};
use self::{newcomers::Newcomers, questions::Questions, unwritten::Unwritten};
use crate::{
    Live, LiveError,
    directory::{
        message::{AnnounceError, DirectoryMessage, Metadata},
        state::{Change, Directory, Effect, Origin},
    },
    listen::Waiting,
    lock, topic,
};

/// How often a flood of the directory is told, in milliseconds.
const FLOOD_MS: u64 = 60_000;
/// Changes that a watcher may be behind before it is cut off.
const WATCH: usize = 256;

pub(super) struct State {
    directory: Directory,
    told: broadcast::Sender<StreamChange>,
    unwritten: Unwritten,
    /// The time of what this daemon said last.
    said: UnixMs,
    /// The same for its own directory: never earlier than before.
    said_here: UnixMs,
    newcomers: Newcomers,
    questions: Questions,
    /// Own addresses as they were a second ago.
    own_addresses: Vec<Multiaddr>,
    /// Who publishes what is followed here, for the judge.
    followed_publishers: Publishers,
    /// When it was told last that streams found no room, and who has brought most.
    flood: Option<(MonoMs, PeerId)>,
}

impl State {
    /// A time for what is said now, later than that of all before: of two at the same time, nobody knows which holds.
    fn next_time(&mut self) -> UnixMs {
        const AHEAD: u64 = CLOCK_TOLERANCE_MS / 2;
        let (wall, next) = (wall().0, self.said.0.saturating_add(1));
        // After the clock was set back by much it counts anew; others would take the time for one to come.
        self.said = UnixMs(if next.saturating_sub(wall) < AHEAD { wall.max(next) } else { wall });
        self.said_here = UnixMs(self.said.0.max(self.said_here.0.saturating_add(1)));
        self.said
    }
}

/// An entry as it is shown.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Whose, and its id.
    pub key: StreamKey,
    /// What is known of it.
    pub entry: Entry,
    /// How long ago it was heard of.
    pub age_ms: u64,
    /// It is published here.
    pub local: bool,
    /// Of a native stream of ours.
    pub old_listeners: u32,
}

/// A change of the directory.
#[derive(Clone, Debug)]
pub enum StreamChange {
    /// It is there, or has changed.
    Present(Box<Listed>),
    /// It is not there any more.
    Gone {
        /// Which.
        key: StreamKey,
        /// Why, as the API names it.
        reason: &'static str,
    },
}

impl State {
    pub(super) fn restore(store: &Store, now: MonoMs) -> Result<Self, StoreError> {
        let (mut directory, mut unwritten) = (Directory::default(), Unwritten::default());
        let Learnt { records, unreadable } = store.directory()?;
        let mut left_out = unreadable.len();
        for (publisher, stream, record) in records {
            // A record of an older or newer p2pd may hold a name that is none today.
            let names = PeerId::from_bytes(&publisher).ok().zip(stream.parse().ok());
            let Some(((publisher, stream), metadata)) = names.zip(serde_json::from_str(&record.metadata).ok()) else {
                left_out = left_out.saturating_add(1);
                continue;
            };
            directory.restore(now, StreamKey { publisher, stream }, Metadata(metadata), UnixMs(record.time));
        }
        if left_out > 0 {
            tracing::warn!(
                count = left_out,
                "streams of the directory on disk cannot be read; the network tells them anew"
            );
            unwritten = Unwritten::All;
        }
        Ok(State {
            directory,
            told: broadcast::Sender::new(WATCH),
            unwritten,
            said: UnixMs::default(),
            said_here: UnixMs::default(),
            newcomers: Newcomers::new(now),
            questions: Questions::new(now),
            own_addresses: Vec::new(),
            followed_publishers: Publishers::default(),
            flood: None,
        })
    }
}

impl Live {
    /// Follows the directory from now on. What it brings.
    pub async fn follow_directory(&self) -> Result<queue::Reader<Heard>, LiveError> {
        let publishers = lock(&self.0.directory).followed_publishers.clone();
        let clocks = self.0.clocks.heard.clone();
        let (subscription, heard) = DirectoryJudge::subscription(clocks, publishers);
        self.0.with.net.pubsub.subscribe(&self.directory_topic(), subscription).await?;
        Ok(heard)
    }

    /// Applies what the directory brings, for as long as it is polled.
    pub(super) async fn hear_directory(&self, mut heard: queue::Reader<Heard>) {
        while let Some(next) = heard.next().await {
            match next {
                Next::Item(Heard { via, sender, message, time }) => {
                    self.apply(Origin { signer: &sender, via: &via, time }, message).await;
                }
                // It is said again within 30 s.
                Next::Gap { from, to, .. } => self.note_dropped(from, to),
            }
        }
    }

    pub(super) fn directory_topic(&self) -> String {
        topic::directory(&self.0.with.network)
    }

    /// Applies a message of a peer, or of our own.
    pub(super) async fn apply(&self, origin: Origin<'_>, message: DirectoryMessage) {
        let now = self.0.with.clock.now();
        let (changes, rest): (Vec<_>, Vec<_>) = {
            let mut state = lock(&self.0.directory);
            let effects = state.directory.apply(now, origin, message);
            let (changes, rest): (Vec<_>, _) =
                effects.into_iter().partition(|effect| matches!(effect, Effect::Change(_)));
            let changed =
                |effect: &Effect| if let Effect::Change(change) = effect { Some(change.key().clone()) } else { None };
            state.unwritten.add(changes.iter().filter_map(changed));
            (changes, rest)
        };
        self.tell(changes.into_iter().filter_map(|e| if let Effect::Change(c) = e { Some(c) } else { None }));
        for effect in rest {
            match effect {
                Effect::Ask(publisher) => self.ask_once(&publisher).await,
                Effect::Answer { filter, request } => self.answer_soon(&filter, &request).await,
                Effect::Change(_) => {}
            }
        }
    }

    /// Drops what is stale.
    pub(super) fn sweep_directory(&self) {
        let now = self.0.with.clock.now();
        let changes = {
            let mut state = lock(&self.0.directory);
            let changes = state.directory.sweep(now);
            state.unwritten.add(changes.iter().map(|change| change.key().clone()));
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
                    let kind = if reason == "ended" { "stream-ended" } else { "stream-stale" };
                    self.0.with.events.happened_to(Some(&key.publisher), kind, &subject);
                    self.end_readers(&key, reason);
                    let _ = lock(&self.0.directory).told.send(StreamChange::Gone { key, reason });
                }
                None => {
                    let now = self.0.with.clock.now();
                    let state = lock(&self.0.directory);
                    if let Some(listed) = state.directory.get(&key).map(|entry| self.listed(now, &key, entry)) {
                        let _ = state.told.send(StreamChange::Present(Box::new(listed)));
                    }
                    drop(state);
                    self.0.with.events.happened_to(Some(&key.publisher), "stream-present", &subject);
                }
            }
        }
    }

    fn listed(&self, now: MonoMs, key: &StreamKey, entry: &Entry) -> Listed {
        let local = key.publisher == self.0.with.me;
        let old_listeners = if local { self.old_listeners(&key.stream) } else { 0 };
        Listed { key: key.clone(), entry: entry.clone(), age_ms: now.since(entry.heard), local, old_listeners }
    }

    /// Sends a message about our own streams, and applies it here too. That nobody hears it yet is no fault.
    pub(super) async fn say(&self, message: DirectoryMessage) -> Result<(), AnnounceError> {
        self.say_also_to(message, Vec::new()).await
    }

    async fn say_also_to(&self, message: DirectoryMessage, peers: Vec<PeerId>) -> Result<(), AnnounceError> {
        let (time, here) = {
            let mut state = lock(&self.0.directory);
            (state.next_time(), state.said_here)
        };
        let bytes = message::encode(&message, &self.0.with.me, time)?;
        let sent =
            self.0.with.net.pubsub.publish_also_to(&self.directory_topic(), Bytes::from(bytes.clone()), peers).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "directory message not sent");
        }
        if let Ok((message, _)) = message::decode(&bytes, &self.0.with.me) {
            let me = &self.0.with.me;
            Box::pin(self.apply(Origin { signer: me, via: me, time: here }, message)).await;
        }
        Ok(())
    }

    /// Has the streams of those go last in a flood who are known otherwise, and tells of one.
    pub(super) async fn favour_publishers(&self) {
        let followed = self.followed_publishers();
        lock(&self.0.directory).followed_publishers.set(followed.iter().cloned());
        let kept: HashSet<PeerId> = followed.into_iter().chain([self.0.with.me.clone()]).collect();
        self.0.with.events.choose("followed", kept.iter().cloned());
        let connected = self.0.with.net.peers.connected().await.unwrap_or_default().into_iter().collect();
        let crowded = {
            let now = self.0.with.clock.now();
            let state = &mut *lock(&self.0.directory);
            state.directory.favour(kept, connected);
            let due = state.flood.as_ref().is_none_or(|(told, _)| now.since(*told) >= FLOOD_MS);
            let crowded = if due { state.directory.take_crowded_out() } else { None };
            if let Some((peer, _)) = &crowded {
                state.flood = Some((now, peer.clone()));
            }
            crowded
        };
        if let Some((peer, count)) = crowded {
            tracing::warn!(%peer, count, "the directory is full, most of it brought by this peer; streams found no room");
            self.0
                .with
                .events
                .happened("directory-full", &format!("{peer}: {count} streams found no room; it has brought most"));
        }
    }

    /// The directory, ordered by publisher and id.
    pub fn streams(&self) -> Vec<Listed> {
        let now = self.0.with.clock.now();
        lock(&self.0.directory).directory.iter().map(|(key, entry)| self.listed(now, key, entry)).collect()
    }

    /// Who has brought most to a directory in which streams found no room lately.
    pub fn flooded_by(&self) -> Option<PeerId> {
        let now = self.0.with.clock.now();
        let lately = |(told, _): &&(MonoMs, PeerId)| now.since(*told) < 2 * FLOOD_MS;
        let state = lock(&self.0.directory);
        let full = state.directory.iter().count() >= MAX_ENTRIES;
        state.flood.as_ref().filter(lately).filter(|_| full).map(|(_, peer)| peer.clone())
    }

    pub(super) fn streams_listed(&self) -> usize {
        lock(&self.0.directory).directory.iter().count()
    }

    /// The directory and its changes from that moment on.
    pub fn watch_streams(&self) -> (Vec<Listed>, broadcast::Receiver<StreamChange>) {
        let now = self.0.with.clock.now();
        let state = lock(&self.0.directory);
        let all = state.directory.iter().map(|(key, entry)| self.listed(now, key, entry)).collect();
        (all, state.told.subscribe())
    }

    /// The one stream that a person's reference names.
    pub fn find_stream(&self, wanted: &StreamRef) -> Result<Listed, LiveError> {
        let now = self.0.with.clock.now();
        let state = lock(&self.0.directory);
        let found = state.directory.find(wanted);
        match found.as_slice() {
            [] => {
                let publisher = wanted.publisher.as_ref().map_or(String::new(), |p| format!("@{p}"));
                Err(LiveError::StreamNotFound(format!("{}{publisher}", wanted.stream)))
            }
            [key] => {
                let entry = state.directory.get(key).map(|entry| self.listed(now, key, entry));
                entry.ok_or_else(|| LiveError::StreamNotFound(key.to_string()))
            }
            _ => Err(LiveError::StreamAmbiguous(found)),
        }
    }

    /// Like `find_stream`, and waits for the stream to appear. In the old format it is followed meanwhile: with what is returned,
    /// `read_stream` reads it from its first moment on.
    pub async fn await_stream(
        &self,
        wanted: &StreamRef,
        wait: Duration,
    ) -> Result<(Listed, Option<Waiting>), LiveError> {
        let (_, mut changes) = self.watch_streams();
        let deadline = tokio::time::Instant::now() + wait;
        let mut waiting = None;
        loop {
            match self.find_stream(wanted) {
                Err(LiveError::StreamNotFound(name)) => {
                    if waiting.is_none() && !wait.is_zero() {
                        waiting = self.wait_in_old_format(&wanted.stream).await;
                    }
                    if tokio::time::timeout_at(deadline, changes.recv()).await.is_err() {
                        return Err(LiveError::StreamNotFound(name));
                    }
                }
                found => return Ok((found?, waiting)),
            }
        }
    }

    /// Where the publisher of a stream says it is reached.
    pub(super) fn addresses_of(&self, key: &StreamKey) -> Vec<Multiaddr> {
        let state = lock(&self.0.directory);
        state.directory.get(key).map(|entry| readable(&entry.metadata.addresses())).unwrap_or_default()
    }

    /// The streams that are published here and tell other addresses of this daemon than these.
    pub(super) fn own_streams_elsewhere(&self, addresses: &[String]) -> Vec<(StreamId, Metadata)> {
        let published: Vec<_> = lock(&self.0.publications).keys().cloned().collect();
        let state = lock(&self.0.directory);
        let told = |stream| {
            let metadata =
                &state.directory.get(&StreamKey { publisher: self.0.with.me.clone(), stream }).as_ref()?.metadata;
            (metadata.addresses() != addresses).then(|| metadata.clone())
        };
        published.into_iter().filter_map(|stream| Some((stream.clone(), told(stream)?))).collect()
    }
}
