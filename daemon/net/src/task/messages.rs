//! Messages on their way in: gossipsub's are judged, handed to the daemon and passed on; groups that are missing are asked
//! for.

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, MessageId, TopicHash},
    request_response,
};

use super::Task;
use crate::{
    Event, Incoming,
    command::HangUp,
    fetch,
    gossip::{Judged, Report, followers},
    peers,
    stream::Ask,
    validators::{Ruled, Ruling},
};

impl Task {
    /// What has become due: groups that are missing, and validators that have not said anything.
    pub(super) fn on_due(&mut self) {
        self.repaired = self.now();
        let asks = self.gossip.due(&self.swarm.behaviour().gossipsub, self.repaired);
        self.ask_all(asks);
        self.gossip.validators.due(self.repaired).into_iter().for_each(|ruled| self.conclude_ruled(ruled));
    }

    pub(super) fn ask_all(&mut self, asks: impl IntoIterator<Item = Ask>) {
        for Ask { peer, request } in asks {
            self.swarm.behaviour_mut().fetch.send_request(&peer, request);
        }
    }

    /// Asks up to two followers of a topic for its last seconds.
    pub(super) fn burst(&mut self, topic: &TopicHash) {
        let followers = followers(&self.swarm.behaviour().gossipsub, topic);
        let asks: Vec<Ask> = followers.into_iter().take(2).filter_map(|peer| self.gossip.burst(topic, peer)).collect();
        self.ask_all(asks);
    }

    pub(super) fn on_gossipsub(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let (now, wall) = (self.now(), Self::wall());
                let connected = message.source.is_some_and(|signer| self.peers.contains(&signer));
                let judged = self.gossip.judge(&propagation_source, message_id.clone(), message, connected, now, wall);
                if let Some(judged) = judged {
                    self.conclude(&message_id, &propagation_source, judged);
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                let ask = self.gossip.burst(&topic, peer_id);
                self.ask_all(ask);
                self.tell(Event::Joined { peer: peers::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                self.tell(Event::Left { peer: peers::from_libp2p(&peer_id), topic: topic.into_string() });
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                if self.peers.slow(&peer_id, failed_messages.non_priority, self.now()) {
                    tracing::warn!(peer = %peer_id, "disconnected: it has read too slowly for a minute");
                    let why = HangUp { why: "it has read too slowly for a minute", for_good: true };
                    let _ = self.hang_up(peer_id, why);
                }
            }
            gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    /// Tells gossipsub what came of a message, and the daemon of it when it was accepted.
    fn conclude(&mut self, id: &MessageId, source: &PeerId, judged: Judged) {
        let held = match &judged.incoming {
            Some(Incoming::Message { topic, data, .. }) => Some((topic.clone(), data.len())),
            // At the pace of whoever takes them: a flood of them must not take the queues that sound is passed on through. They are
            // small, so that their number counts.
            Some(Incoming::Directory { .. }) => Some((self.directory.to_string(), 0)),
            _ => None,
        };
        if let Some(incoming) = judged.incoming {
            self.hand_on(incoming);
        }
        match (judged.report, held) {
            (Report::Now(MessageAcceptance::Accept), Some((topic, bytes))) => {
                self.pass_on_or_hold(topic, id.clone(), *source, bytes)
            }
            (Report::Now(acceptance), _) => self.report(id, source, acceptance),
            (Report::Once(unproven), _) => self.unproven = Some((id.clone(), *source, unproven)),
        }
    }

    fn hand_on(&mut self, incoming: Incoming) {
        // Said again within 30 s; sound and messages are not.
        if matches!(incoming, Incoming::Directory { .. }) && self.incoming.len() >= super::INCOMING / 2 {
            return self.incoming.lose(1, p2pd_core::ring::Cause::Busy);
        }
        for lost in self.incoming.push(incoming.weight(), incoming) {
            if let Incoming::Message { topic, .. } = lost {
                self.note_lost(topic, 1);
            }
        }
    }

    pub(super) fn report(&mut self, id: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        if matches!(acceptance, MessageAcceptance::Reject) {
            tracing::debug!(peer = %source, "sender loses score");
        }
        self.swarm.behaviour_mut().gossipsub.report_message_validation_result(id, source, acceptance);
    }

    pub(super) fn conclude_ruled(&mut self, Ruled(waiting, ruling): Ruled) {
        let incoming = (ruling == Ruling::Accept).then_some(waiting.incoming);
        let report = Report::Now(ruling.into());
        self.conclude(&waiting.id, &waiting.source, Judged { incoming, report });
    }

    pub(super) fn on_fetch(&mut self, event: request_response::Event<fetch::Request, fetch::Response>) {
        let request_response::Event::Message { peer, message, .. } = event else { return };
        match message {
            request_response::Message::Request { request, channel, .. } => {
                let response = self.gossip.answer(&request, self.now());
                // The peer may have gone meanwhile.
                let _ = self.swarm.behaviour_mut().fetch.send_response(channel, response);
            }
            request_response::Message::Response { response, .. } => {
                for incoming in self.gossip.fetched(peer, response, self.now(), Self::wall()) {
                    self.hand_on(incoming);
                }
            }
        }
    }

    /// Checks the signature of a group that was handed on already.
    pub(super) async fn prove(&mut self) {
        let Some((id, source, unproven)) = self.unproven.take() else { return };
        // First what waits for the group: it is on its way to programs meanwhile.
        tokio::task::yield_now().await;
        let acceptance = self.gossip.prove(unproven, &source, self.now());
        self.report(&id, &source, acceptance);
    }
}
