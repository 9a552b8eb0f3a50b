//! Messages on their way in: each is judged, handed to the daemon and passed on; groups that are missing are asked for.

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, MessageId, TopicHash},
    request_response,
};
use p2pd_core::ring::Cause;

use super::{
    INCOMING, Proof, PubSub, Wire, ask_all,
    judge::{Judged, Report},
    send_queue::Message,
    topics::followers,
    validators::{Ruled, Ruling},
};
use crate::{
    Event, Incoming,
    context::{Context, HangUp},
    fetch, ids,
    stream::Ask,
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
                let connected = message.source.is_some_and(|signer| wire.flow.is_connected(&signer));
                let (id, from) = (message_id.clone(), &propagation_source);
                let judged = self.topics.judge(from, id, message, connected, context.now(), context.wall());
                if let Some(judged) = judged {
                    self.conclude(context, &mut wire, &message_id, &propagation_source, judged);
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                ask_all(&mut wire, self.topics.burst(&topic, peer_id));
                context.tell(Event::Joined { peer: ids::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                context.tell(Event::Left { peer: ids::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                let (lost, sent) = (failed_messages.non_priority, sent_to(&peer_id));
                if self.slow.slow(&peer_id, lost, sent, context.now()) {
                    tracing::warn!(peer = %peer_id, "disconnected: it has read too slowly for a minute");
                    let why = HangUp { why: "it has read too slowly for a minute", for_good: true };
                    context.hang_up(peer_id, why);
                }
            }
            gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    /// A peer's queue has drained.
    pub(crate) fn on_drained(&mut self, context: &mut Context, mut wire: Wire<'_>) {
        self.send_held(&mut wire, context.wall());
    }

    /// Asks up to two followers of a topic for its last seconds.
    pub(super) fn burst(&mut self, wire: &mut Wire<'_>, topic: &TopicHash) {
        let followers = followers(wire.gossipsub, topic);
        let asks: Vec<Ask> = followers.into_iter().take(2).filter_map(|peer| self.topics.burst(topic, peer)).collect();
        ask_all(wire, asks);
    }

    /// Tells gossipsub what came of a message, and the daemon of it when it was accepted.
    fn conclude(
        &mut self,
        context: &mut Context,
        wire: &mut Wire<'_>,
        id: &MessageId,
        source: &PeerId,
        judged: Judged,
    ) {
        let held = match &judged.incoming {
            Some(Incoming::Message { topic, data, .. }) => Some((topic.clone(), data.len())),
            // At the pace of whoever takes them: a flood of them must not take the queues that sound is passed on through. They are
            // small, so that their number counts.
            Some(Incoming::Directory { .. }) => Some((self.directory.to_string(), 0)),
            _ => None,
        };
        if let Some(incoming) = judged.incoming {
            self.hand_on(context, incoming);
        }
        match (judged.report, held) {
            (Report::Now(MessageAcceptance::Accept), Some((topic, bytes))) => {
                let message = Message::Passing { id: id.clone(), source: *source, bytes };
                self.send_or_hold(wire, context.wall(), topic, message);
            }
            (Report::Now(acceptance), _) => report(wire, id, source, acceptance),
            (Report::Once(group), _) => self.unproven = Some(Proof { id: id.clone(), source: *source, group }),
        }
    }

    fn hand_on(&mut self, context: &mut Context, incoming: Incoming) {
        // Said again within 30 s; sound and messages are not.
        if matches!(incoming, Incoming::Directory { .. }) && self.incoming.len() >= INCOMING / 2 {
            return self.incoming.lose(1, Cause::Busy);
        }
        for lost in self.incoming.push(incoming.weight(), incoming) {
            if let Incoming::Message { topic, .. } = lost {
                context.note_lost(topic, 1);
            }
        }
    }

    /// A validator has answered.
    pub(super) fn rule(
        &mut self,
        context: &mut Context,
        wire: &mut Wire<'_>,
        topic: &TopicHash,
        number: u64,
        ruling: Ruling,
    ) {
        if let Some(ruled) = self.topics.validators.rule(topic, number, ruling) {
            self.conclude_ruled(context, wire, ruled);
        }
    }

    pub(super) fn conclude_ruled(&mut self, context: &mut Context, wire: &mut Wire<'_>, ruled: Ruled) {
        let Ruled(waiting, ruling) = ruled;
        let incoming = (ruling == Ruling::Accept).then_some(waiting.incoming);
        let judged = Judged { incoming, report: Report::Now(ruling.into()) };
        self.conclude(context, wire, &waiting.id, &waiting.source, judged);
    }

    pub(crate) fn on_fetch(
        &mut self,
        context: &mut Context,
        wire: Wire<'_>,
        event: request_response::Event<fetch::Request, fetch::Response>,
    ) {
        let request_response::Event::Message { peer, message, .. } = event else { return };
        match message {
            request_response::Message::Request { request, channel, .. } => {
                let response = self.topics.answer(&request, context.now());
                // The peer may have gone meanwhile.
                let _ = wire.fetch.send_response(channel, response);
            }
            request_response::Message::Response { response, .. } => {
                for incoming in self.topics.fetched(peer, response, context.now(), context.wall()) {
                    self.hand_on(context, incoming);
                }
            }
        }
    }

    /// Whether a group that was handed on already waits for its signature to be checked.
    pub(crate) fn has_to_prove(&self) -> bool {
        self.unproven.is_some()
    }

    /// Checks it.
    pub(crate) fn prove(&mut self, context: &Context, mut wire: Wire<'_>) {
        let Some(Proof { id, source, group }) = self.unproven.take() else { return };
        let acceptance = self.topics.prove(group, &source, context.now());
        report(&mut wire, &id, &source, acceptance);
    }
}

pub(super) fn report(wire: &mut Wire<'_>, id: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
    if matches!(acceptance, MessageAcceptance::Reject) {
        tracing::debug!(peer = %source, "sender loses score");
    }
    wire.gossipsub.report_message_validation_result(id, source, acceptance);
}
