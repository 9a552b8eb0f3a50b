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
use p2pd_core::id;
use tokio::sync::oneshot;

use super::Task;
use crate::{
    NetError,
    behaviour::{Behaviour, MESH},
    command::Sent,
    flood,
    gossip::followers,
    pace::Room,
    peers,
};

/// How long a message of our own is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// And one of a peer: gossipsub forgets it after four seconds, of which a validator may have taken three.
const PASSING: Duration = Duration::from_millis(700);
/// Time between two tries, at first: the connections send what fills them in about as long. It doubles while nothing goes out.
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(64);
/// Most that is held back of our own, in messages and bytes, and of peers', which gossipsub keeps for seconds anyway.
const HELD: (usize, usize) = (1024, 16 << 20);
const HELD_PASSING: usize = 8192;

type Reply = oneshot::Sender<Result<Sent, NetError>>;

enum Message {
    /// Of a program here.
    Own { data: Bytes, reply: Reply },
    /// Of a peer, to be passed on.
    Passing { id: MessageId, source: PeerId, bytes: usize },
}

impl Message {
    /// What is kept for it.
    fn weight(&self) -> Weight {
        match self {
            Message::Own { data, .. } => Weight { own: 1, bytes: data.len(), passing: 0 },
            Message::Passing { .. } => Weight { passing: 1, ..Weight::default() },
        }
    }
}

/// Messages of our own, their bytes, and messages of peers.
#[derive(Clone, Copy, Default)]
struct Weight {
    own: usize,
    bytes: usize,
    passing: usize,
}

struct Held {
    message: Message,
    until: Instant,
}

/// By topic, and whether they are of our own: each in order.
#[derive(Default)]
pub(super) struct Outbox {
    queues: HashMap<(String, bool), VecDeque<Held>>,
    held: Weight,
    again: Option<Instant>,
    pause: Duration,
}

