//! The protocols this peer speaks, each with the bounds it is given.

use std::time::Duration;

use libp2p::{
    StreamProtocol, connection_limits,
    gossipsub::{self, IdentTopic},
    identify, kad, ping, relay,
    swarm::{FromSwarm, NetworkBehaviour},
};

use p2pd_core::multiaddr::Multiaddr as Address;

use crate::{
    Config, DhtMode, NetError, Network, Switch,
    dht::{
        address_filter::{Addresses, Dht, Kad},
        record_store,
    },
    identity::Identity,
    peers::connection_gater::{Gater, SharedRules},
    pubsub::{
        flow_control,
        message_id::{Gossipsub, Settings},
        resubscribe::{Connections, Resubscribe},
        slow_peers,
    },
    reach::{
        relay_client::{RelayClient, Unconfirmed},
        relay_server::{self, RelayServer},
    },
    streams::{self, behaviour::Acceptors},
    swarm::{
        bandwidth::Meters,
        filtered::{Filter, Filtered},
        lan::{self, Lan},
    },
};

/// Largest gossipsub frame read, in bytes. Go peers batch up to a mebibyte of messages into one, and rust-libp2p closes
/// the substream of a peer that sends a larger one, for good. A single message may be smaller: [`p2pd_core::topic_settings`].
const MAX_RPC: usize = 1024 * 1024 + 64 * 1024;

/// Ids that are offered to a peer in one RPC, and asked of it in a second. The specification's 5,000 would be more than the 16 KiB
/// of control data that rust-libp2p takes by default: it closes the substream of a peer that sends more, for good.
const OFFERED: usize = 300;
/// Bytes of control data taken in one RPC: others offer as many ids as the specification has it.
const MAX_CONTROL: usize = 256 * 1024;

/// Largest packet of the DHT in bytes. Answers of the public DHT with many addresses reach 43 KiB.
const MAX_KAD_PACKET: usize = 128 * 1024;

/// How often each connection is pinged, and how long the answer may take. The library is silent of the first that fails, and the
/// second may have come just after the peer's last word: one that is frozen is gone after 48 s.
const PING: Duration = Duration::from_secs(8);

/// Of the addresses over a relay, peers are told those that were chosen, and not all that the relay tells: they are many, and what identify
/// tells in all has to fit into 4,096 bytes.
pub(crate) struct Chosen;

impl Filter<identify::Behaviour> for Chosen {
    fn tell(&mut self, identify: &mut identify::Behaviour, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewListenAddr(new) if Address::from(new.addr.clone()).is_circuit() => {}
            event => identify.on_swarm_event(event),
        }
    }
}

/// One field per protocol; the swarm task hands the event of each to its driver.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) gater: Gater,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) identify: Filtered<identify::Behaviour, Chosen>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) gossipsub: Resubscribe<Gossipsub>,
    /// Behind gossipsub, whose handlers are then polled first.
    pub(crate) flow: flow_control::Behaviour,
    pub(crate) kad: Dht,
    pub(crate) relay_client: RelayClient,
    pub(crate) relay_server: RelayServer,
    pub(crate) mdns: Lan,
    pub(crate) streams: streams::behaviour::Behaviour,
}

/// Name of our Kademlia: the network's own, so that it never mixes with another, unless it was given one.
pub(crate) fn kad_protocol(network: &Network) -> Result<StreamProtocol, NetError> {
    let own = || format!("/p2pd/{}/kad/1.0.0", network.name);
    let set = Some(network.dht_protocol.clone()).filter(|name| !name.is_empty());
    StreamProtocol::try_from_owned(set.unwrap_or_else(own))
        .map_err(|e| NetError::Setup(format!("protocol of the DHT: {e}")))
}

