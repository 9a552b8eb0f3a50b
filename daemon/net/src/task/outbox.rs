//! Messages of programs on their way out, of those here and of peers. What the connections are too full for at the moment is
//! held back and tried again, so that a program which is faster than the network waits for it, and is refused only when that
//! lasts.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{
    PeerId,
    gossipsub::{IdentTopic, MessageAcceptance, MessageId},
};
use tokio::sync::oneshot;

use super::Task;
use crate::{NetError, behaviour::Behaviour, command::Sent, gossip::followers, pace::Room};

/// How long a message is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two tries, at first: the connections send what fills them in about as long. It doubles while nothing goes out.
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(64);
/// Most that is held back, in messages, and bytes of our own: gossipsub keeps those of peers for seconds anyway.
const HELD: (usize, usize) = (8192, 16 << 20);

type Reply = oneshot::Sender<Result<Sent, NetError>>;

enum Message {
    /// Of a program here.
    Own { data: Bytes, reply: Reply },
    /// Of a peer, to be passed on.
    Passing { id: MessageId, source: PeerId },
}

impl Message {
    /// Bytes that are kept for it.
    fn weight(&self) -> usize {
        match self {
            Message::Own { data, .. } => data.len(),
            Message::Passing { .. } => 0,
        }
    }
}

struct Held {
    message: Message,
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

    /// Whether nothing more can be held back.
    fn is_full(&self) -> bool {
        self.messages >= HELD.0 || self.bytes >= HELD.1
    }

    fn hold(&mut self, topic: String, held: Held) {
        if self.messages == 0 {
            self.wait(SOON);
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(held.message.weight());
        self.topics.entry(topic).or_default().push_back(held);
    }

    fn wait(&mut self, pause: Duration) {
        self.pause = pause.min(LATER);
        self.again = Instant::now().checked_add(self.pause);
    }

    fn let_go(&mut self, weight: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(weight);
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
        self.send_or_hold(topic, Message::Own { data, reply });
    }

    /// Passes a message on that a peer sent, or holds it back alike.
    pub(super) fn pass_on_or_hold(&mut self, topic: String, id: MessageId, source: PeerId) {
        self.send_or_hold(topic, Message::Passing { id, source });
    }

    fn send_or_hold(&mut self, topic: String, message: Message) {
        let until = Instant::now().checked_add(PATIENCE).unwrap_or(self.began);
        let held = Held { message, until };
        let left = if self.outbox.topics.contains_key(&topic) { Some(held) } else { self.send(&topic, held) };
        match left {
            Some(Held { message, .. }) if self.outbox.is_full() => self.give_up(message),
            Some(held) => self.outbox.hold(topic, held),
            None => {}
        }
    }

    /// Does what it can with a message that cannot wait.
    fn give_up(&mut self, message: Message) {
        match message {
            Message::Own { reply, .. } => drop(reply.send(Err(NetError::Busy))),
            // Whoever has room gets it.
            Message::Passing { id, source } => self.report(&id, &source, MessageAcceptance::Accept),
        }
    }

    /// Tries again what is held back.
    pub(super) fn send_held(&mut self) {
        let mut moves = false;
        for (topic, mut queue) in std::mem::take(&mut self.outbox.topics) {
            while let Some(first) = queue.pop_front() {
                let weight = first.message.weight();
                if let Some(first) = self.send(&topic, first) {
                    queue.push_front(first);
                    break;
                }
                self.outbox.let_go(weight);
                moves = true;
            }
            if !queue.is_empty() {
                self.outbox.topics.insert(topic, queue);
            }
        }
        self.outbox.wait(if moves { SOON } else { self.outbox.pause.saturating_mul(2).max(SOON) });
    }

    /// Sends a message, or returns it if it is to wait.
    fn send(&mut self, topic: &str, held: Held) -> Option<Held> {
        let now = Instant::now();
        match held.message {
            Message::Own { data, reply } => {
                let sent = self.publish_where_room(topic, &data, now);
                if matches!(sent, Err(NetError::Busy)) && now < held.until {
                    return Some(Held { message: Message::Own { data, reply }, ..held });
                }
                let _ = reply.send(sent);
            }
            Message::Passing { id, source } => {
                let Behaviour { gossipsub, pace, .. } = self.swarm.behaviour_mut();
                let topic = IdentTopic::new(topic).hash();
                let to: Vec<PeerId> = gossipsub.mesh_peers(&topic).filter(|peer| **peer != source).copied().collect();
                if pace.room(&to, now) == Room::Wait && now < held.until {
                    return Some(Held { message: Message::Passing { id, source }, ..held });
                }
                pace.sent(&to);
                self.report(&id, &source, MessageAcceptance::Accept);
            }
        }
        None
    }

    /// Publishes a message unless a follower ought to be waited for.
    fn publish_where_room(&mut self, topic: &str, data: &Bytes, now: Instant) -> Result<Sent, NetError> {
        let followers = self.followers(topic);
        match self.swarm.behaviour_mut().pace.room(&followers, now) {
            Room::Wait | Room::None => Err(NetError::Busy),
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
