//! The topics this peer follows, and what it publishes, keeps and asks for on them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError, TopicHash};
use p2pd_core::{
    clock::Clocks,
    contract::{self, Identity, TopicSettings},
    group::Group,
    id::{PeerId, StreamId, StreamKey},
    rate::Buckets,
    time::{MonoMs, UnixMs},
};

use super::{
    message_id::{Gossipsub, Ids, Settings},
    validators::Validators,
};
use crate::{
    NetError,
    event::Incoming,
    fetch,
    stream::{Ask, Stream},
};

/// Most topics this peer follows; gossipsub's default filter refuses peers that announce more than 100.
const MAX_TOPICS: usize = 100;
/// Those of programs, which leave room for streams.
const MAX_OPEN: usize = 80;
/// Bytes in the name of one.
pub(crate) const MAX_NAME: usize = 256;
/// Bytes of control data in which all of them are told to a new peer: rust-libp2p closes the substream of a peer that sends more than
/// 16 KiB, for good.
const MAX_GREETING: usize = 15 * 1024;
/// What each takes beside its name.
const SUBSCRIPTION: usize = 9;
/// Topics of programs, of all that this peer ever followed, after which others are followed without a score: the library
/// keeps each for good, some 350 bytes. A program that follows so many invents their names.
const MAX_SCORED: usize = 20_000;
/// The same for topics of streams, of which a node that follows all that its network announces comes to many.
const MAX_SCORED_STREAMS: usize = 100_000;
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

pub(super) struct Topic {
    pub(super) rule: TopicRule,
    pub(super) ident: IdentTopic,
}

pub(super) struct Topics {
    pub(super) topics: HashMap<TopicHash, Topic>,
    /// What belongs to those topics that carry native streams.
    pub(super) streams: HashMap<TopicHash, Stream>,
    pub(super) settings: Settings,
    pub(super) validators: Validators,
    /// Directory messages by who signed them, and by who brought them.
    pub(super) signed: Buckets<PeerId>,
    pub(super) brought: Buckets<libp2p::PeerId>,
    pub(super) clocks: Clocks,
    scored: usize,
    scored_streams: usize,
    repair: bool,
    pub(super) drop_percent: u8,
    pub(super) dropped_by_order: u64,
}

impl Topics {
    pub(super) fn new(settings: Settings, repair: bool, drop_percent: u8) -> Self {
        Topics {
            topics: HashMap::new(),
            streams: HashMap::new(),
            settings,
            validators: Validators::default(),
            signed: Buckets::new(MAX_BUCKETS),
            brought: Buckets::new(MAX_BUCKETS),
            clocks: Clocks::default(),
            scored: 0,
            scored_streams: 0,
            repair,
            drop_percent,
            dropped_by_order: 0,
        }
    }

    pub(super) fn subscribe(
        &mut self,
        gossipsub: &mut Gossipsub,
        topic: &str,
        rule: TopicRule,
    ) -> Result<(), NetError> {
        if topic.is_empty() || topic.len() > MAX_NAME {
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
        let open = self.topics.values().filter(|topic| topic.rule == TopicRule::Open).count();
        if rule == TopicRule::Open && open >= MAX_OPEN {
            return Err(NetError::Limit("programs here follow 80 topics already; the rest is for streams"));
        }
        let told = |topic: &str| topic.len().saturating_add(SUBSCRIPTION);
        let all = self
            .topics
            .values()
            .map(|topic| told(topic.ident.hash().as_str()))
            .fold(told(topic), usize::saturating_add);
        if all > MAX_GREETING {
            return Err(NetError::Limit(
                "the topics followed here have names of 15 KiB together; peers would refuse more",
            ));
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

    pub(super) fn unsubscribe(&mut self, gossipsub: &mut Gossipsub, topic: &str) {
        let ident = IdentTopic::new(topic);
        if self.topics.remove(&ident.hash()).is_some() {
            gossipsub.unsubscribe(&ident);
            self.streams.remove(&ident.hash());
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.topics.values().map(|t| t.ident.hash().into_string()).collect()
    }

    /// Publishes a message; its id. What every connection is too full for can be published again: nobody has got it.
    pub(super) fn publish(
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
    pub(super) fn keep(&mut self, topic: &str, group: Arc<Group>, now: MonoMs) {
        if let Some(stream) = self.streams.get_mut(&IdentTopic::new(topic).hash()) {
            stream.keep(group, now);
        }
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub(super) fn set_topic(&mut self, topic: &str, settings: Option<TopicSettings>) {
        self.settings.set(IdentTopic::new(topic).hash(), settings);
    }

    /// Judges what a peer sent because it was asked.
    pub(super) fn fetched(
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
    pub(super) fn answer(&self, request: &fetch::Request, now: MonoMs) -> fetch::Response {
        let stream = self.streams.values().find(|s| s.is(&request.stream));
        stream.map(|s| s.answer(request, now)).unwrap_or_default()
    }

    /// The kept groups of the last `ms` milliseconds.
    pub(super) fn recent(&self, topic: &str, ms: u64, now: MonoMs) -> Vec<Arc<Group>> {
        self.streams.get(&IdentTopic::new(topic).hash()).map(|s| s.recent(ms, now)).unwrap_or_default()
    }

    /// Asks a peer that follows a stream for its last seconds, if we have nothing of it yet.
    pub(super) fn burst(&self, topic: &TopicHash, peer: libp2p::PeerId) -> Option<Ask> {
        self.streams.get(topic)?.burst(peer)
    }

    /// When `due` may have something next.
    pub(super) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        let repairs = self.streams.values().filter(|_| self.repair).filter_map(|s| s.wake(now));
        repairs.chain(self.validators.wake()).min()
    }

    /// What to ask for now, and whom.
    pub(super) fn due(&mut self, gossipsub: &Gossipsub, now: MonoMs) -> Vec<Ask> {
        if !self.repair {
            return Vec::new();
        }
        let asks = |(topic, stream): (&TopicHash, &mut Stream)| stream.due(|| followers(gossipsub, topic), now);
        self.streams.iter_mut().flat_map(asks).collect()
    }
}

/// The connected peers that follow a topic.
pub(super) fn followers(gossipsub: &Gossipsub, topic: &TopicHash) -> Vec<libp2p::PeerId> {
    gossipsub.all_peers().filter(|(_, topics)| topics.contains(&topic)).map(|(peer, _)| *peer).collect()
}
