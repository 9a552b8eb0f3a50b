//! Why a peer is connected or not, what an address leads to, who hears a topic, and where a stream comes from: each thing that decides
//! it, in the order in which it does.

use p2pd_core::{
    address_scope::Scope,
    connection_rules::Subject,
    id::{PeerId, StreamRef},
    multiaddr::{Multiaddr, Transport},
    topic_settings::TopicSettings,
};
use p2pd_live::LiveError;
use p2pd_net::{Closed, PeerInfo, RelayState, peer_address};
use p2pd_node::{peers::PeersError, pubsub::PubSubError};

use super::{Finding, Health};

/// Addresses of a peer that are explained.
const ADDRESSES: usize = 16;

impl Health {
    /// Why a peer is connected or not.
    pub(crate) async fn explain_peer(&self, peer: &PeerId) -> Result<Vec<Finding>, PeersError> {
        let peers = &self.of.peers;
        if peer == peers.me() {
            return Ok(vec![Finding::ok("peer", "it is this daemon")]);
        }
        let mut all = vec![rule(peers.ruling(peer, None), "its id")];
        let info = peers.list().await?.into_iter().find(|info| info.peer == *peer);
        let closed = peers.closed().await?.into_iter().rev().find(|closed| closed.peer.as_ref() == Some(peer));
        match &info {
            Some(info) => all.extend(connected(info)),
            None => all.push(Finding::warn(
                "connection",
                "it is not connected",
                "PeerService.Connect tries it at an address, and says what comes of that",
            )),
        }
        all.extend(closed.map(|closed| last(&closed, info.is_some())));
        for missing in self.of.net.dial.bootstrap_faults().await? {
            if peer_address(&missing.address).is_ok_and(|(of, _)| of == *peer) {
                let why = if missing.why.is_empty() { "it is being dialled" } else { missing.why.as_str() };
                all.push(Finding::fail(
                    "bootstrap",
                    format!("{} of network.bootstrap: {why}", missing.address),
                    "it is tried again with growing patience; see that it runs there and that the address is right",
                ));
            }
        }
        all.extend(self.kept(peer, info.as_ref()));
        if info.is_none() && peers.ruling(peer, None).is_none_or(|(_, allow)| allow) {
            all.extend(self.ways(peer).await?);
        }
        Ok(all)
    }

    /// What an address leads to, and what would keep it from being dialled.
    pub(crate) async fn explain_address(&self, text: &str) -> Result<Vec<Finding>, PeersError> {
        let (peer, address) = peer_address(text)?;
        let peers = &self.of.peers;
        let own =
            peers.addresses().await?.iter().any(|own| own.clone().without_peer() == address.clone().without_peer());
        if peer == *peers.me() || own {
            return Ok(vec![Finding::fail("peer", "it is an address of this daemon", "a daemon does not dial itself")]);
        }
        let mut all = vec![way(&address), rule(peers.ruling(&peer, None), "the peer's id")];
        for ip in address.dialled_ips() {
            let at =
                if address.is_circuit() { format!("the relay's address {ip}") } else { format!("the address {ip}") };
            let subject = address.relay().map_or_else(|| peer.clone(), |relay| relay.peer);
            all.push(rule(peers.ruling(&subject, Some(ip)), &at));
        }
        all.push(scope(&address));
        if let Some(relay) = address.relay() {
            all.push(self.relay(&relay.peer).await?);
        }
        let there = |info: PeerInfo| info.connections.iter().any(|one| one.address == address.clone().without_peer());
        let info = peers.list().await?.into_iter().find(|info| info.peer == peer);
        all.push(match info {
            Some(info) if there(info.clone()) => Finding::ok("connection", "the peer is connected there"),
            Some(_) => Finding::ok("connection", "the peer is connected elsewhere, so nobody dials it here"),
            None => Finding::warn(
                "connection",
                "the peer is not connected",
                "PeerService.Connect tries it, and says what comes of that",
            ),
        });
        Ok(all)
    }

