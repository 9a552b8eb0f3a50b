//! The judgement of every message, by whoever follows its topic, before programs and other peers get it.

use bytes::Bytes;
use libp2p::gossipsub::{MessageAcceptance, MessageId};
use p2pd_core::{
    id::PeerId,
    time::{MonoMs, UnixMs},
};

/// A message of a topic.
#[derive(Debug)]
pub struct Message {
    /// What tells it apart from others.
    pub id: Bytes,
    /// Who signed it, if anybody; the signature has been checked.
    pub sender: Option<PeerId>,
    /// The sequence number that the sender gave it.
    pub number: Option<u64>,
    /// The neighbour that passed it on.
    pub source: PeerId,
    /// Whether the sender is connected, too.
    pub connected: bool,
    /// The payload.
    pub data: Bytes,
    /// To name it with in a verdict that comes later.
    pub ticket: Ticket,
}

/// Names a message that waits for its verdict.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub(super) id: MessageId,
    pub(super) source: libp2p::PeerId,
    pub(super) bytes: usize,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    Accept,
    /// It is not, and the neighbour that brought it is not to blame.
    Ignore,
    /// It is not, and that neighbour loses score. For what every honest peer sees alike: form, signature, ownership.
    Reject(&'static str),
    /// It waits for a verdict: one of `on_due`, or of `Handle::decide`. Gossipsub forgets it after four seconds.
    Later,
}

impl From<p2pd_core::verdict::Verdict> for Verdict {
    fn from(verdict: p2pd_core::verdict::Verdict) -> Self {
        match verdict {
            p2pd_core::verdict::Verdict::Accept => Verdict::Accept,
            p2pd_core::verdict::Verdict::Ignore(_) => Verdict::Ignore,
            p2pd_core::verdict::Verdict::Reject(why) => Verdict::Reject(why),
        }
    }
}

/// A verdict that comes later.
#[derive(Debug)]
pub struct Decision {
    /// Which message.
    pub ticket: Ticket,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// When something is judged.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Since the start of the network.
    pub now: MonoMs,
    /// By this machine's clock.
    pub wall: UnixMs,
}

/// Judges the messages of one topic, within the network's task: it must not block. What it accepts it hands to its subscriber through a
/// bounded queue of its own (`queue::bounded`), so that no topic's flood costs another topic a message.
pub trait Judge: Send {
    /// Judges a message.
    fn judge(&mut self, message: Message, time: Time) -> Verdict;

    /// When `on_due` has something next; the present means at once, after what the last message has woken.
    fn due(&self) -> Option<MonoMs> {
        None
    }

    /// Verdicts that have become due.
    fn on_due(&mut self, _now: MonoMs) -> Vec<Decision> {
        Vec::new()
    }
}

/// What a topic carries, which decides how its messages are passed on and how many such topics there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Sound: passed on at once.
    Live,
    /// What every daemon says of itself: held back for peers that are slow, and leaves room to others' messages.
    Directory,
    /// Messages of programs: held back for peers that are slow.
    Messages,
}

/// Of a verdict that is none yet, gossipsub is not told.
pub(super) fn acceptance(verdict: Verdict, source: &libp2p::PeerId) -> Option<MessageAcceptance> {
    match verdict {
        Verdict::Accept => Some(MessageAcceptance::Accept),
        Verdict::Ignore => Some(MessageAcceptance::Ignore),
        Verdict::Reject(why) => {
            tracing::debug!(peer = %source, why, "message rejected; its sender loses score");
            Some(MessageAcceptance::Reject)
        }
        Verdict::Later => None,
    }
}
