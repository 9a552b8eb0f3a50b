//! Programs that judge the messages of a topic before they are passed on. A message that nobody has judged in time is
//! treated as its topic's settings say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use p2pd_core::{id::PeerId, time::MonoMs, topic_settings::TopicSettings};
use p2pd_net::{Ticket, Verdict, queue};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::heard::Heard;

/// Messages that one validator has not decided on, and all together.
const WAITING: usize = 256;
const MAX_PENDING: usize = 1024;
/// Bytes of all that wait.
const MAX_BYTES: usize = 16 << 20;

/// A message to judge.
#[derive(Clone, Debug)]
pub struct ToJudge {
    /// To answer with.
    pub number: u64,
    /// Who signed it, if anybody.
    pub sender: Option<PeerId>,
    /// The neighbour that passed it on.
    pub source: PeerId,
    /// The payload.
    pub data: Bytes,
}

/// What a validator is told.
#[derive(Clone, Debug)]
pub enum ValidatorEvent {
    /// A message to judge.
    Judge(ToJudge),
    /// The number of one whose time is over: it was treated as not judged.
    Late(u64),
}

/// What a validator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Delivered and passed on.
    Accept,
    /// Neither; whoever passed it on loses score.
    Reject,
    /// Neither.
    Ignore,
}

/// A message that waits, and what gossipsub wants to be told of it.
struct Pending {
    topic: String,
    deadline: MonoMs,
    closed: bool,
    ruled: Waiting,
}

/// A message to be judged, and where it goes if it is accepted.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) heard: Heard,
    pub(super) to: Arc<queue::Writer<Heard>>,
}

/// A message and what becomes of it.
pub(super) struct Ruled {
    pub(super) topic: String,
    pub(super) ticket: Ticket,
    pub(super) ruling: Ruling,
}

impl Ruled {
    /// Hands a message on if it is accepted.
    fn new(topic: String, waiting: Waiting, ruling: Ruling) -> Self {
        let Waiting { ticket, heard, to } = waiting;
        if ruling == Ruling::Accept {
            to.push(heard.weight(), heard);
        }
        Ruled { topic, ticket, ruling }
    }
}

/// A program that judges a topic.
struct Program {
    questions: mpsc::Sender<ValidatorEvent>,
    /// Number of the last message before it came; those are none of its own.
    before: u64,
    undecided: usize,
}

#[derive(Default)]
pub(super) struct Validators {
    attached: HashMap<String, Program>,
    pending: BTreeMap<u64, Pending>,
    bytes: usize,
    next: u64,
}

impl Validators {
    /// Attaches a program; `None` when another one judges this topic.
    pub(super) fn attach(&mut self, topic: String) -> Option<mpsc::Receiver<ValidatorEvent>> {
        if self.attached.get(&topic).is_some_and(|there| !there.questions.is_closed()) {
            return None;
        }
        // Each message may become late.
        let (questions, asked) = mpsc::channel(2 * WAITING);
        self.attached.insert(topic, Program { questions, before: self.next, undecided: 0 });
        Some(asked)
    }

    /// Puts a message to its validator. Gives it back, ruled, when there is none or it cannot keep up.
    pub(super) fn ask(
        &mut self,
        topic: &str,
        settings: &TopicSettings,
        question: impl FnOnce(u64) -> ToJudge,
        waiting: Waiting,
        now: MonoMs,
    ) -> Option<Ruled> {
        let unjudged = default(settings.closed);
        let Some(program) = self.attached.get_mut(topic) else {
            return Some(Ruled::new(topic.to_owned(), waiting, unjudged));
        };
        let weight = waiting.heard.weight();
        let full = self.pending.len() >= MAX_PENDING || self.bytes.saturating_add(weight) > MAX_BYTES;
        if full || program.undecided >= WAITING {
            return Some(Ruled::new(topic.to_owned(), waiting, unjudged));
        }
        self.next = self.next.saturating_add(1);
        match program.questions.try_send(ValidatorEvent::Judge(question(self.next))) {
            Ok(()) => program.undecided = program.undecided.saturating_add(1),
            Err(TrySendError::Full(_)) => return Some(Ruled::new(topic.to_owned(), waiting, unjudged)),
            Err(TrySendError::Closed(_)) => {
                self.attached.remove(topic);
                return Some(Ruled::new(topic.to_owned(), waiting, unjudged));
            }
        }
        self.bytes = self.bytes.saturating_add(weight);
        let deadline = MonoMs(now.0.saturating_add(settings.judging_ms.into()));
        let pending = Pending { topic: topic.to_owned(), deadline, closed: settings.closed, ruled: waiting };
        self.pending.insert(self.next, pending);
        None
    }

    /// Takes a verdict on a message of this topic; `None` when none such waits any more.
    pub(super) fn rule(&mut self, topic: &str, number: u64, ruling: Ruling) -> Option<Ruled> {
        self.pending.get(&number).filter(|pending| pending.topic == *topic)?;
        self.take(number).map(|pending| Ruled::new(pending.topic, pending.ruled, ruling))
    }

    fn take(&mut self, number: u64) -> Option<Pending> {
        let pending = self.pending.remove(&number)?;
        self.bytes = self.bytes.saturating_sub(pending.ruled.heard.weight());
        if let Some(program) = self.attached.get_mut(&pending.topic).filter(|program| number > program.before) {
            program.undecided = program.undecided.saturating_sub(1);
        }
        Some(pending)
    }

    /// When `due` may have something next.
    pub(super) fn wake(&self) -> Option<MonoMs> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    /// What was not judged in time, or whose validator has gone.
    pub(super) fn due(&mut self, now: MonoMs) -> Vec<Ruled> {
        self.attached.retain(|_, program| !program.questions.is_closed());
        let late = |pending: &Pending| now >= pending.deadline || !self.attached.contains_key(&pending.topic);
        let numbers: Vec<u64> = self.pending.iter().filter(|(_, p)| late(p)).map(|(number, _)| *number).collect();
        for number in &numbers {
            let topic = self.pending.get(number).map(|pending| &pending.topic);
            let program = topic.and_then(|topic| self.attached.get(topic));
            if let Some(program) = program.filter(|program| *number > program.before) {
                // One that reads nothing need not be told.
                let _ = program.questions.try_send(ValidatorEvent::Late(*number));
            }
        }
        let taken = numbers.into_iter().filter_map(|number| self.take(number));
        taken.map(|pending| Ruled::new(pending.topic, pending.ruled, default(pending.closed))).collect()
    }
}

fn default(closed: bool) -> Ruling {
    if closed { Ruling::Ignore } else { Ruling::Accept }
}

impl From<Ruling> for Verdict {
    fn from(ruling: Ruling) -> Self {
        match ruling {
            Ruling::Accept => Verdict::Accept,
            Ruling::Reject => Verdict::Reject("a validator rejected it"),
            Ruling::Ignore => Verdict::Ignore,
        }
    }
}
