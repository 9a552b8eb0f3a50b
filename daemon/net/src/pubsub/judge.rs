//! The judgement of every message, before programs and other peers get it.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId, TopicHash};
use p2pd_core::{
    admission::{self, Verdict},
    announce, audio_json,
    clock::Clocks,
    contract,
    group::{self, Group},
    id::PeerId,
    time::{MonoMs, UnixMs},
};

use super::{
    topics::{Topic, TopicRule, Topics},
    validators::{Ruled, Ruling, ToJudge, Waiting},
};
use crate::{
    event::{Incoming, TooLarge},
    ids,
};

/// Directory messages per second that one peer may sign, and how many at once.
const DIRECTORY_RATE: (u32, u32) = (5, 40);
/// The same that one neighbour may bring, whoever signed them: a full directory told twice in 30 s is 273 a second.
const BROUGHT_RATE: (u32, u32) = (300, 4096);

/// A message of the network after judgement: what to tell the daemon, and gossipsub.
pub(crate) struct Judged {
    pub(crate) incoming: Option<Incoming>,
    pub(crate) report: Report,
}

/// What to tell gossipsub of a message.
pub(crate) enum Report {
    Now(MessageAcceptance),
    /// What [`Topics::prove`] says, when there is time.
    Once(Unproven),
}

/// A group whose publisher gossip has proven, and whose own signature nobody has checked yet. Programs here may have it, others
/// may not.
pub(crate) struct Unproven {
    pub(super) topic: TopicHash,
    pub(super) group: Arc<Group>,
}

