//! What the swarm task does when it is asked; each arm hands the command to the driver it belongs to.

use std::net::IpAddr;

use libp2p::{gossipsub::IdentTopic, kad};
use p2pd_core::{access::Rules, multiaddr::Multiaddr};

use super::Task;
use crate::{
    NetError,
    command::{Command, HangUp, TopicPeers},
    gossip::followers,
    peers, worth,
};

impl Task {
    pub(super) fn on_command(&mut self, command: Command) {
        let gossipsub = &mut self.swarm.behaviour_mut().gossipsub;
        match command {
            Command::Connect { peer, ways, reply } => self.dial.connect(&mut self.swarm, peer, ways, reply),
            Command::Disconnect { peer, why, reply } => {
                let known = self.hang_up(peer, why);
                let _ = reply.send(known.map_err(|()| NetError::NotConnected(peer.to_string())));
            }
            Command::Peers { reply } => {
                let score = |peer: &libp2p::PeerId| gossipsub.peer_score(peer).unwrap_or(0.0);
                let kept = |peer: &libp2p::PeerId| {
                    let busy = self.peers.is_busy(peer).then_some("stream");
                    self.dial.why(peer).into_iter().chain(worth::why(gossipsub, peer)).chain(busy).collect()
                };
                let _ = reply.send(self.peers.list(score, kept));
            }
            Command::Addresses { reply } => {
                let _ = reply.send(self.addresses());
            }
            Command::Subscribe { topic, rule, reply } => {
                let done = self.gossip.subscribe(gossipsub, &topic, rule);
                let _ = reply.send(done);
                self.burst(&IdentTopic::new(topic).hash());
            }
            Command::Unsubscribe { topic } => self.gossip.unsubscribe(gossipsub, &topic),
            Command::Publish { topic, data, also_to, reply } => {
                let _ = reply.send(self.publish_also_to(&topic, &data, &also_to));
            }
            Command::PublishAhead { topic, data, reply } => self.publish_or_hold(topic, data, reply),
            Command::PublishGroup { topic, group, reply } => {
                let sent = self.publish(&topic, &group.signed);
                self.gossip.keep(&topic, group, self.now());
                let _ = reply.send(sent.map(|_| ()));
            }
            Command::Topics { reply } => {
                let _ = reply.send(self.gossip.topics());
            }
            Command::TopicPeers { topic, reply } => {
                let hash = IdentTopic::new(topic).hash();
                let followers = followers(gossipsub, &hash).iter().map(peers::from_libp2p).collect();
                let _ = reply.send(TopicPeers { followers, mesh: gossipsub.mesh_peers(&hash).count() });
            }
            Command::SetTopic { topic, settings } => self.gossip.set_topic(&topic, settings),
            Command::Validate { topic, reply } => {
                let _ = reply.send(self.gossip.validators.attach(IdentTopic::new(topic).hash()));
            }
            Command::Rule { topic, number, ruling } => {
                let hash = IdentTopic::new(topic).hash();
                if let Some(ruled) = self.gossip.validators.rule(&hash, number, ruling) {
                    self.conclude_ruled(ruled);
                }
            }
            Command::OpenStream { peer, protocols, reply } => {
                let said = protocols.iter().find(|p| self.peers.speaks(&peer, p.as_ref())).cloned();
                self.swarm.behaviour_mut().streams.open(peer, said, protocols, reply);
            }
            Command::AcceptStreams { protocol, reply } => {
                let _ = reply.send(self.swarm.behaviour_mut().streams.accept(protocol));
                self.protocols_changed();
            }
            Command::SetRules { rules } => self.set_rules(rules),
            Command::SetPins { pins } => self.dial.pin(&pins),
            Command::Clocks { reply } => {
                let (now, wall, peers) = (self.now(), Self::wall(), &self.peers);
                let is_connected = |peer: &_| peers::to_libp2p(peer).is_some_and(|peer| peers.contains(&peer));
                let _ = reply.send(self.gossip.clocks.judge(now, wall, is_connected));
            }
            Command::Faults { reply } => {
                let _ = reply.send(self.dial.faults());
            }
            Command::Closed { reply } => {
                let _ = reply.send(self.peers.closed_ones());
            }
            Command::Lookup { question, reply } => {
                let _ = reply.send(self.lookups.ask(&mut self.swarm.behaviour_mut().kad, question));
            }
            Command::PutValue { key, signed, holds, reply } => {
                self.lookups.put(&mut self.swarm.behaviour_mut().kad, &key, signed, holds, reply);
            }
            Command::Provide { key, reply } => {
                self.lookups.provide(&mut self.swarm.behaviour_mut().kad, &key, reply);
            }
            Command::StopProviding { key } => {
                self.swarm.behaviour_mut().kad.stop_providing(&kad::RecordKey::new(&key));
            }
            Command::ProtocolsChanged => self.protocols_changed(),
            Command::Recent { topic, ms, reply } => {
                let _ = reply.send(self.gossip.recent(&topic, ms, self.now()));
            }
        }
    }

    fn set_rules(&mut self, rules: Rules) {
        let gate = &mut self.swarm.behaviour_mut().gate;
        let more = gate.set(rules);
        // What was dialled by name is dialled anew, where it may.
        let ends = |peer: &_, address: &_| gate.denies(peer, address) || (more && gate.doubts(peer, address));
        let ended = self.peers.connections_where(ends);
        let ended = ended.into_iter().map(|(peer, id, address)| (id, gate.denies(&peer, &address)));
        for (id, for_good) in ended.collect::<Vec<_>>() {
            let why = if for_good { "a rule denies it" } else { "a rule may deny where its name leads" };
            self.let_go.insert(id, HangUp { why, for_good });
            self.swarm.close_connection(id);
        }
    }

    /// Has peers told which protocols are spoken here: at once where identify can, and with the next tick for those it
    /// was just exchanging the old ones with.
    fn protocols_changed(&mut self) {
        self.swarm.behaviour_mut().streams.look();
        self.say_protocols = true;
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let own = peers::from_libp2p(self.swarm.local_peer_id());
        // Those of one link are dialled with the name of an interface, which is another on each machine.
        let is_of_link = |ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let listeners = self.swarm.listeners().cloned().map(Multiaddr::from);
        let mut addresses: Vec<_> = listeners.filter(|address| !address.ip().is_some_and(is_of_link)).collect();
        // The swarm's order is another one each time.
        addresses.sort_by_cached_key(|address| (address.transport(), address.to_string()));
        addresses.into_iter().map(|address| address.with_peer(&own)).collect()
    }
}
