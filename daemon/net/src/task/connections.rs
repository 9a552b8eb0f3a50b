//! Connections of the swarm: who came, who went and why, whom discovery found, and who has to go.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, kad, mdns, ping,
    swarm::{ConnectionError, ConnectionId, DialError, dial_opts::DialOpts},
};
use p2pd_core::time::MonoMs;

use super::Task;
use crate::{DhtMode, Event, WaterMarks, command::HangUp, dial, gossip::followers, peers, unshared::Unshared, worth};

impl Task {
    pub(super) fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        self.dial.connected(&peer, id);
        // Whoever has dialled us proves that others may.
        if endpoint.is_listener() && self.dht == DhtMode::Auto {
            self.dht = DhtMode::Server;
            self.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
            self.say_protocols = true;
        }
        let address = endpoint.get_remote_address();
        let meter = self.meters.claim(&peer, address);
        // Counted below names.
        let leads_to = meter.as_ref().map_or(address, |meter| &meter.address);
        self.swarm.behaviour_mut().kad.connected(id, peer, address, leads_to);
        self.gone.remove(&peers::from_libp2p(&peer));
        if self.peers.opened(peer, id, endpoint, meter, Self::wall()) {
            self.tell(Event::Connected(peers::from_libp2p(&peer)));
        }
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId, cause: Option<&ConnectionError>) {
        let hung_up = self.let_go.remove(&id);
        // Because we let go of the peer, or as the transport has it.
        let lack = cause.and_then(|error| Unshared::muxer(error, self.mplex));
        let why = match (hung_up, cause) {
            (Some(hung_up), _) => hung_up.why.to_owned(),
            (None, Some(_)) if let Some(lack) = lack => lack.to_string(),
            (None, None) => "closed by either side in good order".to_owned(),
            (None, Some(error)) => dial::innermost(error),
        };
        if let Some(lack) = lack {
            self.tell_incompatible(peer.to_string(), lack);
        }
        self.dial.fell(&peer, Some(&why));
        if self.peers.closed(&peer, id, why, Self::wall()) {
            self.look_around.stirred();
            let for_good = hung_up.is_some_and(|hung_up| hung_up.for_good);
            self.tell(Event::Disconnected { peer: peers::from_libp2p(&peer), for_good });
        }
    }

    /// Notes a peer that cannot be connected for what it lacks.
    pub(super) fn on_incompatible(&mut self, peer: Option<PeerId>, address: Multiaddr, inbound: bool, lack: Unshared) {
        // Whoever has no id comes from another port each time.
        let who = match peer {
            Some(peer) => peer.to_string(),
            None => address.iter().take(1).collect::<Multiaddr>().to_string(),
        };
        if self.tell_incompatible(who, lack) {
            self.peers.failed(peer.as_ref().map(peers::from_libp2p), address, inbound, lack.to_string(), Self::wall());
        }
    }

    pub(super) fn on_dial_failed(&mut self, peer: Option<PeerId>, error: DialError) {
        let DialError::Transport(faults) = error else { return };
        // Only where every address has failed for something that is not shared.
        let lacks = faults.iter().map_while(|(address, fault)| Some((address, Unshared::of_transport(fault)?)));
        let lacks: Vec<_> = lacks.collect();
        if let (Some((address, lack)), true) = (lacks.first(), lacks.len() == faults.len()) {
            self.on_incompatible(peer, (*address).clone(), false, *lack);
        }
    }

    /// Tells what a peer lacks, once a minute. Whether it did.
    fn tell_incompatible(&mut self, who: String, lack: Unshared) -> bool {
        const MINUTE_MS: u64 = 60_000;
        const MAX_TOLD: usize = 256;
        let now = self.now();
        self.incompatible.retain(|_, at| now.since(*at) < MINUTE_MS);
        let tells = self.incompatible.len() < MAX_TOLD && !self.incompatible.contains_key(&who);
        if tells {
            self.incompatible.insert(who.clone(), now);
            self.tell(Event::Incompatible { who, why: lack.to_string() });
        }
        tells
    }

    /// Lets go of peers that ought to follow the directory and have not said so.
    pub(super) fn renew_silent(&mut self, now: MonoMs) {
        let known = followers(&self.swarm.behaviour().gossipsub, &self.directory);
        let silent = self.peers.ours().filter(|peer| !known.contains(peer)).collect();
        for peer in self.greetings.overdue(now, silent, |peer| self.peers.contains(peer)) {
            tracing::info!(%peer, "its subscriptions were not heard; connecting anew");
            let _ = self.hang_up(peer, HangUp { why: "its subscriptions were not heard", for_good: false });
        }
    }

    /// Connects anew to peers with which a stream of gossipsub has ended. The library opens it again a few times and then never:
    /// such a peer looks connected and hears nothing.
    pub(super) fn renew_mute(&mut self, now: MonoMs) {
        // A program that talks to it over the same connection comes first.
        let mute = self.peers.mute().into_iter().filter(|peer| !self.peers.is_busy(peer)).collect();
        for peer in self.mute.overdue(now, mute, |peer| self.peers.contains(peer)) {
            tracing::warn!(%peer, "its gossip stream has ended; connecting anew");
            self.tell(Event::GossipEnded(peers::from_libp2p(&peer)));
            let _ = self.hang_up(peer, HangUp { why: "its gossip stream had ended", for_good: false });
        }
    }

    /// Closes a connection that only looks alive: the peer is frozen or out of reach, and its place may be dialled elsewhere.
    pub(super) fn on_ping(&mut self, ping::Event { peer, connection, result }: ping::Event) {
        let rtt = match result {
            Ok(rtt) => Some(rtt),
            Err(ping::Failure::Timeout) => None,
            // It has refused the stream, and lives.
            Err(_) => return,
        };
        if !self.peers.pinged(&peer, connection, rtt) {
            tracing::info!(%peer, "it answers no ping; closing the connection");
            self.let_go.insert(connection, HangUp { why: "it did not answer pings", for_good: false });
            self.swarm.close_connection(connection);
        }
    }

    /// Lets go of a peer, and remembers why until it is gone.
    pub(super) fn hang_up(&mut self, peer: PeerId, why: HangUp) -> Result<(), ()> {
        self.let_go.extend(self.peers.connections(&peer).map(|id| (id, why)));
        self.swarm.disconnect_peer_id(peer)
    }

    /// Lets go of the least useful peers when there are too many.
    pub(super) fn trim(&mut self, marks: &WaterMarks, why: &'static str) {
        let gossipsub = &self.swarm.behaviour().gossipsub;
        for peer in worth::let_go(&self.peers, &self.dial, gossipsub, marks) {
            tracing::debug!(%peer, "let go of: {why}");
            let _ = self.hang_up(peer, HangUp { why, for_good: true });
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        self.peers.identified(&peer_id, &info, info.protocol_version == self.protocol_version);
        if info.protocols.contains(&self.kad_protocol) {
            self.swarm.behaviour_mut().kad.learn(peer_id, info.listen_addrs);
        }
        self.tell(Event::Identified(peers::from_libp2p(&peer_id)));
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, address) in found.into_iter().take(64) {
            self.on_found(peer, vec![address]);
        }
    }

    /// Connects to a peer that Kademlia has found a place for.
    pub(super) fn on_routable(&mut self, peer: PeerId, addresses: kad::Addresses) {
        let kad = &self.swarm.behaviour().kad;
        let useful = addresses.into_vec().into_iter().filter(|address| kad.reaches(address)).collect();
        self.on_found(peer, useful);
    }

    /// Connects to a peer that discovery found, as long as few are connected.
    pub(super) fn on_found(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        const ENOUGH: usize = 24;
        // Not those that would have to go again.
        let enough = ENOUGH.min(self.water_marks.low);
        if addresses.is_empty() || self.peers.contains(&peer) || self.swarm.connected_peers().count() >= enough {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(addresses);
        // It finds us at the same moment. Two dials from the ports that both listen on would meet as one connection of TCP,
        // on which each side waits for the other's answer.
        let _ = self.swarm.dial(options.allocate_new_port().build());
    }
}