    /// Who hears what is published on a topic, and what messages are held to here.
    pub(crate) async fn explain_topic(&self, name: &str) -> Result<Vec<Finding>, PubSubError> {
        let topic = self.of.pubsub.topic(name).await?;
        let followers = match topic.peers {
            0 => Finding::warn(
                "followers",
                "no connected peer follows it: what is published here reaches programs of this machine alone",
                "PeerService.Connect connects one that does; peers pass on only what they follow themselves",
            ),
            peers => Finding::ok(
                "followers",
                format!("connected peers that follow it: {peers}; of these in its mesh: {}", topic.mesh_peers),
            ),
        };
        let log = topic.log.as_ref().map_or("no log", |_| "a log");
        let mut all =
            vec![followers, Finding::ok("readers", format!("programs here that read it: {}; {log}", topic.readers))];
        if topic.validated {
            all.push(Finding::ok(
                "validator",
                "a program here judges its messages, and what it rejects goes no further",
            ));
        }
        let TopicSettings { max_message, max_age_ms, closed, allow_unsigned, .. } = topic.settings;
        let signed = if allow_unsigned { "also unsigned" } else { "signed alone" };
        all.push(Finding::ok("settings", format!("messages of at most {max_message} bytes are taken, {signed}")));
        if closed {
            all.push(Finding::warn(
                "settings",
                "it is closed: without a program that judges them, no messages of peers are taken",
                "PubSubService.SetTopic opens it, PubSubService.ValidateTopic judges",
            ));
        }
        if max_age_ms > 0 {
            let fact =
                format!("messages older than {max_age_ms} ms, or of publishers that do not date them, are not taken");
            all.push(Finding::ok("settings", fact));
        }
        if topic.too_large > 0 {
            let fact = format!("{} messages were refused as too large", topic.too_large);
            all.push(Finding::warn(
                "size",
                fact,
                "PubSubService.SetTopic takes larger ones; every peer of the topic has to",
            ));
        }
        Ok(all)
    }

    /// Whether a stream is known, and how its publisher is reached.
    pub(crate) async fn explain_stream(&self, stream: &StreamRef) -> Result<Vec<Finding>, LiveError> {
        let listed = match self.of.live.find_stream(stream) {
            Err(LiveError::StreamNotFound(name)) => {
                let mut all = vec![Finding::fail(
                    "directory",
                    format!(
                        "{name} is not listed: nobody whom this daemon hears has announced it in the last two minutes"
                    ),
                    "see that its publisher runs, that both are connected, and that network.name is the same",
                )];
                if let Some(publisher) = &stream.publisher {
                    all.extend(self.explain_peer(publisher).await?);
                }
                return Ok(all);
            }
            listed => listed?,
        };
        let (name, seconds) = (&listed.key, listed.age_ms / 1_000);
        if listed.local {
            return Ok(vec![Finding::ok("directory", format!("{name} is published here"))]);
        }
        let mut all = vec![match listed.entry.confirmed {
            true => Finding::ok("directory", format!("{name} is listed, and was announced {seconds} s ago")),
            false => Finding::warn(
                "directory",
                format!("{name} is known from before this daemon's start, and was not announced since"),
                "it goes within two minutes if nobody announces it",
            ),
        }];
        let publisher = &listed.key.publisher;
        if !self.of.peers.connected().await?.contains(publisher) {
            all.push(Finding::warn(
                "way",
                "its publisher is not connected: it is heard only through peers that listen to it themselves",
                "PeerService.Connect with one of its addresses, as StreamService.ListStreams has them, connects it",
            ));
        }
        all.extend(self.explain_peer(publisher).await?);
        Ok(all)
    }

    /// Why a peer stays connected, or is dialled again.
    fn kept(&self, peer: &PeerId, info: Option<&PeerInfo>) -> Option<Finding> {
        let tags = self.of.peers.tags(peer);
        let mut reasons: Vec<String> = info.iter().flat_map(|info| &info.kept).map(|why| (*why).to_owned()).collect();
        if !tags.is_empty() {
            reasons.push(format!("the pins {}", tags.join(", ")));
        }
        let high = self.of.network.connections_high;
        match reasons.is_empty() {
            false => Some(Finding::ok("kept", format!("kept for {}", reasons.join(", ")))),
            true if info.is_some() => {
                let fact = format!("nothing keeps it: it may be let go of where more than {high} are connected");
                Some(Finding::ok("kept", fact))
            }
            true => None,
        }
    }

