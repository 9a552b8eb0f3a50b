//! Gossipsub: the topics this peer follows, the judgement of every message before it is passed on, the history of
//! each stream and the repair of what is missing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError, TopicHash};
use p2pd_core::{
    admission::{self, Bucket, Verdict, Window},
    announce, audio_json,
    contract::{self, Identity, TopicSettings},
    group::{self, Group},
    history::History,
    id::{PeerId, StreamId, StreamKey},
    repair::Repair,
    time::{MonoMs, UnixMs},
};

use crate::{
    NetError,
    event::Incoming,
    fetch,
    message_id::ByContent,
    peers,
    validators::{Ruled, Ruling, ToJudge, Validators, Waiting},
};

/// Most topics this peer follows; gossipsub's default filter refuses peers that announce more than 100.
const MAX_TOPICS: usize = 100;
/// Most topics, of all that this peer ever followed, in which peers have a score. The library keeps each for good, some
/// 350 bytes. A program that follows more invents their names, and what others send there is its own affair.
const MAX_SCORED: usize = 20_000;
/// Directory messages per second that one peer may sign, and how many at once.
const DIRECTORY_RATE: (u32, u32) = (5, 40);
/// Most peers whose rate is remembered.
const MAX_BUCKETS: usize = 4096;
/// Milliseconds of audio that a newcomer asks for.
pub(crate) const BURST_MS: u32 = 2_000;

/// How messages of a topic are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRule {
    /// Directory messages: well-formed, fresh, speaking only for their signer.
    Directory,
    /// Groups of one stream, signed by its publisher.
    Native(StreamKey),
    /// The old audio format, of one stream id.
    Json(StreamId),
    /// Whatever its programs agree on.
    Open,
}

struct Topic {
    rule: TopicRule,
    ident: IdentTopic,
    window: Window,
    history: History,
    repair: Repair,
    /// Who was first to bring a group, how often; those are asked for what is missing.
    first: HashMap<libp2p::PeerId, u32>,
    turn: usize,
}

/// A message of the network after judgement: what to tell gossipsub, and the daemon.
pub(crate) struct Judged {
    pub(crate) acceptance: MessageAcceptance,
    pub(crate) incoming: Option<Incoming>,
}

/// Asks a peer for groups.
pub(crate) struct Ask {
    pub(crate) peer: libp2p::PeerId,
    pub(crate) request: fetch::Request,
}

pub(crate) struct Gossip {
    topics: HashMap<TopicHash, Topic>,
    /// Of topics of programs that have any.
    settings: HashMap<TopicHash, TopicSettings>,
    by_content: ByContent,
    pub(crate) validators: Validators,
    buckets: HashMap<libp2p::PeerId, Bucket>,
    scored: usize,
    repair: bool,
    drop_percent: u8,
    dropped_by_order: u64,
}

