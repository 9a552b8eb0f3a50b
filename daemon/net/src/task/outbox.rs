//! Messages on their way out. What every connection is too full for at the moment is held back and tried again, so that a
//! program which is faster than the network waits for it, and is refused only when nothing moves.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::gossipsub::IdentTopic;
use tokio::sync::oneshot;

use super::Task;
use crate::{NetError, command::Sent, gossip::followers};

/// How long a message is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two tries; the connections send what fills them in about as long.
const AGAIN: Duration = Duration::from_millis(2);
/// Most messages that are held back.
const HELD: usize = 1024;
/// For so long after a message of ours was refused, a full connection is our doing and not its peer's.
const OURS: Duration = Duration::from_secs(3);

pub(crate) type Reply = oneshot::Sender<Result<Sent, NetError>>;

struct Held {
    data: Bytes,
    reply: Reply,
    until: Instant,
    /// How often it was refused.
    refused: u32,
}

/// By topic, each in order.
#[derive(Default)]
pub(super) struct Outbox {
    held: HashMap<String, VecDeque<Held>>,
    count: usize,
    refused: Option<Instant>,
    /// Something has just gone out on several connections.
    several: bool,
}

impl Outbox {
    /// When to try again; `None` when nothing is held back.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.refused?.checked_add(AGAIN).filter(|_| self.count > 0)
    }

    /// Whether the connections should have their turn first.
    pub(super) fn takes_turns(&mut self) -> bool {
        std::mem::take(&mut self.several)
    }

    fn hold(&mut self, topic: String, held: Held) {
        if self.count >= HELD {
            let _ = held.reply.send(Err(NetError::Busy));
            return;
        }
        self.count = self.count.saturating_add(1);
        self.held.entry(topic).or_default().push_back(held);
    }

    /// Whether connections are full of messages of ours.
    pub(super) fn crowds(&self) -> bool {
        self.refused.is_some_and(|at| at.elapsed() < OURS)
    }
}

impl Task {
    /// Publishes a message, or holds it back.
    pub(super) fn publish(&mut self, topic: String, data: Bytes, reply: Reply) {
        let until = Instant::now().checked_add(PATIENCE).unwrap_or(self.began);
        let mut held = Held { data, reply, until, refused: 0 };
        if !self.outbox.held.contains_key(&topic) {
            match self.try_once(&topic, &held.data, 0) {
                Err(NetError::Busy) => held.refused = 1,
                done => {
                    let _ = held.reply.send(done);
                    return;
                }
            }
        }
        self.outbox.hold(topic, held);
    }

    /// Tries again what is held back.
    pub(super) fn publish_held(&mut self) {
        for (topic, mut queue) in std::mem::take(&mut self.outbox.held) {
            while let Some(mut first) = queue.pop_front() {
                match self.try_once(&topic, &first.data, first.refused) {
                    Err(NetError::Busy) if Instant::now() < first.until => {
                        first.refused = first.refused.saturating_add(1);
                        queue.push_front(first);
                        break;
                    }
                    done => {
                        if done.is_err() {
                            self.note_slow(&topic);
                        }
                        self.outbox.count = self.outbox.count.saturating_sub(1);
                        let _ = first.reply.send(done);
                    }
                }
            }
            if !queue.is_empty() {
                self.outbox.held.insert(topic, queue);
            }
        }
    }

    /// `refused`: how often it was, before.
    pub(super) fn try_once(&mut self, topic: &str, data: &Bytes, refused: u32) -> Result<Sent, NetError> {
        let (me, wall) = (*self.swarm.local_peer_id(), Self::wall());
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        let id = self.gossip.publish(gossipsub, &me, topic, data, wall, refused);
        if matches!(id, Err(NetError::Busy)) {
            self.outbox.refused = Some(Instant::now());
        }
        let sent = Sent { id: id?, followers: followers(gossipsub, &IdentTopic::new(topic).hash()).len() };
        self.outbox.several |= sent.followers > 1;
        Ok(sent)
    }

    /// Notes that the peers whom a topic's messages go to have taken none for a while.
    fn note_slow(&mut self, topic: &str) {
        let topic = IdentTopic::new(topic).hash();
        let mesh: Vec<_> = self.swarm.behaviour().gossipsub.mesh_peers(&topic).copied().collect();
        mesh.into_iter().for_each(|peer| self.on_slow(peer));
    }
}