impl Outbox {
    /// When to try again; `None` when nothing is held back.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.again.filter(|_| !self.queues.is_empty())
    }

    /// Whether nothing more of its kind can be held back.
    fn is_full(&self, message: &Message) -> bool {
        match message {
            Message::Own { .. } => self.held.own >= HELD.0 || self.held.bytes >= HELD.1,
            Message::Passing { .. } => self.held.passing >= HELD_PASSING,
        }
    }

    fn hold(&mut self, queue: (String, bool), held: Held) {
        if self.queues.is_empty() {
            self.wait(SOON);
        }
        let Weight { own, bytes, passing } = held.message.weight();
        self.held.own = self.held.own.saturating_add(own);
        self.held.bytes = self.held.bytes.saturating_add(bytes);
        self.held.passing = self.held.passing.saturating_add(passing);
        self.queues.entry(queue).or_default().push_back(held);
    }

    fn wait(&mut self, pause: Duration) {
        self.pause = pause.min(LATER);
        self.again = Instant::now().checked_add(self.pause);
    }

    fn let_go(&mut self, Weight { own, bytes, passing }: Weight) {
        self.held.own = self.held.own.saturating_sub(own);
        self.held.bytes = self.held.bytes.saturating_sub(bytes);
        self.held.passing = self.held.passing.saturating_sub(passing);
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
    /// Publishes a message of a program, or holds it back, behind those of programs on its topic that are.
    pub(super) fn publish_or_hold(&mut self, topic: String, data: Bytes, reply: Reply) {
        self.send_or_hold(topic, Message::Own { data, reply });
    }

    /// Passes a message on that a peer sent, or holds it back alike.
    pub(super) fn pass_on_or_hold(&mut self, topic: String, id: MessageId, source: PeerId, bytes: usize) {
        self.send_or_hold(topic, Message::Passing { id, source, bytes });
    }

    fn send_or_hold(&mut self, topic: String, message: Message) {
        let own = matches!(message, Message::Own { .. });
        let until = Instant::now().checked_add(if own { PATIENCE } else { PASSING }).unwrap_or(self.began);
        let (held, queue) = (Held { message, until }, (topic, own));
        let left = if self.outbox.queues.contains_key(&queue) { Some(held) } else { self.send(&queue.0, held) };
        match left {
            Some(Held { message, .. }) if self.outbox.is_full(&message) => self.give_up(message),
            Some(held) => self.outbox.hold(queue, held),
            None => {}
        }
    }

    /// Does what it can with a message that cannot wait.
    fn give_up(&mut self, message: Message) {
        match message {
            Message::Own { reply, .. } => drop(reply.send(Err(NetError::Busy))),
            // Whoever has room gets it.
            Message::Passing { id, source, .. } => self.report(&id, &source, MessageAcceptance::Accept),
        }
    }

    /// Tries again what is held back.
    pub(super) fn send_held(&mut self) {
        let mut moves = false;
        for (name, mut queue) in std::mem::take(&mut self.outbox.queues) {
            while let Some(first) = queue.pop_front() {
                let weight = first.message.weight();
                if let Some(first) = self.send(&name.0, first) {
                    queue.push_front(first);
                    break;
                }
                self.outbox.let_go(weight);
                moves = true;
            }
            if !queue.is_empty() {
                self.outbox.queues.insert(name, queue);
            }
        }
        self.outbox.wait(if moves { SOON } else { self.outbox.pause.saturating_mul(2).max(SOON) });
    }

    /// Sends a message, or returns it if it is to wait.
    fn send(&mut self, topic: &str, held: Held) -> Option<Held> {
        let now = Instant::now();
        let may_wait = now < held.until;
        match held.message {
            Message::Own { data, reply } => {
                let followers = self.followers(topic);
                let pace = &mut self.swarm.behaviour_mut().pace;
                let room = match followers[..] {
                    [only] => pace.room_in_bytes(only, data.len(), now),
                    // Of very many only some are sent to, who pass it on.
                    _ if followers.len() > flood::MOST => Room::Beside(0),
                    _ => pace.room(&followers, data.len(), now),
                };
                let sent = match room {
                    Room::Wait(_) if may_wait => Err(NetError::Busy),
                    // Who has room gets it.
                    Room::Wait(behind) | Room::Beside(behind) => {
                        self.publish_to(&followers, topic, &data, Vec::new()).map(|sent| Sent { behind, ..sent })
                    }
                };
                if matches!(sent, Err(NetError::Busy)) && may_wait {
                    return Some(Held { message: Message::Own { data, reply }, ..held });
                }
                let _ = reply.send(sent);
            }
            Message::Passing { id, source, bytes } => {
                let Behaviour { gossipsub, pace, .. } = self.swarm.behaviour_mut();
                let topic = IdentTopic::new(topic).hash();
                let of_directory = topic == self.directory;
                let to: Vec<PeerId> = gossipsub.mesh_peers(&topic).filter(|peer| **peer != source).copied().collect();
                let waits = matches!(pace.room(&to, bytes, now), Room::Wait(_))
                    || (of_directory && pace.is_busy_with_directory(&to));
                if waits && may_wait {
                    return Some(Held { message: Message::Passing { id, source, bytes }, ..held });
                }
                pace.sent(&to, bytes);
                self.report(&id, &source, MessageAcceptance::Accept);
            }
        }
        None
    }

    /// Publishes a message now, or not at all.
    pub(super) fn publish(&mut self, topic: &str, data: &Bytes) -> Result<Sent, NetError> {
        self.publish_to(&self.followers(topic), topic, data, Vec::new())
    }

    /// Publishes a message now, to these followers whether or not they are in the mesh.
    pub(super) fn publish_also_to(
        &mut self,
        topic: &str,
        data: &Bytes,
        also_to: &[id::PeerId],
    ) -> Result<Sent, NetError> {
        let followers = self.followers(topic);
        let also_to = also_to.iter().filter_map(peers::to_libp2p).filter(|peer| followers.contains(peer)).collect();
        self.publish_to(&followers, topic, data, also_to)
    }

    /// Publishes a message to those of the mesh, to those named, and as bandwidth allows to the other followers.
    fn publish_to(
        &mut self,
        followers: &[PeerId],
        topic: &str,
        data: &Bytes,
        mut also_to: Vec<PeerId>,
    ) -> Result<Sent, NetError> {
        let (me, wall) = (*self.swarm.local_peer_id(), Self::wall());
        let Behaviour { gossipsub, pace, .. } = self.swarm.behaviour_mut();
        let mut to: Vec<PeerId> = gossipsub.mesh_peers(&IdentTopic::new(topic).hash()).copied().collect();
        let mut full = Vec::new();
        let in_mesh = to.len();
        if followers.len() > in_mesh {
            to.extend(also_to.iter().filter(|peer| !to.contains(peer)).copied().collect::<Vec<_>>());
            let outside = followers.iter().filter(|peer| !to.contains(peer)).copied();
            let (others, without_room) = outside.partition(|peer| pace.has_room(peer, data.len()));
            full = without_room;
            let others = self.flood.choose(others, data.len(), Instant::now());
            to.extend(&others);
            also_to.extend(others);
            // While its mesh is small gossipsub adds others by chance: all where they are so few, also those that are full here.
            let left: Vec<PeerId> = followers.iter().filter(|peer| !to.contains(peer)).copied().collect();
            if left.len() <= MESH.saturating_sub(in_mesh) {
                to.extend(left);
                full.clear();
            }
        }
        // Gossipsub sends what it publishes to explicit peers, too.
        also_to.iter().for_each(|peer| gossipsub.add_explicit_peer(peer));
        let sent = self.gossip.publish(gossipsub, &me, topic, data, wall);
        also_to.iter().for_each(|peer| gossipsub.remove_explicit_peer(peer));
        let id = sent.inspect_err(|error| {
            if matches!(error, NetError::Busy) && followers.len() <= MESH {
                // To all of them, and the library counts that as missed, which it is not.
                self.peers.refused(followers);
            }
        })?;
        pace.sent(&to, data.len());
        // The library counts only what it was to send.
        self.peers.missed(&full);
        Ok(Sent { id, followers: followers.len(), behind: 0 })
    }

    fn followers(&self, topic: &str) -> Vec<PeerId> {
        followers(&self.swarm.behaviour().gossipsub, &IdentTopic::new(topic).hash())
    }
}
