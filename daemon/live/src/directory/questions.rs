//! Questions of ours to the network, and the answers to those of others, each at a rate of its own.

use std::collections::{HashMap, VecDeque};

use p2pd_core::{
    bucket::Bucket,
    id::{PeerId, StreamId, StreamKey},
    time::MonoMs,
};
use p2pd_node::clock::wall;

use super::State;
use crate::{
    Live,
    directory::{
        message::{self, DirectoryMessage, Filter},
        state::HEARTBEAT_MS,
    },
    lock,
};

/// Least time between two questions of ours, in milliseconds.
const ASK_EVERY_MS: u64 = 300;
/// Publishers that were asked lately of whom only heartbeats came.
const MAX_ASKED: usize = 256;
/// Streams told in answers per second, and how many at once; peers take five a second of all that we say, and 40 at once.
const ANSWER_RATE: (u32, u32) = (1, 16);

/// What was asked, and is to be answered.
pub(super) struct Questions {
    asked: Option<MonoMs>,
    /// A question came too soon after the one before; all is asked for within a second.
    ask_later: bool,
    /// Which publishers were asked what their streams are, and when.
    asked_of: HashMap<PeerId, MonoMs>,
    answers: Bucket,
    /// Streams of ours that were asked for, each once, and by which question last.
    unanswered: VecDeque<(StreamId, String)>,
}

impl Questions {
    pub(super) fn new(now: MonoMs) -> Self {
        let answers = Bucket::full(now, ANSWER_RATE.1);
        Questions { asked: None, ask_later: false, asked_of: HashMap::new(), answers, unanswered: VecDeque::new() }
    }
}

impl Live {
    /// Asks the network for streams, at most about three times a second.
    pub(crate) async fn ask(&self, filter: Filter) {
        let now = self.0.with.clock.now();
        {
            let questions = &mut lock(&self.0.directory).questions;
            if questions.asked.is_some_and(|at| now.since(at) < ASK_EVERY_MS) {
                questions.ask_later = true;
                return;
            }
            questions.asked = Some(now);
        }
        let message = DirectoryMessage::Query { filter, request: format!("{}-{}", self.0.with.me, wall().0) };
        if let Ok(bytes) = message::encode(&message, &self.0.with.me, wall())
            && let Err(error) = self.0.with.net.pubsub.publish(&self.directory_topic(), bytes.into()).await
        {
            tracing::debug!(%error, "directory not asked");
        }
    }

    /// Asks a publisher what its stream is of which only heartbeats come, once in a while: heartbeats cost nothing.
    pub(super) async fn ask_once(&self, publisher: &PeerId) {
        let now = self.0.with.clock.now();
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
    pub(crate) async fn ask_pending(&self) {
        if std::mem::take(&mut lock(&self.0.directory).questions.ask_later) {
            self.ask(Filter::default()).await;
        }
    }

    /// Answers a question with those streams of ours that it asks for, each in its turn.
    pub(super) async fn answer_soon(&self, filter: &Filter, request: &str) {
        {
            let State { directory, questions, .. } = &mut *lock(&self.0.directory);
            let own = directory.iter().filter(|(key, _)| key.publisher == self.0.with.me);
            for (key, _) in own.filter(|(key, entry)| filter.matches(&key.publisher, &entry.metadata)) {
                // An answer is heard by all who ask.
                match questions.unanswered.iter_mut().find(|(stream, _)| *stream == key.stream) {
                    Some((_, waiting)) => request.clone_into(waiting),
                    None => questions.unanswered.push_back((key.stream.clone(), request.to_owned())),
                }
            }
        }
        self.answer_pending().await;
    }

    /// Answers what had to wait.
    pub(crate) async fn answer_pending(&self) {
        while let Some(message) = self.next_answer() {
            if let Ok(bytes) = message::encode(&message, &self.0.with.me, wall()) {
                let _ = self.0.with.net.pubsub.publish(&self.directory_topic(), bytes.into()).await;
            }
        }
    }

    /// One stream each, since several may not fit a message.
    fn next_answer(&self) -> Option<DirectoryMessage> {
        let now = self.0.with.clock.now();
        let State { directory, questions, .. } = &mut *lock(&self.0.directory);
        while let Some((stream, request)) = questions.unanswered.pop_front() {
            let key = StreamKey { publisher: self.0.with.me.clone(), stream };
            // It may have ended meanwhile.
            let Some(metadata) = directory.get(&key).map(|entry| entry.metadata.clone()) else { continue };
            if !questions.answers.take(now, ANSWER_RATE.0, ANSWER_RATE.1) {
                questions.unanswered.push_front((key.stream, request));
                return None;
            }
            return Some(DirectoryMessage::Response { request, streams: vec![(key.stream, metadata)] });
        }
        None
    }
}