pub(crate) fn build(
    config: &Config,
    identity: &Identity,
    settings: Settings,
    meters: &Meters,
    acceptors: &Acceptors,
    rules: SharedRules,
    circuits: relay::client::Behaviour,
) -> Result<Behaviour, NetError> {
    let network = &config.network;
    let setup = |e: &dyn std::fmt::Display| NetError::Setup(e.to_string());
    let id = identity.0.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(network.max_pending_connections))
        .with_max_pending_outgoing(Some(network.max_pending_connections))
        .with_max_established(Some(network.max_connections))
        .with_max_established_incoming(Some(network.max_inbound()))
        .with_max_established_per_peer(Some(network.max_connections_per_peer));
    let identify = identify::Config::new(network.protocol_version(), identity.0.public())
        .with_agent_version(config.agent.clone())
        // Where peers are, the peer book and the DHT know, and leave out what is of no use here.
        .with_cache_size(0)
        // Also because pushes are lost over QUIC: lazily negotiated, they are closed before the peer has answered.
        .with_interval(Duration::from_secs(60));
    let mut kad = kad::Config::new(kad_protocol(network)?);
    kad.set_max_packet_size(MAX_KAD_PACKET).set_record_filtering(kad::StoreInserts::FilterBoth);
    // `dht/refresh.rs` says when.
    kad.set_periodic_bootstrap_interval(None);
    let served = (network.relay == Switch::On).then_some(&config.relay);
    let mut kad = Kad::with_config(id, record_store::store(id), kad);
    kad.set_mode(Some(if network.dht == DhtMode::Server { kad::Mode::Server } else { kad::Mode::Client }));
    Ok(Behaviour {
        gater: Gater::new(network, rules),
        limits: connection_limits::Behaviour::new(limits),
        identify: Filtered::new(identify::Behaviour::new(identify), Chosen),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING).with_timeout(PING)),
        gossipsub: Resubscribe::new(gossipsub(config, identity, settings)?, Connections::default()),
        flow: flow_control::Behaviour::new(meters.clone()),
        kad: Dht::new(kad, Addresses::new(id)),
        relay_client: Filtered::new(circuits, Unconfirmed),
        relay_server: relay_server::build(id, served),
        mdns: lan::build(id, network.mdns).map_err(|e| setup(&e))?,
        streams: streams::behaviour::Behaviour::new(acceptors.clone()),
    })
}

fn gossipsub(config: &Config, identity: &Identity, settings: Settings) -> Result<Gossipsub, NetError> {
    let mut builder = gossipsub::ConfigBuilder::default();
    // When more peers are taken into a mesh, when some are let go of, and how many of them this daemon has dialled.
    let around = |size: usize| (size.saturating_mul(2) / 3, size.saturating_mul(2), (size / 3).min(2));
    for (topic, size) in &config.meshes {
        let (hash, (low, high, dialled)) = (|| IdentTopic::new(topic).hash(), around(*size));
        builder.mesh_n_for_topic(*size, hash()).mesh_n_low_for_topic(low, hash());
        builder.mesh_n_high_for_topic(high, hash()).mesh_outbound_min_for_topic(dialled, hash());
    }
    let mesh = config.network.mesh();
    let (low, high, dialled) = around(mesh);
    let ids = settings.clone();
    let config = builder
        // Which topics take messages without a signature, the settings say.
        .validation_mode(gossipsub::ValidationMode::Permissive)
        .validate_messages()
        .message_id_fn(move |message| ids.id_here(message))
        // As long as kubo. Who hears a message again after that has a log, or a topic with an accepted age.
        .duplicate_cache_time(Duration::from_secs(120))
        // `flood_publish` chooses whom.
        .flood_publish(false)
        .max_control_messages_sent(OFFERED)
        .max_control_message_size(MAX_CONTROL)
        .mesh_n(mesh)
        .mesh_n_low(low)
        .mesh_n_high(high)
        .mesh_outbound_min(dialled)
        // Every follower outside the mesh is offered everything each second. By the library's usual quarter, somebody whose only
        // peer this daemon is, as with many listeners of one publisher, would miss two messages of five.
        .gossip_factor(1.0)
        // By the library's usual five seconds, nobody outside the mesh hears anything so soon after the daemon's start.
        .heartbeat_initial_delay(Duration::from_secs(1))
        .max_transmit_size(MAX_RPC)
        .connection_handler_queue_len(flow_control::QUEUE)
        // As long as a peer may be slow. The queue bounds what waits.
        .publish_queue_duration(slow_peers::SLOW)
        .forward_queue_duration(Duration::from_secs(5))
        .build()
        .map_err(|e| NetError::Setup(e.to_string()))?;
    let signed = gossipsub::MessageAuthenticity::Signed(identity.0.clone());
    // At most 100 topics of a peer.
    let filter = gossipsub::MaxCountSubscriptionFilter::default();
    let gossipsub = Gossipsub::new_with_subscription_filter_and_transform(signed, config, filter, settings);
    let mut gossipsub = gossipsub.map_err(|e| NetError::Setup(e.to_owned()))?;
    let score = gossipsub::PeerScoreParams {
        // Many honest daemons share one address (NAT, containers, tests on one machine).
        ip_colocation_factor_weight: 0.0,
        // Whoever offers messages by other ids than ours never seems to send them. That is no fault until it is a flood: this
        // is more than the 300 that are asked for in a second. The library counts grafts that come too soon after a prune
        // in the same sum, so those are answered as often before they cost.
        behaviour_penalty_threshold: 1_000.0,
        // A connection that is full, mostly of messages of our own, is no fault of its peer. Whoever is slow for long is let go
        // of.
        slow_peer_weight: 0.0,
        ..Default::default()
    };
    gossipsub.with_peer_score(score, gossipsub::PeerScoreThresholds::default()).map_err(NetError::Setup)?;
    Ok(gossipsub)
}
