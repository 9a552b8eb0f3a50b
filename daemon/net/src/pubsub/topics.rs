//! The topics this peer follows, each with its judge, and what it publishes on them.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, PublishError, TopicHash};
use p2pd_core::{
    time::{MonoMs, UnixMs},
    topic_settings::{self, Identity, TopicSettings},
};

use super::{
    Subscription,
    judge::{Class, Decision, Judge},
    message_id::{Gossipsub, Ids, MAX_NAME, Settings},
};
use crate::NetError;

/// Most topics this peer follows; gossipsub's default filter refuses peers that announce more than 100.
const MAX_TOPICS: usize = 100;
/// Those of programs, which leave room for streams.
const MAX_OPEN: usize = 80;
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
struct Topic {
    ident: IdentTopic,
    kind: &'static str,
    class: Class,
    judge: Box<dyn Judge>,
}

pub(super) struct Topics {
    topics: HashMap<TopicHash, Topic>,
    settings: Settings,
    scored: usize,
    scored_streams: usize,
}

impl Topics {
    pub(super) fn new(settings: Settings) -> Self {
        Topics { topics: HashMap::new(), settings, scored: 0, scored_streams: 0 }
    }

    pub(super) fn subscribe(
        &mut self,
        gossipsub: &mut Gossipsub,
        topic: &str,
        subscription: Subscription,
    ) -> Result<bool, NetError> {
        let Subscription { kind, class, judge } = subscription;
        if topic.is_empty() || topic.len() > MAX_NAME {
            return Err(NetError::Limit("a topic has 1 to 256 bytes"));
        }
        let ident = IdentTopic::new(topic);
        if let Some(followed) = self.topics.get(&ident.hash()) {
            let same = followed.kind == kind;
            return if same { Ok(false) } else { Err(NetError::Limit("this topic is in use in another format")) };
        }
        if self.topics.len() >= MAX_TOPICS {
            return Err(NetError::Limit("this daemon follows 100 topics already; peers would refuse more"));
        }
        let open = self.topics.values().filter(|topic| topic.class == Class::Messages).count();
        if class == Class::Messages && open >= MAX_OPEN {
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
        self.score(gossipsub, &ident, class);
        self.topics.insert(ident.hash(), Topic { ident, kind, class, judge });
        Ok(true)
    }

    /// Has peers gain and lose score by what they send on a topic.
    fn score(&mut self, gossipsub: &mut Gossipsub, topic: &IdentTopic, class: Class) {
        let (scored, most) = match class {
            Class::Messages => (&mut self.scored, MAX_SCORED),
            Class::Live | Class::Directory => (&mut self.scored_streams, MAX_SCORED_STREAMS),
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
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.topics.values().map(|t| t.ident.hash().into_string()).collect()
    }

    /// Publishes a message; its id and its sequence number. What every connection is too full for can be published again: nobody has got it.
    pub(super) fn publish(
        &mut self,
        gossipsub: &mut Gossipsub,
        me: &libp2p::PeerId,
        topic: &str,
        data: &Bytes,
        wall: UnixMs,
    ) -> Result<(Bytes, u64), NetError> {
        let topic = IdentTopic::new(topic);
        let settings = self.settings.of(&topic.hash());
        let data = if settings.max_age_ms > 0 { topic_settings::dated(data, wall) } else { data.to_vec() };
        let (sent, ids) = self.settings.publishing(|| gossipsub.publish(topic, data));
        let busy = matches!(sent, Err(PublishError::AllQueuesFull(_)));
        if let Some(Ids { everywhere, here, .. }) = &ids {
            if busy || (sent.is_ok() && here != everywhere) {
                // Not to be offered to peers beyond: nobody has got it, or they would know it by another name.
                gossipsub.report_message_validation_result(here, me, MessageAcceptance::Ignore);
            }
            if settings.identity == Identity::Content && (busy || sent.is_ok()) {
                self.settings.note_unsent(everywhere, busy);
            }
        }
        let known = |sent: MessageId| ids.map_or((sent, 0), |ids| (ids.everywhere, ids.number));
        sent.map(known).map(|(id, number)| (id.0.into(), number)).map_err(|error| match error {
            PublishError::NoPeersSubscribedToTopic => NetError::NoListeners,
            PublishError::AllQueuesFull(_) => NetError::Busy,
            PublishError::MessageTooLarge => NetError::TooLarge,
            PublishError::Duplicate => NetError::Duplicate,
            other => NetError::Setup(other.to_string()),
        })
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub(super) fn set_topic(&mut self, topic: &str, settings: Option<TopicSettings>) {
        self.settings.set(IdentTopic::new(topic).hash(), settings);
    }

    pub(super) fn is_followed(&self, topic: &TopicHash) -> bool {
        self.topics.contains_key(topic)
    }

    /// The judge of a topic and its class, if it is followed.
    pub(super) fn judge(&mut self, topic: &TopicHash) -> Option<(&mut (dyn Judge + 'static), Class)> {
        self.topics.get_mut(topic).map(|topic| (topic.judge.as_mut(), topic.class))
    }

    /// When `on_due` has something next.
    pub(super) fn due(&self) -> Option<MonoMs> {
        self.topics.values().filter_map(|topic| topic.judge.due()).min()
    }

    /// Verdicts that have become due, each with its topic and that one's class.
    pub(super) fn on_due(&mut self, now: MonoMs) -> Vec<(TopicHash, Class, Decision)> {
        let due = self.topics.iter_mut().filter(|(_, topic)| topic.judge.due().is_some_and(|at| at <= now));
        let decide = |(hash, topic): (&TopicHash, &mut Topic)| {
            let (hash, class) = (hash.clone(), topic.class);
            topic.judge.on_due(now).into_iter().map(move |decision| (hash.clone(), class, decision)).collect::<Vec<_>>()
        };
        due.flat_map(decide).collect()
    }
}

/// The connected peers that follow a topic.
pub(super) fn followers(gossipsub: &Gossipsub, topic: &TopicHash) -> Vec<libp2p::PeerId> {
    gossipsub.all_peers().filter(|(_, topics)| topics.contains(&topic)).map(|(peer, _)| *peer).collect()
}
