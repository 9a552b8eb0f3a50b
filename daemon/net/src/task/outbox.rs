//! Messages of programs on their way out. What the connections are too full for at the moment is held back and tried again,
//! so that a program which is faster than the network waits for it, and is refused only when that lasts.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{PeerId, gossipsub::IdentTopic};
use tokio::sync::oneshot;

use super::Task;
use crate::{NetError, behaviour::Behaviour, command::Sent, gossip::followers, pace::Room};

/// How long a message is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two tries, at first: the connections send what fills them in about as long. It doubles while nothing goes out.
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(64);
/// Most that is held back, in messages and bytes.
const HELD: (usize, usize) = (1024, 16 << 20);

type Reply = oneshot::Sender<Result<Sent, NetError>>;

struct Held {
    data: Bytes,
    reply: Reply,
    until: Instant,
}

/// By topic, each in order.
#[derive(Default)]
pub(super) struct Outbox {
    topics: HashMap<String, VecDeque<Held>>,
    messages: usize,
    bytes: usize,
    again: Option<Instant>,
    pause: Duration,
}

impl Outbox {
    /// When to try again; `None` when nothing is held back.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.again.filter(|_| self.messages > 0)
    }

    fn hold(&mut self, topic: String, held: Held) {
        if self.messages >= HELD.0 || self.bytes >= HELD.1 {
            let _ = held.reply.send(Err(NetError::Busy));
            return;
        }
        if self.messages == 0 {
            self.wait(SOON);
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(held.data.len());
        self.topics.entry(topic).or_default().push_back(held);
    }

    fn wait(&mut self, pause: Duration) {
        self.pause = pause.min(LATER);
        self.again = Instant::now().checked_add(self.pause);
    }

    fn answer(&mut self, held: Held, sent: Result<Sent, NetError>) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(held.data.len());
        let _ = held.reply.send(sent);
    }
}

/// Ends at a time, at once if it has come: a timer would take another millisecond.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        None => pending().await,
        Some(at) if at <= Instant::now() => {}
        Some(at) => tokio::time::sleep_until(at.into()).await,
    }
}

impl Task {
    /// Publishes a message of a program, or holds it back, behind those of its topic that are.
    pub(super) fn publish_or_hold(&mut self, topic: String, data: Bytes, reply: Reply) {
        if !self.outbox.topics.contains_key(&topic) {
            match self.publish_where_room(&topic, &data) {
                Err(NetError::Busy) => {}
                done => {
                    let _ = reply.send(done);
                    return;
                }
            }
        }
        let until = Instant::now().checked_add(PATIENCE).unwrap_or(self.began);
        self.outbox.hold(topic, Held { data, reply, until });
    }

    /// Tries again what is held back.
    pub(super) fn publish_held(&mut self) {
        let mut moves = false;
        for (topic, mut queue) in std::mem::take(&mut self.outbox.topics) {
            while let Some(first) = queue.pop_front() {
                let sent = self.publish_where_room(&topic, &first.data);
                if matches!(sent, Err(NetError::Busy)) && Instant::now() < first.until {
                    queue.push_front(first);
                    break;
                }
                moves |= sent.is_ok();
                self.outbox.answer(first, sent);
            }
            if !queue.is_empty() {
                self.outbox.topics.insert(topic, queue);
            }
        }
        self.outbox.wait(if moves { SOON } else { self.outbox.pause.saturating_mul(2).max(SOON) });
    }

    /// Publishes a message unless a follower ought to be waited for.
    fn publish_where_room(&mut self, topic: &str, data: &Bytes) -> Result<Sent, NetError> {
        let followers = self.followers(topic);
        match self.swarm.behaviour_mut().pace.room(&followers, Instant::now()) {
            Room::Wait => Err(NetError::Busy),
            Room::Beside(behind) => Ok(Sent { behind, ..self.publish_to(followers, topic, data)? }),
        }
    }

    /// Publishes a message now, or not at all.
    pub(super) fn publish(&mut self, topic: &str, data: &Bytes) -> Result<Sent, NetError> {
        self.publish_to(self.followers(topic), topic, data)
    }

    fn publish_to(&mut self, followers: Vec<PeerId>, topic: &str, data: &Bytes) -> Result<Sent, NetError> {
        let (me, wall) = (*self.swarm.local_peer_id(), Self::wall());
        let Behaviour { gossipsub, pace, .. } = self.swarm.behaviour_mut();
        let id = self.gossip.publish(gossipsub, &me, topic, data, wall)?;
        pace.sent(&followers);
        Ok(Sent { id, followers: followers.len(), behind: 0 })
    }

    fn followers(&self, topic: &str) -> Vec<PeerId> {
        followers(&self.swarm.behaviour().gossipsub, &IdentTopic::new(topic).hash())
    }
}
