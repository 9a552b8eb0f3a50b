//! Those who have just begun to follow the directory are told at once what is published here.

use std::collections::VecDeque;

use p2pd_core::{
    bucket::Bucket,
    id::{PeerId, StreamId, StreamKey},
    time::MonoMs,
};

use super::State;
use crate::{Live, directory::message::DirectoryMessage, lock};

/// Announcements for newcomers per second, and how many at once; peers take five a second of all that we say.
const ANNOUNCE_RATE: (u32, u32) = (1, 16);
/// Most newcomers who are told directly; the others hear it by gossip.
const MAX_NEWCOMERS: usize = 64;

/// Peers that follow the directory since a moment ago, and what of our own they have not been told yet.
pub(super) struct Newcomers {
    peers: Vec<PeerId>,
    streams: VecDeque<StreamId>,
    rate: Bucket,
}

impl Newcomers {
    pub(super) fn new(now: MonoMs) -> Self {
        Newcomers { peers: Vec::new(), streams: VecDeque::new(), rate: Bucket::full(now, ANNOUNCE_RATE.1) }
    }
}

impl Live {
    /// Tells a peer that has begun to follow the directory what is published here. Those that do not ask heed heartbeats only of
    /// streams that they know.
    pub(crate) async fn announce_to(&self, peer: PeerId) {
        {
            let mut state = lock(&self.0.directory);
            let own = state.directory.iter().filter(|(key, _)| key.publisher == self.0.with.me);
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
    pub(crate) async fn announce_pending(&self) {
        while let Some((message, peers)) = self.next_announcement() {
            let _ = self.say_also_to(message, peers).await;
        }
    }

    fn next_announcement(&self) -> Option<(DirectoryMessage, Vec<PeerId>)> {
        let now = self.0.with.clock.now();
        let mut state = lock(&self.0.directory);
        let State { directory, newcomers, .. } = &mut *state;
        while let Some(stream) = newcomers.streams.front() {
            let key = StreamKey { publisher: self.0.with.me.clone(), stream: stream.clone() };
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
}
