//! Messages on their way in: each is judged by whoever follows its topic, and passed on if that says so.

use std::time::Instant;

use libp2p::{
    PeerId,
    gossipsub::{self, TopicHash},
};
use p2pd_core::topic_settings;

use super::{
    PubSub, Wire,
    judge::{Class, Decision, Message, Ticket, Time, Verdict, acceptance},
    send_queue,
};
use crate::{
    Event,
    context::{Context, HangUp},
    ids,
};

impl PubSub {
    /// What gossipsub tells. `sent_to`: how many bytes a peer was sent.
    pub(crate) fn on_gossipsub(
        &mut self,
        context: &mut Context,
        mut wire: Wire<'_>,
        event: gossipsub::Event,
        sent_to: impl Fn(&PeerId) -> u64,
    ) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let ticket = Ticket { id: message_id, source: propagation_source, bytes: message.data.len() };
                self.on_message(context, &mut wire, ticket, message);
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                context.tell(Event::Joined { peer: ids::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                context.tell(Event::Left { peer: ids::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                let (lost, sent) = (failed_messages.non_priority, sent_to(&peer_id));
                self.published.missed(ids::from_libp2p(&peer_id));
                if self.slow.slow(&peer_id, lost, sent, context.now()) {
                    tracing::warn!(peer = %peer_id, "disconnected: it has read too slowly for a minute");
                    let why = HangUp { why: "it has read too slowly for a minute", for_good: true };
                    context.hang_up(peer_id, why);
                }
            }
            gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn on_message(&mut self, context: &mut Context, wire: &mut Wire<'_>, ticket: Ticket, message: gossipsub::Message) {
        let gossipsub::Message { source, data, topic, sequence_number: number } = message;
        let time = Time { now: context.now(), wall: context.wall() };
        let connected = source.is_some_and(|signer| wire.flow.is_connected(&signer));
        let mut message = Message {
            id: ticket.id.0.clone().into(),
            sender: source.as_ref().map(ids::from_libp2p),
            number,
            source: ids::from_libp2p(&ticket.source),
            connected,
            data: data.into(),
            ticket: ticket.clone(),
        };
        // Left in the time between the library's look and ours.
        let Some((judge, class)) = self.topics.judge(&topic) else {
            return self.conclude(
                context,
                wire,
                &topic,
                Class::Messages,
                Decision { ticket, verdict: Verdict::Ignore },
            );
        };
        let max_age_ms = if class == Class::Messages { self.settings.of(&topic).max_age_ms } else { 0 };
        let dated = if max_age_ms == 0 {
            Verdict::Accept
        } else {
            topic_settings::undated(&mut message.data, max_age_ms, time.wall).into()
        };
        let verdict = if dated == Verdict::Accept { judge.judge(message, time) } else { dated };
        self.conclude(context, wire, &topic, class, Decision { ticket, verdict });
    }

    /// Tells gossipsub what becomes of a message, at once or when those that it is passed on to have room.
    pub(super) fn conclude(
        &mut self,
        context: &Context,
        wire: &mut Wire<'_>,
        topic: &TopicHash,
        class: Class,
        decision: Decision,
    ) {
        let Decision { ticket: Ticket { id, source, bytes }, verdict } = decision;
        let Some(acceptance) = acceptance(verdict, &source) else { return };
        match class {
            Class::Directory | Class::Messages if verdict == Verdict::Accept => {
                let message = send_queue::Message::Passing { id, source, bytes, class };
                self.send_or_hold(wire, context.wall(), topic.to_string(), message);
            }
            Class::Live if verdict == Verdict::Accept => {
                self.pass_on(wire, &Ticket { id, source, bytes }, class, Instant::now());
            }
            _ => drop(wire.gossipsub.report_message_validation_result(&id, &source, acceptance)),
        }
    }

    /// A verdict that a judge had put off.
    pub(super) fn decide(&mut self, context: &Context, wire: &mut Wire<'_>, topic: &TopicHash, decision: Decision) {
        // It may be followed no more.
        let class = self.topics.judge(topic).map_or(Class::Messages, |(_, class)| class);
        self.conclude(context, wire, topic, class, decision);
    }
}
