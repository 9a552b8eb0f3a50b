//! Gossipsub: the topics this peer follows, and the judgement of every message before it is passed on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError, TopicHash};
use p2pd_core::{
    admission::{self, Bucket, Verdict},
    announce, audio_json,
    clock::Clocks,
    contract::{self, Identity, TopicSettings},
    group::{self, Group},
    id::{PeerId, StreamId, StreamKey},
    time::{MonoMs, UnixMs},
};

use crate::{
    NetError,
    event::{Incoming, TooLarge},
    fetch, peers,
    settings::{Gossipsub, Ids, Settings},
    stream::{Ask, Stream},
    validators::{Ruled, Ruling, ToJudge, Validators, Waiting},
};

/// Most topics this peer follows; gossipsub's default filter refuses peers that announce more than 100.
const MAX_TOPICS: usize = 100;
/// Topics of programs, of all that this peer ever followed, after which others are followed without a score: the library
/// keeps each for good, some 350 bytes. A program that follows so many invents their names.
const MAX_SCORED: usize = 20_000;
/// The same for topics of streams, of which a node that follows all that its network announces comes to many.
const MAX_SCORED_STREAMS: usize = 100_000;
/// Directory messages per second that one peer may sign, and how many at once.
const DIRECTORY_RATE: (u32, u32) = (5, 40);
/// Most peers whose rate is remembered.
const MAX_BUCKETS: usize = 4096;
/// Most groups taken from one answer.
const MAX_FETCHED: usize = 256;

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
}

/// A message of the network after judgement: what to tell the daemon, and gossipsub.
pub(crate) struct Judged {
    pub(crate) incoming: Option<Incoming>,
    pub(crate) report: Report,
}

/// What to tell gossipsub of a message.
pub(crate) enum Report {
    Now(MessageAcceptance),
    /// What [`Gossip::prove`] says, when there is time.
    Once(Unproven),
}

/// A group whose publisher gossip has proven, and whose own signature nobody has checked yet. Programs here may have it, others
/// may not.
pub(crate) struct Unproven {
    topic: TopicHash,
    group: Arc<Group>,
}

pub(crate) struct Gossip {
    topics: HashMap<TopicHash, Topic>,
    /// What belongs to those topics that carry native streams.
    streams: HashMap<TopicHash, Stream>,
    settings: Settings,
    pub(crate) validators: Validators,
    buckets: HashMap<PeerId, Bucket>,
    pub(crate) clocks: Clocks,
    scored: usize,
    scored_streams: usize,
    repair: bool,
    drop_percent: u8,
    dropped_by_order: u64,
}