impl Topics {
    /// Judges what gossip brought; `None` when a program has been asked to. `connected`: with whoever signed it.
    pub(super) fn judge(
        &mut self,
        from: &libp2p::PeerId,
        id: MessageId,
        message: gossipsub::Message,
        connected: bool,
        now: MonoMs,
        wall: UnixMs,
    ) -> Option<Judged> {
        let (sender, own) = (message.source.as_ref().map(ids::from_libp2p), message.source == Some(*from));
        let Some(topic) = self.topics.get(&message.topic) else {
            return Some(ignored());
        };
        if let Some(refused) = self.too_large(topic, &message) {
            return Some(refused);
        }
        let (verdict, incoming) = match (&topic.rule, sender) {
            (TopicRule::Open, sender) => return self.judge_open(from, sender, id, message, now, wall),
            (_, None) => (Verdict::Reject("unsigned"), None),
            // What is ignored is not heard from others either: a flooder must not have it so for publishers of ours.
            (TopicRule::Directory, Some(sender))
                if !connected
                    && !self.follows(&sender)
                    && !self.brought.take(now, from, BROUGHT_RATE.0, BROUGHT_RATE.1) =>
            {
                (Verdict::Ignore("too many by one neighbour"), None)
            }
            (TopicRule::Directory, Some(sender)) => match announce::decode(&message.data, &sender) {
                Err(_) => (Verdict::Reject("not a truthful directory message"), None),
                Ok((said, time)) => match timely(&mut self.clocks, now, wall, &sender, time, own) {
                    Verdict::Accept if !self.signed.take(now, &sender, DIRECTORY_RATE.0, DIRECTORY_RATE.1) => {
                        (Verdict::Ignore("too many"), None)
                    }
                    Verdict::Accept => {
                        let via = ids::from_libp2p(from);
                        (Verdict::Accept, Some(Incoming::Directory { via, sender, message: said, time }))
                    }
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
                match stream.gossiped(message.data.into(), now, wall) {
                    Ok((group, incoming)) => {
                        let report = Report::Once(Unproven { topic: message.topic, group });
                        return Some(Judged { incoming: Some(incoming), report });
                    }
                    Err(verdict) => (verdict, None),
                }
            }
            (TopicRule::Json(stream), Some(sender)) => match audio_json::decode(&message.data, stream) {
                None => (Verdict::Reject("not a message of this stream"), None),
                Some((said, time)) => match timely(&mut self.clocks, now, wall, &sender, time, own) {
                    Verdict::Accept => {
                        let stream = stream.clone();
                        (Verdict::Accept, Some(Incoming::Audio { sender, stream, message: said }))
                    }
                    other => (other, None),
                },
            },
        };
        Some(judged(verdict, incoming, from))
    }

    /// Checks the signature of a group, and keeps it for those who ask.
    pub(super) fn prove(&mut self, unproven: Unproven, from: &libp2p::PeerId, now: MonoMs) -> MessageAcceptance {
        let Some(stream) = self.streams.get_mut(&unproven.topic) else { return MessageAcceptance::Ignore };
        acceptance(stream.prove(unproven.group, *from, now), from)
    }

    /// Whether a stream of a publisher is followed.
    fn follows(&self, publisher: &PeerId) -> bool {
        self.topics.values().any(|topic| matches!(&topic.rule, TopicRule::Native(key) if key.publisher == *publisher))
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
        let sender = message.source.as_ref().map(ids::from_libp2p);
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
        let (source, question) = (ids::from_libp2p(from), (sender.clone(), data.clone()));
        let question = |number| ToJudge { number, sender: question.0, source, data: question.1 };
        let number = Bytes::from(id.0.clone());
        let incoming = Incoming::Message { topic: topic.clone().into_string(), sender, data, id: number };
        let waiting = Waiting { id, source: *from, incoming };
        let Ruled(judged, ruling) = self.validators.ask(&topic, &settings, question, waiting, now)?;
        let incoming = (ruling == Ruling::Accept).then_some(judged.incoming);
        Some(Judged { incoming, report: Report::Now(ruling.into()) })
    }
}

/// Judges the time of a message; one of its sender's `own` sending tells about the sender's clock.
fn timely(clocks: &mut Clocks, now: MonoMs, wall: UnixMs, sender: &PeerId, time: UnixMs, own: bool) -> Verdict {
    if own {
        clocks.heard(now, sender, time);
    }
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

/// Spreads `percent` of 100 evenly, without chance, so that a test can say what was dropped.
fn dropped_by_order(percent: u8, count: &mut u64) -> bool {
    let before = *count * u64::from(percent) / 100;
    *count += 1;
    *count * u64::from(percent) / 100 > before
}

#[cfg(test)]
mod tests {
    use libp2p::gossipsub::IdentTopic;
    use p2pd_core::announce::{DirectoryMessage, Filter};

    use super::*;
    use crate::pubsub::message_id::Settings;

    #[test]
    fn only_what_a_peer_sends_itself_tells_of_its_clock() {
        let ident = IdentTopic::new("directory");
        let mut topics = Topics::new(Settings::default(), true, 0);
        topics.topics.insert(ident.hash(), Topic { rule: TopicRule::Directory, ident: ident.clone() });
        let (relay, wall) = (libp2p::PeerId::random(), UnixMs(1_700_000_000_000));
        let mut heard = |from: libp2p::PeerId, signer: libp2p::PeerId| {
            let query = DirectoryMessage::Query { filter: Filter::default(), request: "1".into() };
            let late = UnixMs(wall.0 - 120_000);
            let data = announce::encode(&query, &ids::from_libp2p(&signer), late).unwrap();
            let (source, topic) = (Some(signer), ident.hash());
            let message = gossipsub::Message { source, data, sequence_number: Some(1), topic };
            let judged = topics.judge(&from, MessageId::new(b"1"), message, false, MonoMs(0), wall).unwrap();
            assert!(judged.incoming.is_some(), "two minutes late is taken");
            topics.clocks.judge(MonoMs(0), wall, |_| true).of
        };
        let relayed: Vec<usize> = (0..100).map(|_| heard(relay, libp2p::PeerId::random())).collect();
        assert_eq!(relayed, [0; 100]);
        assert_eq!(heard(relay, relay), 1);
    }

    #[test]
    fn one_neighbour_brings_so_many_whoever_has_signed_them() {
        let ident = IdentTopic::new("directory");
        let mut topics = Topics::new(Settings::default(), true, 0);
        topics.topics.insert(ident.hash(), Topic { rule: TopicRule::Directory, ident: ident.clone() });
        let wall = UnixMs(1_700_000_000_000);
        let mut heard = |from: libp2p::PeerId, connected: bool| {
            let signer = libp2p::PeerId::random();
            let query = DirectoryMessage::Query { filter: Filter::default(), request: "1".into() };
            let data = announce::encode(&query, &ids::from_libp2p(&signer), wall).unwrap();
            let message =
                gossipsub::Message { source: Some(signer), data, sequence_number: Some(1), topic: ident.hash() };
            topics.judge(&from, MessageId::new(b"1"), message, connected, MonoMs(0), wall).unwrap().incoming.is_some()
        };
        let (flooder, other) = (libp2p::PeerId::random(), libp2p::PeerId::random());
        let taken = (0..BROUGHT_RATE.1 + 100).filter(|_| heard(flooder, false)).count();
        assert!(taken <= BROUGHT_RATE.1 as usize);
        assert!(!heard(flooder, false) && heard(other, false));
        assert!(heard(flooder, true), "nobody silences a peer that is connected");
    }
}
