//! The task that owns the swarm: it takes turns between commands, the network and its timers, and hands each to the driver it belongs
//! to. When a driver has returned, the task does what it wants done to the swarm.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    PeerId, StreamProtocol, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    identify,
    swarm::{ConnectionError, ConnectionId, DialError, SwarmEvent, dial_opts::DialOpts},
};
use p2pd_core::{id, multiaddr::Multiaddr as Address};
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Event, Handle, Identity, NetError, Switch,
    context::{Context, Effect},
    dht::{Connected, Lookups},
    dial::Dial,
    handle::{self, Command, Queues},
    peers::{Peers, incompatible::Unshared, memory_limit::Held},
    pubsub::{
        PubSub, Wire,
        flow_control::Drained,
        message_id::{Gossipsub, Settings},
    },
    queue,
    reach::{Reach, autonat, hole_punching, relay_server},
    standing::Standings,
    streams::{
        self,
        behaviour::Acceptors,
        reserved::{Reserved, StreamClass},
    },
    swarm::{
        bandwidth::Meters,
        behaviour::{Behaviour, BehaviourEvent, kad_protocol},
        build,
        far_end::far_end,
        listeners::{self, Listeners},
        shaping::Shaper,
    },
};

/// How often drivers see to what changes by itself.
const TICK: Duration = Duration::from_millis(250);

/// A running network.
pub struct Running {
    /// The way in.
    pub handle: Handle,
    /// Changes of state; after a gap, read the state anew.
    pub events: queue::Reader<Event>,
    /// Ends when the network does.
    pub task: JoinHandle<()>,
}

/// A network that listens, and where nothing comes or goes yet.
pub struct Prepared {
    /// The way in. What is said waits; answers come when it runs.
    pub handle: Handle,
    /// Changes of state; after a gap, read the state anew.
    pub events: queue::Reader<Event>,
    task: Task,
    queues: Queues,
    /// Peers that came through a relay.
    came: mpsc::Receiver<id::PeerId>,
    punches: bool,
    tests_peers: bool,
}

impl Prepared {
    /// Spawns the task of the swarm, which ends when `stop` is cancelled.
    pub fn run(self, stop: CancellationToken) -> Running {
        let Prepared { handle, events, task, queues, came, punches, tests_peers } = self;
        if punches {
            let punching = hole_punching::run(handle.clone(), came);
            tokio::spawn(stop.clone().run_until_cancelled_owned(punching));
        }
        tokio::spawn(stop.clone().run_until_cancelled_owned(autonat::ask(handle.clone())));
        if tests_peers {
            tokio::spawn(stop.clone().run_until_cancelled_owned(autonat::serve(handle.clone())));
        }
        Running { handle, events, task: tokio::spawn(task.run(queues, stop)) }
    }
}

/// Builds the swarm, and listens.
pub fn prepare(config: &Config, identity: &Identity) -> Result<Prepared, NetError> {
    let (settings, held, kad) = (Settings::default(), Held::default(), kad_protocol(&config.network)?);
    let reserved = Reserved::default();
    reserved.add(kad.as_ref(), StreamClass::Bulk);
    let acceptors = Acceptors::new(reserved.clone());
    let shaper = Shaper::new(config.bandwidth);
    let meters = Meters::new(config.network.max_streams_per_connection as usize, reserved, shaper.clone());
    let (swarm, missing) = build::build(config, identity, settings.clone(), &meters, &acceptors)?;
    let own = *swarm.local_peer_id();
    let (context, events) = Context::new();
    let pubsub = PubSub::new(config, settings, own);
    let (to_punch, came) = mpsc::channel(hole_punching::WAITING);
    let (handle, queues) = handle::new(held.clone(), acceptors, shaper, context.clock());
    let task = Task {
        swarm,
        listeners: Listeners::new(missing),
        peers: Peers::new(&config.network, meters, held),
        dial: Dial::new(&config.network, own)?,
        pubsub,
        dht: Lookups::new(&config.network, kad),
        reach: Reach::new(&config.network, &context, to_punch)?,
        context,
        say_protocols: false,
    };
    let punches = config.network.hole_punching == Switch::On;
    let tests_peers = config.network.autonat_server == Switch::On;
    Ok(Prepared { handle, events, task, queues, came, punches, tests_peers })
}

/// Turns that others may have before what is due, when the swarm always has something to tell.
const MAX_LATE: u8 = 8;