impl Gossip {
    pub(crate) fn new(config: &crate::Config, by_content: ByContent) -> Self {
        Gossip {
            topics: HashMap::new(),
            settings: HashMap::new(),
            by_content,
            validators: Validators::default(),
            buckets: HashMap::new(),
            scored: 0,
            repair: config.repair,
            drop_percent: config.drop_groups_percent,
            dropped_by_order: 0,
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        gossipsub: &mut gossipsub::Behaviour,
        topic: &str,
        rule: TopicRule,
    ) -> Result<(), NetError> {
        if topic.is_empty() || topic.len() > 256 {
            return Err(NetError::Limit("a topic has 1 to 256 bytes"));
        }
        let ident = IdentTopic::new(topic);
        if let Some(followed) = self.topics.get(&ident.hash()) {
            let same = followed.rule == rule;
            return if same { Ok(()) } else { Err(NetError::Limit("this topic is in use in another format")) };
        }
        if self.topics.len() >= MAX_TOPICS {
            return Err(NetError::Limit("this daemon follows 100 topics already; peers would refuse more"));
        }
        gossipsub.subscribe(&ident).map_err(|e| NetError::Setup(e.to_string()))?;
        // Three lies take a peer below gossipsub's threshold for gossip, and are forgotten within minutes. That a peer
        // delivers little is no fault: streams are quiet or sparse.
        // The library's defaults give a peer 1,800 points for four seconds in the mesh, which would pay for any lie.
        let params = || gossipsub::TopicScoreParams {
            time_in_mesh_weight: 0.01,
            time_in_mesh_quantum: Duration::from_secs(1),
            time_in_mesh_cap: 1000.0,
            first_message_deliveries_weight: 0.1,
            first_message_deliveries_cap: 100.0,
            invalid_message_deliveries_weight: -10.0,
            invalid_message_deliveries_decay: 0.99,
            mesh_message_deliveries_weight: 0.0,
            mesh_failure_penalty_weight: 0.0,
            ..gossipsub::TopicScoreParams::default()
        };
        if gossipsub.get_topic_params(&ident).is_none() && self.scored < MAX_SCORED {
            self.scored += 1;
            let _ = gossipsub.set_topic_params(ident.clone(), params());
        }
        let topic = Topic {
            rule,
            window: Window::default(),
            history: History::default(),
            repair: Repair::default(),
            first: HashMap::new(),
            turn: 0,
            ident: ident.clone(),
        };
        self.topics.insert(ident.hash(), topic);
        Ok(())
    }

    pub(crate) fn unsubscribe(&mut self, gossipsub: &mut gossipsub::Behaviour, topic: &str) {
        let ident = IdentTopic::new(topic);
        if self.topics.remove(&ident.hash()).is_some() {
            gossipsub.unsubscribe(&ident);
        }
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.values().map(|t| t.ident.hash().into_string()).collect()
    }

    pub(crate) fn publish(
        &mut self,
        gossipsub: &mut gossipsub::Behaviour,
        topic: &str,
        data: &Bytes,
        wall: UnixMs,
    ) -> Result<Bytes, NetError> {
        let topic = IdentTopic::new(topic);
        let dated = self.settings.get(&topic.hash()).is_some_and(|settings| settings.max_age_ms > 0);
        let data = if dated { contract::dated(data, wall) } else { data.to_vec() };
        gossipsub.publish(topic, data).map(|id| id.0.into()).map_err(|error| match error {
            PublishError::NoPeersSubscribedToTopic => NetError::NoListeners,
            PublishError::AllQueuesFull(_) => NetError::Busy,
            PublishError::MessageTooLarge => NetError::TooLarge,
            PublishError::Duplicate => NetError::Duplicate,
            other => NetError::Setup(other.to_string()),
        })
    }

    /// Keeps a group of our own for those who ask for it.
    pub(crate) fn keep(&mut self, topic: &str, group: Arc<Group>, now: MonoMs) {
        if let Some(topic) = self.topics.get_mut(&IdentTopic::new(topic).hash()) {
            topic.history.insert(now, group);
        }
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub(crate) fn set_topic(&mut self, topic: &str, settings: Option<TopicSettings>) {
        let hash = IdentTopic::new(topic).hash();
        let by_content = settings.filter(|settings| settings.identity == Identity::Content);
        self.by_content.set(&hash, by_content.map(|settings| if settings.max_age_ms > 0 { contract::TIME } else { 0 }));
        match settings {
            Some(settings) => self.settings.insert(hash, settings),
            None => self.settings.remove(&hash),
        };
    }

    /// Judges what gossip brought; `None` when a program has been asked to.
    pub(crate) fn judge(
        &mut self,
        from: &libp2p::PeerId,
        id: MessageId,
        message: gossipsub::Message,
        now: MonoMs,
        wall: UnixMs,
    ) -> Option<Judged> {
        let Some(source) = message.source else { return Some(rejected("unsigned", from)) };
        let Some(topic) = self.topics.get_mut(&message.topic) else {
            return Some(Judged { acceptance: MessageAcceptance::Ignore, incoming: None });
        };
        let sender = peers::from_libp2p(&source);
        let (verdict, incoming) = match &topic.rule {
            TopicRule::Directory => match announce::decode(&message.data, &sender) {
                Err(_) => (Verdict::Reject("not a truthful directory message"), None),
                Ok((said, time)) => match admission::judge_time(wall, time) {
                    Verdict::Accept if !within_rate(&mut self.buckets, source, now) => {
                        (Verdict::Ignore("too many"), None)
                    }
                    Verdict::Accept => (Verdict::Accept, Some(Incoming::Directory { sender, message: said, time })),
                    other => (other, None),
                },
            },
            TopicRule::Native(key) if key.publisher != sender => (Verdict::Reject("not the publisher"), None),
            TopicRule::Native(_) => {
                if dropped_by_order(self.drop_percent, &mut self.dropped_by_order) {
                    return Some(Judged { acceptance: MessageAcceptance::Ignore, incoming: None });
                }
                topic.group(Bytes::from(message.data), *from, now, wall, false)
            }
            TopicRule::Json(stream) => match audio_json::decode(&message.data, stream) {
                None => (Verdict::Reject("not a message of this stream"), None),
                Some((said, time)) => match admission::judge_time(wall, time) {
                    Verdict::Accept => {
                        let stream = stream.clone();
                        (Verdict::Accept, Some(Incoming::Audio { sender, stream, message: said }))
                    }
                    other => (other, None),
                },
            },
            TopicRule::Open => return self.judge_open(from, sender, id, message, now, wall),
        };
        Some(match verdict {
            Verdict::Accept => Judged { acceptance: MessageAcceptance::Accept, incoming },
            Verdict::Ignore(_) => Judged { acceptance: MessageAcceptance::Ignore, incoming: None },
            Verdict::Reject(why) => rejected(why, from),
        })
    }

    fn judge_open(
        &mut self,
        from: &libp2p::PeerId,
        sender: PeerId,
        id: MessageId,
        message: gossipsub::Message,
        now: MonoMs,
        wall: UnixMs,
    ) -> Option<Judged> {
        let gossipsub::Message { topic, data, .. } = message;
        let mut data = Bytes::from(data);
        let settings = self.settings.get(&topic).copied().unwrap_or_default();
        if settings.max_age_ms > 0 {
            match contract::undated(&mut data, settings.max_age_ms, wall) {
                Verdict::Accept => {}
                Verdict::Ignore(_) => return Some(Judged { acceptance: MessageAcceptance::Ignore, incoming: None }),
                Verdict::Reject(why) => return Some(rejected(why, from)),
            }
        }
        // Ignored and not rejected: other networks may allow more, and whoever passed it on did nothing wrong.
        if data.len() > usize::try_from(settings.max_message).unwrap_or(usize::MAX) {
            return Some(Judged { acceptance: MessageAcceptance::Ignore, incoming: None });
        }
        let (source, question) = (peers::from_libp2p(from), (sender.clone(), data.clone()));
        let question = |number| ToJudge { number, sender: question.0, source, data: question.1 };
        let number = Bytes::from(id.0.clone());
        let incoming = Incoming::Message { topic: topic.clone().into_string(), sender, data, id: number };
        let waiting = Waiting { id, source: *from, incoming };
        let Ruled(judged, ruling) = self.validators.ask(&topic, &settings, question, waiting, now)?;
        let incoming = (ruling == Ruling::Accept).then_some(judged.incoming);
        Some(Judged { acceptance: ruling.into(), incoming })
    }

    /// Judges what a peer sent because it was asked.
    pub(crate) fn fetched(
        &mut self,
        from: libp2p::PeerId,
        response: fetch::Response,
        now: MonoMs,
        wall: UnixMs,
    ) -> Vec<Incoming> {
        let Some(topic) = self.of_stream(&response.stream) else { return Vec::new() };
        let judge = |signed| topic.group(signed, from, now, wall, true).1;
        response.groups.into_iter().take(256).filter_map(judge).collect()
    }

    /// Answers a peer that asks for groups.
    pub(crate) fn answer(&mut self, request: &fetch::Request, now: MonoMs) -> fetch::Response {
        let Some(topic) = self.of_stream(&request.stream) else { return fetch::Response::default() };
        let groups = if request.last_ms > 0 {
            topic.history.last(now, request.last_ms.into())
        } else {
            topic.history.range(request.epoch, request.from, request.to)
        };
        let groups = groups.iter().map(|group| group.signed.clone()).collect();
        fetch::Response { groups, stream: request.stream.clone() }
    }

    /// The kept groups of the last `ms` milliseconds.
    pub(crate) fn recent(&self, topic: &str, ms: u64, now: MonoMs) -> Vec<Arc<Group>> {
        self.topics.get(&IdentTopic::new(topic).hash()).map(|t| t.history.last(now, ms)).unwrap_or_default()
    }

    fn of_stream(&mut self, stream: &Bytes) -> Option<&mut Topic> {
        self.topics
            .values_mut()
            .find(|t| matches!(&t.rule, TopicRule::Native(key) if group::stream_hash(key) == *stream))
    }

    /// Asks a peer that follows a stream for its last seconds, if we have nothing of it yet.
    pub(crate) fn burst(&self, topic: &TopicHash, peer: libp2p::PeerId) -> Option<Ask> {
        let topic = self.topics.get(topic)?;
        let TopicRule::Native(key) = &topic.rule else { return None };
        let wanted = topic.history.newest().is_none();
        let request = fetch::Request { stream: group::stream_hash(key), last_ms: BURST_MS, ..Default::default() };
        wanted.then_some(Ask { peer, request })
    }

    /// When `due` may have something next.
    pub(crate) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        let repairs = self.topics.values().filter(|_| self.repair).filter_map(|t| t.repair.wake(now));
        repairs.chain(self.validators.wake()).min()
    }

    /// What to ask for now, and whom.
    pub(crate) fn due(&mut self, gossipsub: &gossipsub::Behaviour, now: MonoMs) -> Vec<Ask> {
        let mut asks = Vec::new();
        if !self.repair {
            return asks;
        }
        for (hash, topic) in &mut self.topics {
            let TopicRule::Native(key) = &topic.rule else { continue };
            let stream = group::stream_hash(key);
            for (epoch, range) in topic.repair.due(now) {
                let followers =
                    gossipsub.all_peers().filter(|(_, topics)| topics.contains(&hash)).map(|(peer, _)| *peer);
                let mut best: Vec<libp2p::PeerId> = followers.collect();
                best.sort_by_key(|peer| std::cmp::Reverse(topic.first.get(peer).copied().unwrap_or(0)));
                best.truncate(3);
                topic.turn = topic.turn.wrapping_add(1);
                let Some(peer) = topic.turn.checked_rem(best.len()).and_then(|n| best.get(n)) else { continue };
                let request = fetch::Request {
                    stream: stream.clone(),
                    last_ms: 0,
                    epoch,
                    from: *range.start(),
                    to: *range.end(),
                };
                asks.push(Ask { peer: *peer, request });
            }
        }
        asks
    }
}

impl Topic {
    fn group(
        &mut self,
        signed: Bytes,
        from: libp2p::PeerId,
        now: MonoMs,
        wall: UnixMs,
        fetched: bool,
    ) -> (Verdict, Option<Incoming>) {
        let TopicRule::Native(key) = &self.rule else { return (Verdict::Ignore("not a native stream"), None) };
        let group = match group::verify(signed, key) {
            Ok(group) => Arc::new(group),
            Err(_) => return (Verdict::Reject("not a group of this stream"), None),
        };
        let verdict = self.window.admit(now, wall, &group.body);
        if verdict != Verdict::Accept {
            return (verdict, None);
        }
        self.history.insert(now, group.clone());
        let repaired = self.repair.arrived(now, group.body.epoch, group.body.seq, group.body.pts) && fetched;
        let key = key.clone();
        self.credit(from);
        (verdict, Some(Incoming::Group { key, group, repaired }))
    }

    /// Counts a first delivery; halved now and then, so that it follows the present.
    fn credit(&mut self, from: libp2p::PeerId) {
        let count = self.first.entry(from).or_default();
        *count = count.saturating_add(1);
        if *count >= 100 {
            self.first.retain(|_, n| {
                *n /= 2;
                *n > 0
            });
        }
    }
}

fn rejected(why: &'static str, from: &libp2p::PeerId) -> Judged {
    tracing::debug!(peer = %from, why, "message rejected");
    Judged { acceptance: MessageAcceptance::Reject, incoming: None }
}

fn within_rate(buckets: &mut HashMap<libp2p::PeerId, Bucket>, source: libp2p::PeerId, now: MonoMs) -> bool {
    if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&source) {
        buckets.clear();
    }
    let (rate, burst) = DIRECTORY_RATE;
    buckets.entry(source).or_insert_with(|| Bucket::full(now, burst)).take(now, rate, burst)
}

/// Spreads `percent` of 100 evenly, without chance, so that a test can say what was dropped.
fn dropped_by_order(percent: u8, count: &mut u64) -> bool {
    let before = *count * u64::from(percent) / 100;
    *count += 1;
    *count * u64::from(percent) / 100 > before
}