impl Gossip {
    pub(crate) fn new(config: &crate::Config, settings: Settings) -> Self {
        Gossip {
            topics: HashMap::new(),
            streams: HashMap::new(),
            settings,
            validators: Validators::default(),
            buckets: HashMap::new(),
            clocks: Clocks::default(),
            scored: 0,
            scored_streams: 0,
            repair: config.repair,
            drop_percent: config.drop_groups_percent,
            dropped_by_order: 0,
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        gossipsub: &mut Gossipsub,
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
        self.score(gossipsub, &ident, &rule);
        if let TopicRule::Native(key) = &rule {
            self.streams.insert(ident.hash(), Stream::new(key.clone()));
        }
        self.topics.insert(ident.hash(), Topic { rule, ident });
        Ok(())
    }

    /// Has peers gain and lose score by what they send on a topic.
    fn score(&mut self, gossipsub: &mut Gossipsub, topic: &IdentTopic, rule: &TopicRule) {
        let (scored, most) = match rule {
            TopicRule::Open => (&mut self.scored, MAX_SCORED),
            TopicRule::Directory | TopicRule::Native(_) | TopicRule::Json(_) => {
                (&mut self.scored_streams, MAX_SCORED_STREAMS)
            }
        };
        if gossipsub.get_topic_params(topic).is_some() || *scored >= most {
            return;
        }
        *scored += 1;
        // Three lies take a peer below gossipsub's threshold for gossip, and are forgotten within minutes. That a peer
        // delivers little is no fault: streams are quiet or sparse.
        // The library's defaults give a peer 1,800 points for four seconds in the mesh, which would pay for any lie.
        let params = gossipsub::TopicScoreParams {
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
        let _ = gossipsub.set_topic_params(topic.clone(), params);
    }

    pub(crate) fn unsubscribe(&mut self, gossipsub: &mut Gossipsub, topic: &str) {
        let ident = IdentTopic::new(topic);
        if self.topics.remove(&ident.hash()).is_some() {
            gossipsub.unsubscribe(&ident);
            self.streams.remove(&ident.hash());
        }
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.values().map(|t| t.ident.hash().into_string()).collect()
    }

    /// Publishes a message; its id. What every connection is too full for can be published again: nobody has got it.
    pub(crate) fn publish(
        &mut self,
        gossipsub: &mut Gossipsub,
        me: &libp2p::PeerId,
        topic: &str,
        data: &Bytes,
        wall: UnixMs,
    ) -> Result<Bytes, NetError> {
        let topic = IdentTopic::new(topic);
        let settings = self.settings.of(&topic.hash());
        let data = if settings.max_age_ms > 0 { contract::dated(data, wall) } else { data.to_vec() };
        let (sent, ids) = self.settings.publishing(|| gossipsub.publish(topic, data));
        let busy = matches!(sent, Err(PublishError::AllQueuesFull(_)));
        if let Some(Ids { everywhere, here }) = &ids {
            if busy || (sent.is_ok() && here != everywhere) {
                // Not to be offered to peers beyond: nobody has got it, or they would know it by another name.
                gossipsub.report_message_validation_result(here, me, MessageAcceptance::Ignore);
            }
            if settings.identity == Identity::Content && (busy || sent.is_ok()) {
                self.settings.note_unsent(everywhere, busy);
            }
        }
        let id = |sent: MessageId| ids.map_or(sent, |ids| ids.everywhere).0.into();
        sent.map(id).map_err(|error| match error {
            PublishError::NoPeersSubscribedToTopic => NetError::NoListeners,
            PublishError::AllQueuesFull(_) => NetError::Busy,
            PublishError::MessageTooLarge => NetError::TooLarge,
            PublishError::Duplicate => NetError::Duplicate,
            other => NetError::Setup(other.to_string()),
        })
    }

    /// Keeps a group of our own for those who ask for it.
    pub(crate) fn keep(&mut self, topic: &str, group: Arc<Group>, now: MonoMs) {
        if let Some(stream) = self.streams.get_mut(&IdentTopic::new(topic).hash()) {
            stream.keep(group, now);
        }
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub(crate) fn set_topic(&mut self, topic: &str, settings: Option<TopicSettings>) {
        self.settings.set(IdentTopic::new(topic).hash(), settings);
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
        let (sender, own) = (message.source.as_ref().map(peers::from_libp2p), message.source == Some(*from));
        let Some(topic) = self.topics.get(&message.topic) else {
            return Some(ignored());
        };
        if let Some(refused) = self.too_large(topic, &message) {
            return Some(refused);
        }
        let (verdict, incoming) = match (&topic.rule, sender) {
            (TopicRule::Open, sender) => return self.judge_open(from, sender, id, message, now, wall),
            (_, None) => (Verdict::Reject("unsigned"), None),
            (TopicRule::Directory, Some(sender)) => match announce::decode(&message.data, &sender) {
                Err(_) => (Verdict::Reject("not a truthful directory message"), None),
                Ok((said, time)) => match timely(&mut self.clocks, now, wall, &sender, time) {
                    Verdict::Accept if !within_rate(&mut self.buckets, &sender, now) => {
                        (Verdict::Ignore("too many"), None)
                    }
                    Verdict::Accept => (Verdict::Accept, Some(Incoming::Directory { sender, message: said, time })),
                    other => (other, None),
                },
            },
            (TopicRule::Native(key), Some(sender)) if key.publisher != sender => {
                (Verdict::Reject("not the publisher"), None)
            }
            (TopicRule::Native(_), Some(_)) => {
                if dropped_by_order(self.drop_percent, &mut self.dropped_by_order) {
                    return Some(ignored());
                }
                let Some(stream) = self.streams.get_mut(&message.topic) else { return Some(ignored()) };
                match stream.gossiped(message.data.into(), now, wall, &mut self.clocks) {
                    Ok((group, incoming)) => {
                        let report = Report::Once(Unproven { topic: message.topic, group });
                        return Some(Judged { incoming: Some(incoming), report });
                    }
                    Err(verdict) => (verdict, None),
                }
            }
            (TopicRule::Json(stream), Some(sender)) => match audio_json::decode(&message.data, stream) {
                None => (Verdict::Reject("not a message of this stream"), None),
                Some((said, time)) => match timely(&mut self.clocks, now, wall, &sender, time) {
                    Verdict::Accept => {
                        let stream = stream.clone();
                        (Verdict::Accept, Some(Incoming::Audio { sender, stream, message: said }))
                    }
                    other => (other, None),
                },
            },
        };
        Some(judged(verdict.forgiving_own_clock(own), incoming, from))
    }

    /// Refuses a message that is larger than its topic takes.
    fn too_large(&self, topic: &Topic, message: &gossipsub::Message) -> Option<Judged> {
        let bytes = message.data.len();
        let most = match topic.rule {
            TopicRule::Directory => announce::MAX_MESSAGE,
            TopicRule::Native(_) => group::MAX_GROUP,
            TopicRule::Json(_) => audio_json::MAX_MESSAGE,
            TopicRule::Open => {
                let settings = self.settings.of(&message.topic);
                let time = if settings.max_age_ms > 0 { contract::TIME } else { 0 };
                usize::try_from(settings.max_message).unwrap_or(usize::MAX).saturating_add(time)
            }
        };
        if bytes <= most {
            return None;
        }
        let acceptance = match topic.rule {
            TopicRule::Directory | TopicRule::Native(_) => MessageAcceptance::Reject,
            // Other networks may allow more, and whoever passed it on did nothing wrong.
            TopicRule::Json(_) | TopicRule::Open => MessageAcceptance::Ignore,
        };
        let (topic, rule) = (message.topic.clone().into_string(), topic.rule.clone());
        let sender = message.source.as_ref().map(peers::from_libp2p);
        // Of what a stranger sends on a native stream nothing is missing.
        let forged = matches!(&rule, TopicRule::Native(key) if sender.as_ref() != Some(&key.publisher));
        let incoming = Incoming::TooLarge(TooLarge { topic, rule, sender, bytes, most });
        Some(Judged { incoming: (!forged).then_some(incoming), report: Report::Now(acceptance) })
    }

    fn judge_open(
        &mut self,
        from: &libp2p::PeerId,
        sender: Option<PeerId>,
        id: MessageId,
        message: gossipsub::Message,
        now: MonoMs,
        wall: UnixMs,
    ) -> Option<Judged> {
        let gossipsub::Message { topic, data, .. } = message;
        let mut data = Bytes::from(data);
        let settings = self.settings.of(&topic);
        if settings.max_age_ms > 0 {
            let verdict = contract::undated(&mut data, settings.max_age_ms, wall);
            if verdict != Verdict::Accept {
                return Some(judged(verdict, None, from));
            }
        }
        let (source, question) = (peers::from_libp2p(from), (sender.clone(), data.clone()));
        let question = |number| ToJudge { number, sender: question.0, source, data: question.1 };
        let number = Bytes::from(id.0.clone());
        let incoming = Incoming::Message { topic: topic.clone().into_string(), sender, data, id: number };
        let waiting = Waiting { id, source: *from, incoming };
        let Ruled(judged, ruling) = self.validators.ask(&topic, &settings, question, waiting, now)?;
        let incoming = (ruling == Ruling::Accept).then_some(judged.incoming);
        Some(Judged { incoming, report: Report::Now(ruling.into()) })
    }

    /// Checks the signature of a group, and keeps it for those who ask.
    pub(crate) fn prove(&mut self, unproven: Unproven, from: &libp2p::PeerId, now: MonoMs) -> MessageAcceptance {
        let Some(stream) = self.streams.get_mut(&unproven.topic) else { return MessageAcceptance::Ignore };
        acceptance(stream.prove(unproven.group, *from, now), from)
    }

    /// Judges what a peer sent because it was asked.
    pub(crate) fn fetched(
        &mut self,
        from: libp2p::PeerId,
        response: fetch::Response,
        now: MonoMs,
        wall: UnixMs,
    ) -> Vec<Incoming> {
        let Some(stream) = self.streams.values_mut().find(|s| s.is(&response.stream)) else { return Vec::new() };
        let groups = response.groups.into_iter().take(MAX_FETCHED);
        groups.filter_map(|signed| stream.fetched(signed, from, now, wall)).collect()
    }

    /// Answers a peer that asks for groups.
    pub(crate) fn answer(&self, request: &fetch::Request, now: MonoMs) -> fetch::Response {
        let stream = self.streams.values().find(|s| s.is(&request.stream));
        stream.map(|s| s.answer(request, now)).unwrap_or_default()
    }

    /// The kept groups of the last `ms` milliseconds.
    pub(crate) fn recent(&self, topic: &str, ms: u64, now: MonoMs) -> Vec<Arc<Group>> {
        self.streams.get(&IdentTopic::new(topic).hash()).map(|s| s.recent(ms, now)).unwrap_or_default()
    }

    /// Asks a peer that follows a stream for its last seconds, if we have nothing of it yet.
    pub(crate) fn burst(&self, topic: &TopicHash, peer: libp2p::PeerId) -> Option<Ask> {
        self.streams.get(topic)?.burst(peer)
    }

    /// When `due` may have something next.
    pub(crate) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        let repairs = self.streams.values().filter(|_| self.repair).filter_map(|s| s.wake(now));
        repairs.chain(self.validators.wake()).min()
    }

    /// What to ask for now, and whom.
    pub(crate) fn due(&mut self, gossipsub: &Gossipsub, now: MonoMs) -> Vec<Ask> {
        if !self.repair {
            return Vec::new();
        }
        let asks = |(topic, stream): (&TopicHash, &mut Stream)| stream.due(|| followers(gossipsub, topic), now);
        self.streams.iter_mut().flat_map(asks).collect()
    }
}

/// The connected peers that follow a topic.
pub(crate) fn followers(gossipsub: &Gossipsub, topic: &TopicHash) -> Vec<libp2p::PeerId> {
    gossipsub.all_peers().filter(|(_, topics)| topics.contains(&topic)).map(|(peer, _)| *peer).collect()
}

/// Judges the time of a message, and notes what it tells of its sender's clock.
fn timely(clocks: &mut Clocks, now: MonoMs, wall: UnixMs, sender: &PeerId, time: UnixMs) -> Verdict {
    clocks.heard(now, sender, time);
    admission::judge_time(wall, time)
}

fn judged(verdict: Verdict, incoming: Option<Incoming>, from: &libp2p::PeerId) -> Judged {
    let incoming = incoming.filter(|_| verdict == Verdict::Accept);
    Judged { incoming, report: Report::Now(acceptance(verdict, from)) }
}

fn acceptance(verdict: Verdict, from: &libp2p::PeerId) -> MessageAcceptance {
    match verdict {
        Verdict::Accept => MessageAcceptance::Accept,
        Verdict::Ignore(_) => MessageAcceptance::Ignore,
        Verdict::Reject(why) => {
            tracing::debug!(peer = %from, why, "message rejected");
            MessageAcceptance::Reject
        }
    }
}

fn ignored() -> Judged {
    Judged { incoming: None, report: Report::Now(MessageAcceptance::Ignore) }
}

fn within_rate(buckets: &mut HashMap<PeerId, Bucket>, sender: &PeerId, now: MonoMs) -> bool {
    if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(sender) {
        buckets.clear();
    }
    let (rate, burst) = DIRECTORY_RATE;
    buckets.entry(sender.clone()).or_insert_with(|| Bucket::full(now, burst)).take(now, rate, burst)
}

/// Spreads `percent` of 100 evenly, without chance, so that a test can say what was dropped.
fn dropped_by_order(percent: u8, count: &mut u64) -> bool {
    let before = *count * u64::from(percent) / 100;
    *count += 1;
    *count * u64::from(percent) / 100 > before
}
