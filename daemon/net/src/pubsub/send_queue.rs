//! Messages of programs on their way out, of those here and of peers. What the connections are too full for at the moment is
//! held back and tried again, so that a program which is faster than the network waits for it, and is refused only when that
//! lasts.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{PeerId, gossipsub::MessageId};
use tokio::sync::oneshot;

use super::{Sent, flow_control::SMALL, judge::Class};
use crate::NetError;

/// How long a message of our own is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// And one of a peer: gossipsub forgets it after four seconds, of which a validator may have taken three.
const PASSING: Duration = Duration::from_millis(700);
/// Time between two tries, at first: the connections send what fills them in about as long. It doubles while nothing goes out.
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(64);
/// Most that is held back of our own: so many small messages, so many bytes of larger ones, each beside the other so that the large ones
/// of one program leave room to another's; and messages of peers, which gossipsub keeps for seconds anyway.
const HELD_SMALL: usize = 1024;
const HELD_BYTES: usize = 16 << 20;
const HELD_PASSING: usize = 8192;

pub(super) enum Message {
    /// Of a program here.
    Own { data: Bytes, reply: oneshot::Sender<Result<Sent, NetError>> },
    /// Of a peer, to be passed on.
    Passing { id: MessageId, source: PeerId, bytes: usize, class: Class },
}

impl Message {
    fn is_own(&self) -> bool {
        matches!(self, Message::Own { .. })
    }

    /// What is kept for it.
    fn weight(&self) -> Weight {
        match self {
            Message::Own { data, .. } if data.len() <= SMALL => Weight { small: 1, ..Weight::default() },
            Message::Own { data, .. } => Weight { bytes: data.len(), ..Weight::default() },
            Message::Passing { .. } => Weight { passing: 1, ..Weight::default() },
        }
    }
}

/// Small messages of our own, bytes of the others, and messages of peers.
#[derive(Clone, Copy, Default)]
struct Weight {
    small: usize,
    bytes: usize,
    passing: usize,
}

pub(super) struct Held {
    pub(super) message: Message,
    pub(super) until: Instant,
}

/// One queue for each of these.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Of {
    topic: String,
    own: bool,
}

/// Sends a message on a topic, or returns it if it is to wait.
pub(super) trait Send: FnMut(&str, Held) -> Option<Held> {}

impl<F: FnMut(&str, Held) -> Option<Held>> Send for F {}

#[derive(Default)]
pub(super) struct SendQueue {
    /// Each in order.
    queues: HashMap<Of, VecDeque<Held>>,
    held: Weight,
    again: Option<Instant>,
    pause: Duration,
}