struct Task {
    swarm: Swarm<Behaviour>,
    context: Context,
    listeners: Listeners,
    peers: Peers,
    dial: Dial,
    pubsub: PubSub,
    dht: Lookups,
    reach: Reach,
    /// Peers are to be told which protocols are spoken here, with the next tick.
    say_protocols: bool,
}

/// What pub/sub works with.
fn wire(behaviour: &mut Behaviour) -> Wire<'_> {
    let Behaviour { gossipsub, flow, .. } = behaviour;
    Wire { gossipsub, flow }
}

impl Task {
    async fn run(mut self, mut queues: Queues, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut late = 0_u8;
        loop {
            let at = self.pubsub.due(&self.context);
            late = if at.is_some_and(|at| at <= Instant::now()) { late.saturating_add(1) } else { 0 };
            if late > MAX_LATE {
                self.pubsub.on_due(&mut self.context, wire(self.swarm.behaviour_mut()));
                late = 0;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => self.on_tick(),
                () = due(at) => self.pubsub.on_due(&mut self.context, wire(self.swarm.behaviour_mut())),
                Some(command) = queues.next() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_swarm(event),
            }
            self.dht.look(&mut self.swarm.behaviour_mut().kad);
            while let Some(effect) = self.context.next_effect() {
                self.on_effect(effect);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let (context, swarm) = (&mut self.context, &mut self.swarm);
        match command {
            Command::Listeners(listeners::Command(reply)) => drop(reply.send(listeners::addresses(swarm))),
            Command::Peers(command) => {
                let Behaviour { gater, gossipsub, .. } = swarm.behaviour_mut();
                let standings = || standings(&self.dial, &self.pubsub, gossipsub);
                self.peers.on_command(context, gater, command, standings);
            }
            Command::Dial(command) => self.dial.on_command(context, command),
            Command::PubSub(command) => self.pubsub.on_command(context, wire(swarm.behaviour_mut()), command),
            Command::Dht(command) => self.dht.on_command(&mut swarm.behaviour_mut().kad, command),
            Command::Reach(command) => self.reach.on_command(context, command),
            Command::Streams(command) => {
                let speaks =
                    |peer: &PeerId, protocol: &StreamProtocol| self.peers.table().speaks(peer, protocol.as_ref());
                streams::on_command(context, &mut swarm.behaviour_mut().streams, command, speaks);
            }
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, num_established, .. } => {
                self.on_closed(peer_id, connection_id, cause.as_ref(), num_established == 0);
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.on_dial_failed(peer_id, connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(address = %send_back_addr, %error, "an inbound connection has failed");
                if let Some(lack) = Unshared::of(&error) {
                    self.peers.on_refused(&mut self.context, &send_back_addr, lack);
                }
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, &address.into()),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listening_no_more(address.into()),
            SwarmEvent::ListenerError { error, .. } => self.listeners.on_failed(&error, self.context.now()),
            SwarmEvent::NewExternalAddrCandidate { address } => self.reach.on_seen(&self.context, address.into()),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let at_relay = self.reach.on_closed(&mut self.context, listener_id, &reason);
                if let Some(error) = reason.err().filter(|_| !at_relay) {
                    tracing::error!(?addresses, %error, "a listener closed");
                }
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        let (context, behaviour) = (&mut self.context, self.swarm.behaviour_mut());
        match event {
            BehaviourEvent::Gossipsub(event) => {
                let sent_to = |peer: &_| self.peers.table().sent_to(peer);
                self.pubsub.on_gossipsub(context, wire(behaviour), event, sent_to);
            }
            BehaviourEvent::Flow(Drained) => self.pubsub.on_drained(context, wire(behaviour)),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, connection_id }) => {
                self.peers.on_identify(context, &peer_id, &info);
                self.reach.on_identify(connection_id, &info.observed_addr);
                self.dht.on_identify(&mut behaviour.kad, peer_id, info);
            }
            BehaviourEvent::Mdns(event) => self.dial.on_mdns(context, event),
            BehaviourEvent::RelayClient(event) => self.reach.on_relay(context, event),
            BehaviourEvent::RelayServer(event) => relay_server::on_event(context, event),
            BehaviourEvent::Ping(event) => self.peers.on_ping(context, event),
            BehaviourEvent::Kad(event) => {
                if let Some((peer, addresses)) = self.dht.on_event(&mut behaviour.kad, event, context.wall()) {
                    self.dial.on_found(context, peer, addresses);
                }
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        tracing::debug!(%peer, address = %far_end(endpoint), inbound = endpoint.is_listener(), "connected");
        let (context, behaviour) = (&mut self.context, self.swarm.behaviour_mut());
        self.dial.on_connected(&peer, id);
        let meter = self.peers.on_connected(context, peer, id, endpoint);
        // Counted below names.
        let leads_to = meter.as_ref().map(|meter| &meter.address);
        let at = leads_to.filter(|_| !endpoint.is_relayed()).cloned().unwrap_or_else(|| far_end(endpoint));
        let unasked = self.reach.on_connected(context, peer, id, &at.into(), endpoint.is_listener());
        self.dht.on_connected(&mut behaviour.kad, Connected { id, peer, endpoint, leads_to, unasked });
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, cause: Option<&ConnectionError>, last: bool) {
        let why = self.peers.on_closed(&mut self.context, peer, id, cause, |relay| self.reach.limit(relay));
        tracing::debug!(%peer, why, "a connection has closed");
        self.reach.on_connection_closed(id);
        self.dial.on_closed(&peer, &why);
        if last {
            self.pubsub.on_gone(&peer);
            self.dht.on_gone();
        }
    }

    fn on_dial_failed(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &DialError) {
        tracing::debug!(peer = peer.map(|peer| peer.to_string()), %error, "a dial has failed");
        self.reach.on_dial_failed(&self.context, id);
        self.dial.on_failed(peer, id, error);
        self.peers.on_dial_failed(&mut self.context, peer, error);
    }

    fn on_tick(&mut self) {
        let now = self.context.now();
        let context = &mut self.context;
        self.dial.on_tick(context);
        let gossipsub = &self.swarm.behaviour().gossipsub;
        let standings = || standings(&self.dial, &self.pubsub, gossipsub);
        self.peers.on_tick(context, &self.pubsub.followers_of_all(gossipsub), standings);
        for replaced in self.reach.upgrade(now) {
            self.peers.replace(context, replaced);
        }
        self.reach.on_tick(context, || self.peers.table().list(&standings()));
        context.on_tick(|peer| self.peers.table().contains(peer));
        self.dht.on_tick(context, &mut self.swarm.behaviour_mut().kad, self.reach.is_reached());
        self.listeners.on_tick(&mut self.swarm, now);
        if std::mem::take(&mut self.say_protocols) {
            let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
            self.swarm.behaviour_mut().identify.push(peers);
        }
    }

    fn on_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Dial(options) => self.dial(options),
            Effect::Close(id) => drop(self.swarm.close_connection(id)),
            Effect::HangUp(peer, why) => self.peers.hang_up(&mut self.context, peer, why),
            Effect::Reserve(relay, at) => {
                let listener = self.swarm.listen_on(at.clone()).map_err(|error| error.to_string());
                self.reach.on_reserve(&mut self.context, relay, at, listener);
            }
            Effect::Unlisten(id) => drop(self.swarm.remove_listener(id)),
            Effect::Announce(address) => self.swarm.add_external_address(address),
            Effect::Withdraw(address) => self.swarm.remove_external_address(&address),
            Effect::SayProtocols => self.say_protocols = true,
        }
    }

    fn on_listening(&mut self, id: ListenerId, address: &Address) {
        if !self.reach.on_listening(&mut self.context, id, address) {
            self.context.tell(Event::Listening(address.clone()));
        }
    }

    fn on_listening_no_more(&mut self, address: Address) {
        if !address.is_circuit() {
            self.reach.on_listening_no_more(&mut self.context, &address);
            self.context.tell(Event::ListeningNoMore(address));
        }
    }

    fn dial(&mut self, options: DialOpts) {
        let (peer, id) = (options.get_peer_id(), options.connection_id());
        if let Err(error) = self.swarm.dial(options) {
            self.reach.on_dial_failed(&self.context, id);
            self.dial.on_failed(peer, id, &error);
        }
    }
}

/// What the drivers know of each peer.
fn standings(dial: &Dial, pubsub: &PubSub, gossipsub: &Gossipsub) -> Standings {
    let mut standings = Standings::default();
    dial.add_standings(&mut standings);
    pubsub.add_standings(gossipsub, &mut standings);
    standings
}

/// Ends at a time. If it has come, a timer would take another millisecond: it ends after whoever was woken just now had a turn, to whom a
/// judge has handed a message on.
async fn due(at: Option<Instant>) {
    match at {
        None => pending().await,
        Some(at) if at <= Instant::now() => tokio::task::yield_now().await,
        Some(at) => tokio::time::sleep_until(at.into()).await,
    }
}
