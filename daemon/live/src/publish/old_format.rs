//! A native stream in the old format, while somebody follows it so.

use std::{collections::HashSet, sync::atomic::Ordering};

use bytes::Bytes;
use p2pd_core::id::{PeerId, StreamId};
use p2pd_node::clock::wall;

use super::{Outgoing, Publication, ogg_link::Links};
use crate::{
    Live,
    json_format::{self, AudioMessage},
    lock, native,
};

impl Live {
    /// Counts who follows native streams of ours in the old format: all, or the one of this topic. Daemons like this one do so
    /// only until they know better, and do not count.
    pub(crate) async fn count_old_listeners(&self, of_topic: Option<&str>) {
        let all: Vec<_> = lock(&self.0.publications).values().cloned().collect();
        let mut daemons = None;
        for shared in all {
            let Some(topic) = shared.old_topic.as_deref().filter(|topic| of_topic.is_none_or(|of| of == *topic)) else {
                continue;
            };
            let mut followers = self.0.with.net.pubsub.topic_peers(topic).await.unwrap_or_default().followers;
            if !followers.is_empty() {
                let daemons = match &mut daemons {
                    Some(daemons) => daemons,
                    none => none.insert(self.daemons().await),
                };
                followers.retain(|follower| !daemons.contains(follower));
            }
            shared.old_listeners.store(u32::try_from(followers.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// The connected peers that take native streams, as they say.
    async fn daemons(&self) -> HashSet<PeerId> {
        let speaking = self.0.with.net.peers.speaking(native::PROTOCOL).await;
        speaking.unwrap_or_default().into_iter().collect()
    }

    /// How many connected peers follow a stream of ours in the old format though it is native.
    pub(crate) fn old_listeners(&self, stream: &StreamId) -> u32 {
        lock(&self.0.publications).get(stream).map_or(0, |shared| shared.old_listeners.load(Ordering::Relaxed))
    }
}

impl Publication {
    /// Adds a frame to what listeners of the old format get, while there are any.
    pub(super) fn frame_of_old(&mut self, data: Bytes, ticks: u64) {
        let Some(links) = &mut self.links else { return };
        let link = links.packet(data, ticks);
        if self.shared.old_listeners.load(Ordering::Relaxed) == 0 {
            links.skip();
            self.description.said = None;
            return;
        }
        let now = self.live.0.with.clock.now();
        if self.description.is_due(now) {
            self.old(&AudioMessage::Metadata(self.description.metadata.0.clone()));
            self.description.said = Some(now);
        }
        if let Some(link) = link {
            self.old(&AudioMessage::Audio(link.into()));
        }
    }

    fn old(&self, message: &AudioMessage) {
        let bytes = json_format::encode(message, &self.shared.key.stream, wall());
        self.send(bytes.len(), Outgoing::Old(bytes));
    }

    /// Sends the last second, and the end.
    pub(super) fn finish_old(&mut self) {
        if self.shared.old_listeners.load(Ordering::Relaxed) == 0 {
            return;
        }
        let last = self.links.as_mut().and_then(Links::close);
        last.into_iter().for_each(|link| self.old(&AudioMessage::Audio(link.into())));
        self.old(&AudioMessage::End(None));
    }
}