impl SendQueue {
    /// When to try again; `None` when nothing is held back.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again.filter(|_| !self.queues.is_empty())
    }

    /// Sends a message, or holds it back, behind those of its kind and topic that are. Returns one that cannot wait.
    pub(super) fn push(
        &mut self,
        topic: String,
        message: Message,
        now: Instant,
        mut send: impl Send,
    ) -> Option<Message> {
        let own = message.is_own();
        let until = now.checked_add(if own { PATIENCE } else { PASSING }).unwrap_or(now);
        let (held, of) = (Held { message, until }, Of { topic, own });
        let left = if self.queues.contains_key(&of) { Some(held) } else { send(&of.topic, held) }?;
        if self.is_full_for(&left.message) {
            return Some(left.message);
        }
        self.hold(of, left, now);
        None
    }

    /// Tries again what is held back.
    pub(super) fn retry(&mut self, now: Instant, mut send: impl Send) {
        let mut moves = false;
        for (of, mut queue) in std::mem::take(&mut self.queues) {
            while let Some(first) = queue.pop_front() {
                let weight = first.message.weight();
                if let Some(first) = send(&of.topic, first) {
                    queue.push_front(first);
                    break;
                }
                self.release(weight);
                moves = true;
            }
            if !queue.is_empty() {
                self.queues.insert(of, queue);
            }
        }
        self.wait(now, if moves { SOON } else { self.pause.saturating_mul(2).max(SOON) });
    }

    /// Whether nothing more of its kind can be held back.
    fn is_full_for(&self, message: &Message) -> bool {
        match message {
            Message::Own { data, .. } if data.len() <= SMALL => self.held.small >= HELD_SMALL,
            Message::Own { .. } => self.held.bytes >= HELD_BYTES,
            Message::Passing { .. } => self.held.passing >= HELD_PASSING,
        }
    }

    fn hold(&mut self, of: Of, held: Held, now: Instant) {
        if self.queues.is_empty() {
            self.wait(now, SOON);
        }
        let Weight { small, bytes, passing } = held.message.weight();
        self.held.small = self.held.small.saturating_add(small);
        self.held.bytes = self.held.bytes.saturating_add(bytes);
        self.held.passing = self.held.passing.saturating_add(passing);
        self.queues.entry(of).or_default().push_back(held);
    }

    fn release(&mut self, Weight { small, bytes, passing }: Weight) {
        self.held.small = self.held.small.saturating_sub(small);
        self.held.bytes = self.held.bytes.saturating_sub(bytes);
        self.held.passing = self.held.passing.saturating_sub(passing);
    }

    fn wait(&mut self, now: Instant, pause: Duration) {
        self.pause = pause.min(LATER);
        self.again = now.checked_add(self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(n: u8) -> Message {
        Message::Passing { id: MessageId::new(&[n]), source: PeerId::random(), bytes: 0, class: Class::Messages }
    }

    fn number(message: &Message) -> u8 {
        match message {
            Message::Passing { id, .. } => id.0[0],
            Message::Own { data, .. } => data[0],
        }
    }

    fn full(_: &str, held: Held) -> Option<Held> {
        Some(held)
    }

    #[test]
    fn what_waits_goes_in_order_and_holds_up_its_own_topic_alone() {
        let (mut queue, now, mut sent) = (SendQueue::default(), Instant::now(), Vec::new());
        for n in 0..3 {
            assert!(queue.push("a".into(), passing(n), now, full).is_none());
        }
        let mut room = |topic: &str, held: Held| {
            sent.push((topic.to_owned(), number(&held.message)));
            None
        };
        assert!(queue.push("b".into(), passing(9), now, &mut room).is_none());
        assert!(queue.push("a".into(), passing(3), now, &mut room).is_none(), "behind those that wait");
        queue.retry(now + SOON, &mut room);
        let expected = [("b", 9), ("a", 0), ("a", 1), ("a", 2), ("a", 3)].map(|(topic, n)| (topic.to_owned(), n));
        assert_eq!(sent, expected);
        assert_eq!(queue.due(), None);
    }

    #[test]
    fn it_is_tried_ever_later_while_nothing_goes_out() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        queue.push("a".into(), passing(0), now, full);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let due = queue.due().unwrap();
            queue.retry(due, full);
            pauses.push(queue.due().unwrap().saturating_duration_since(due).as_millis());
        }
        assert_eq!(pauses, [4, 8, 16, 32, 64, 64, 64]);
        queue.push("b".into(), passing(1), now, full);
        queue.retry(now, |topic, held| if topic == "b" { None } else { Some(held) });
        assert_eq!(queue.due(), now.checked_add(SOON));
    }

    #[test]
    fn what_cannot_wait_is_given_back() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        for n in 0..=HELD_PASSING {
            let given_back = queue.push("a".into(), passing(0), now, full);
            assert_eq!(given_back.is_some(), n == HELD_PASSING);
        }
        let own = |bytes: usize| {
            let (reply, answer) = oneshot::channel();
            drop(answer);
            Message::Own { data: vec![0; bytes].into(), reply }
        };
        assert!(queue.push("a".into(), own(HELD_BYTES), now, full).is_none(), "of its own kind there is room");
        assert!(queue.push("a".into(), own(SMALL + 1), now, full).is_some());
        assert!(queue.push("b".into(), own(SMALL), now, full).is_none(), "of small ones, too");
        queue.retry(now, |_, _| None);
        assert!(queue.push("a".into(), own(1), now, full).is_none(), "and room again");
    }

    fn own(bytes: usize) -> Message {
        Message::Own { data: vec![0; bytes].into(), reply: oneshot::channel().0 }
    }

    #[test]
    fn each_kind_waits_as_long_as_it_is_of_use() {
        let (mut queue, now, mut until) = (SendQueue::default(), Instant::now(), Vec::new());
        for message in [own(1), passing(0)] {
            queue.push("a".into(), message, now, |_, held| {
                until.push(held.until.saturating_duration_since(now).as_millis());
                Some(held)
            });
        }
        assert_eq!(until, [1_000, 700]);
        queue.retry(now, |_, held| {
            until.push(held.until.saturating_duration_since(now).as_millis());
            None
        });
        until.sort_unstable();
        assert_eq!(until, [700, 700, 1_000, 1_000], "as long when it is tried again");
    }

    #[test]
    fn messages_of_our_own_are_bounded_by_number_and_by_bytes() {
        let now = Instant::now();
        let held = |bytes: usize| {
            let mut queue = SendQueue::default();
            (0..2_000).take_while(|_| queue.push("a".into(), own(bytes), now, full).is_none()).count()
        };
        assert_eq!([held(0), held(1 << 20), held((1 << 20) - 1), held(17 << 20)], [1_024, 16, 17, 1]);
    }

    #[test]
    fn what_goes_out_makes_room_for_its_own_kind() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        assert_eq!(queue.due(), None);
        (0..1_024).for_each(|_| assert!(queue.push("a".into(), own(1), now, full).is_none()));
        assert!(queue.push("b".into(), own(1), now, full).is_some(), "of all topics together");
        assert!(queue.push("b".into(), own(1), now, |_, _| None).is_none(), "but what need not wait goes");
        let mut once = 0..1;
        queue.retry(now, |_, held| if once.next().is_some() { None } else { Some(held) });
        assert!(
            queue.push("b".into(), own(1), now, full).is_none() && queue.push("b".into(), own(1), now, full).is_some()
        );
        queue.retry(now, |_, _| None);
        assert_eq!((queue.due(), queue.held.small, queue.held.bytes, queue.held.passing), (None, 0, 0, 0));
    }
}