    /// Where a peer that is not connected would be dialled, in this order, and what is in the way.
    async fn ways(&self, peer: &PeerId) -> Result<Vec<Finding>, PeersError> {
        let mut known: Vec<Multiaddr> =
            self.of.peers.pins().0.get(peer).map(|pin| pin.addresses.clone()).unwrap_or_default();
        for address in self.of.peers.kept_addresses(peer).await? {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        if known.is_empty() {
            return Ok(vec![Finding::warn(
                "address",
                "no address of it is known",
                "DhtService.FindPeer looks for one in the DHT; or ask whoever runs it",
            )]);
        }
        let explained = |address: Multiaddr| {
            let denied =
                address.dialled_ips().find_map(|ip| self.of.peers.ruling(peer, Some(ip)).filter(|(_, allow)| !allow));
            match denied {
                Some((subject, _)) => {
                    Finding::fail("address", format!("{address}: the rule of {subject} denies it"), lift(&subject))
                }
                None => Finding::ok("address", format!("{address}, {}", reach(&address))),
            }
        };
        Ok(known.into_iter().take(ADDRESSES).map(explained).collect())
    }

    /// Whether a relay is there.
    async fn relay(&self, relay: &PeerId) -> Result<Finding, PeersError> {
        let peers = &self.of.peers;
        if peers.connected().await?.contains(relay) {
            return Ok(Finding::ok("relay", format!("{relay} is connected")));
        }
        let known = peers.relays().await?.into_iter().find(|known| known.peer == *relay);
        Ok(match known.map(|known| known.state) {
            Some(RelayState::Lost(why)) => {
                Finding::warn("relay", format!("{relay}: {why}"), "it is dialled anew on the way to the peer")
            }
            _ => Finding::ok("relay", format!("{relay} is not connected; it is dialled on the way to the peer")),
        })
    }
}

fn lift(subject: &Subject) -> String {
    format!("PeerService.RemoveRule takes the rule of {subject} back")
}

/// What the rules say of somebody, by this of them.
fn rule(ruling: Option<(Subject, bool)>, by: &str) -> Finding {
    match ruling {
        Some((subject, true)) => {
            Finding::ok("rule", format!("{by}: the rule of {subject} allows it, whatever others deny"))
        }
        Some((subject, false)) => {
            Finding::fail("rule", format!("{by}: the rule of {subject} denies it"), lift(&subject))
        }
        None => Finding::ok("rule", format!("{by}: no rule is about it")),
    }
}

/// The connections of a peer, and what is not well with them.
fn connected(info: &PeerInfo) -> Vec<Finding> {
    let mut all: Vec<_> = info
        .connections
        .iter()
        .map(|one| {
            let from = if one.inbound { "it has dialled this daemon from" } else { "this daemon has dialled it at" };
            let relayed = if one.address.is_circuit() { ", through a relay" } else { "" };
            Finding::ok("connection", format!("{from} {}{relayed}", one.address))
        })
        .collect();
    if info.gossip_ended {
        all.push(Finding::fail("gossip", "a stream of gossip with it has ended", "it is connected anew with patience"));
    }
    if info.score < 0.0 {
        let fact =
            format!("gossipsub scores it {:.1}: it has broken the protocol's rules, and is heard less", info.score);
        all.push(Finding::warn("score", fact, "the score mends by itself; see which program it is, and its version"));
    }
    if info.lost > 0 {
        let fact = format!("it was too slow for {} messages since it connected", info.lost);
        all.push(Finding::warn("slow", fact, "see its machine and the line to it"));
    }
    all
}

/// How the last connection to a peer ended.
fn last(closed: &Closed, is_back: bool) -> Finding {
    let fact = format!("the last connection that closed was at {}: {}", closed.connection.address, closed.why);
    if is_back {
        Finding::ok("closed", fact)
    } else {
        Finding::warn("closed", fact, "PeerService.ListClosedConnections lists more")
    }
}

fn way(address: &Multiaddr) -> Finding {
    let name = match address.transport() {
        Transport::Tcp => "TCP",
        Transport::Quic => "QUIC (UDP)",
        Transport::WebSocket => "WebSocket",
        Transport::Other => "a way that this daemon does not know",
    };
    let through = if address.is_circuit() { ", to a relay" } else { "" };
    Finding::ok("way", format!("{name}{through}"))
}

fn reach(address: &Multiaddr) -> &'static str {
    match address.reach() {
        Scope::Machine => "of this machine alone",
        Scope::Network => "of a local network, reached from there alone",
        Scope::World => "of the world",
    }
}

fn scope(address: &Multiaddr) -> Finding {
    Finding::ok("scope", format!("the address is {}", reach(address)))
}
