//! Questions of ours to the network, and the answers to those of others, each at a rate of its own.

use std::collections::{HashMap, VecDeque};

use p2pd_core::{
    admission::Bucket,
    announce::{self, DirectoryMessage, Filter},
    directory::HEARTBEAT_MS,
    id::PeerId,
    time::MonoMs,
};

use crate::node::{Node, lock, wall};

/// Least time between two questions of ours, in milliseconds.
const ASK_EVERY_MS: u64 = 300;
/// Publishers that were asked lately of whom only heartbeats came.
const MAX_ASKED: usize = 256;
/// Questions answered per second, and how many at once.
const ANSWER_RATE: (u32, u32) = (1, 8);
/// Questions that wait for their answer; others are not answered, and heartbeats tell those who asked.
const MAX_UNANSWERED: usize = 16;

/// What was asked, and is to be answered.
pub(super) struct Questions {
    asked: Option<MonoMs>,
    /// A question came too soon after the one before; all is asked for within a second.
    ask_later: bool,
    /// Which publishers were asked what their streams are, and when.
    asked_of: HashMap<PeerId, MonoMs>,
    answers: Bucket,
    unanswered: VecDeque<(Filter, String)>,
}

impl Questions {
    pub(super) fn new(now: MonoMs) -> Self {
        let answers = Bucket::full(now, ANSWER_RATE.1);
        Questions { asked: None, ask_later: false, asked_of: HashMap::new(), answers, unanswered: VecDeque::new() }
    }
}

impl Node {
    /// Asks the network for streams, at most about three times a second.
    pub(in crate::node) async fn ask(&self, filter: Filter) {
        let now = self.now();
        {
            let questions = &mut lock(&self.0.directory).questions;
            if questions.asked.is_some_and(|at| now.since(at) < ASK_EVERY_MS) {
                questions.ask_later = true;
                return;
            }
            questions.asked = Some(now);
        }
        let message = DirectoryMessage::Query { filter, request: format!("{}-{}", self.0.me, wall().0) };
        if let Ok(bytes) = announce::encode(&message, &self.0.me, wall())
            && let Err(error) = self.0.net.publish(&self.directory_topic(), bytes.into()).await
        {
            tracing::debug!(%error, "directory not asked");
        }
    }

    /// Asks a publisher what its stream is of which only heartbeats come, once in a while: heartbeats cost nothing.
    pub(super) async fn ask_once(&self, publisher: &PeerId) {
        let now = self.now();
        {
            let asked = &mut lock(&self.0.directory).questions.asked_of;
            asked.retain(|_, at| now.since(*at) < HEARTBEAT_MS);
            if asked.contains_key(publisher) || asked.len() >= MAX_ASKED {
                return;
            }
            asked.insert(publisher.clone(), now);
        }
        self.ask(Filter { publisher: Some(publisher.to_string()), ..Filter::default() }).await;
    }

    /// Asks what could not be asked before.
    pub(in crate::node) async fn ask_pending(&self) {
        if std::mem::take(&mut lock(&self.0.directory).questions.ask_later) {
            self.ask(Filter::default()).await;
        }
    }

    /// Answers a question, or has it wait for its turn: a flood of them holds up nothing else.
    pub(super) async fn answer_soon(&self, filter: Filter, request: String) {
        let now = self.now();
        {
            let questions = &mut lock(&self.0.directory).questions;
            if !questions.answers.take(now, ANSWER_RATE.0, ANSWER_RATE.1) {
                if questions.unanswered.len() < MAX_UNANSWERED {
                    questions.unanswered.push_back((filter, request));
                }
                return;
            }
        }
        self.answer(&filter, request).await;
    }

    /// Answers what had to wait.
    pub(in crate::node) async fn answer_pending(&self) {
        let next = lock(&self.0.directory).questions.unanswered.pop_front();
        let Some((filter, request)) = next else { return };
        self.answer_soon(filter, request).await;
    }

    async fn answer(&self, filter: &Filter, request: String) {
        let own: Vec<_> = {
            let state = lock(&self.0.directory);
            let own = state
                .directory
                .iter()
                .filter(|(key, e)| key.publisher == self.0.me && filter.matches(&key.publisher, &e.metadata));
            own.map(|(key, entry)| (key.stream.clone(), entry.metadata.clone())).collect()
        };
        // One stream each, since several may not fit a message.
        for stream in own {
            let message = DirectoryMessage::Response { request: request.clone(), streams: vec![stream] };
            if let Ok(bytes) = announce::encode(&message, &self.0.me, wall()) {
                let _ = self.0.net.publish(&self.directory_topic(), bytes.into()).await;
            }
        }
    }
}
