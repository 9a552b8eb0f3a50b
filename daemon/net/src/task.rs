//! The task that owns the swarm: it takes turns between commands, the network and a tick, and hands each to the driver
//! it belongs to. Nothing is awaited inside an arm.

mod commands;
mod connections;
mod messages;
mod outbox;

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm,
    gossipsub::{IdentTopic, MessageId, TopicHash},
    kad,
    swarm::{ConnectionId, SwarmEvent},
};
use p2pd_core::{
    id::PeerId,
    time::{MonoMs, UnixMs},
    topic,
};
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::outbox::Outbox;
use crate::{
    Config, DhtMode, Event, Handle, Identity, Incoming, NetError, WaterMarks,
    behaviour::{self, Behaviour, BehaviourEvent, kad_protocol},
    command::{Command, HangUp},
    dial::Dial,
    flood::Flood,
    gossip::{Gossip, Unproven},
    greeting::Greetings,
    look_around::LookAround,
    lookup::Lookups,
    memory::{Governor, Held},
    meter::Meters,
    pace::Emptied,
    peers::{self, Peers},
    queue,
    settings::Settings,
    swarm,
    unshared::Unshared,
};

/// Commands that wait before their callers do.
const COMMANDS: usize = 64;
/// Messages from the network that wait for the daemon.
const INCOMING: usize = 256;
/// State changes that wait for the daemon.
const EVENTS: usize = 256;
/// How often addresses are looked for on which this daemon could not listen, in milliseconds.
const LISTEN_AGAIN_MS: u64 = 2_000;
/// How often dialling and looking around are seen to.
const TICK: Duration = Duration::from_millis(250);
/// Least time between two looks for missing groups, in milliseconds; one is worth fetching for some 50.
const REPAIR_MS: u64 = 10;

/// A running network.
pub struct Running {
    /// The way in.
    pub handle: Handle,
    /// Messages that were admitted; when the daemon lags, the oldest go.
    pub incoming: queue::Reader<Incoming>,
    /// Changes of state; after a gap, read the state anew.
    pub events: queue::Reader<Event>,
    /// Ends when the network does.
    pub task: JoinHandle<()>,
}

/// Builds the swarm, listens, and spawns its task, which ends when `stop` is cancelled.
pub fn start(config: &Config, identity: &Identity, stop: CancellationToken) -> Result<Running, NetError> {
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (incoming_writer, incoming) = queue::bounded(INCOMING, 8 << 20);
    let (event_writer, events) = queue::bounded(EVENTS, usize::MAX);
    let settings = Settings::default();
    let meters = Meters::new(config.max_streams_per_connection as usize, kad_protocol(config)?.as_ref());
    let held = Held::default();
    let (swarm, missing) = swarm::build(config, identity, settings.clone(), &meters)?;
    let task = Task {
        swarm,
        dial: Dial::new(&config.bootstrap)?,
        gossip: Gossip::new(settings, config.repair, config.drop_groups_percent),
        peers: Peers::default(),
        kad_protocol: kad_protocol(config)?,
        protocol_version: behaviour::protocol_version(&config.network),
        directory: IdentTopic::new(topic::directory(&config.network)).hash(),
        greetings: Greetings::default(),
        mute: Greetings::lasting(),
        flood: Flood::new(Instant::now()),
        lookups: Lookups::default(),
        dht: config.dht,
        incoming: incoming_writer,
        events: event_writer,
        began: Instant::now(),
        look_around: LookAround::new(),
        repaired: MonoMs(0),
        say_protocols: false,
        unproven: None,
        let_go: HashMap::new(),
        lost: HashMap::new(),
        gone: HashMap::new(),
        outbox: Outbox::default(),
        missing,
        listened: MonoMs(0),
        water_marks: config.water_marks,
        governor: Governor::new(config.memory_budget, held.clone()),
        listener_failed: None,
        meters,
        mplex: config.mplex,
        incompatible: HashMap::new(),
    };
    let task = tokio::spawn(task.run(command_queue, stop));
    Ok(Running { handle: Handle { commands, held }, incoming, events, task })
}

struct Task {
    swarm: Swarm<Behaviour>,
    dial: Dial,
    gossip: Gossip,
    peers: Peers,
    kad_protocol: libp2p::StreamProtocol,
    protocol_version: String,
    /// What every daemon of our network follows.
    directory: TopicHash,
    /// Peers that ought to have told their subscriptions.
    greetings: Greetings,
    /// Peers whose gossip has ended.
    mute: Greetings,
    flood: Flood,
    lookups: Lookups,
    dht: DhtMode,
    incoming: queue::Writer<Incoming>,
    events: queue::Writer<Event>,
    began: Instant,
    look_around: LookAround,
    repaired: MonoMs,
    say_protocols: bool,
    /// A group that gossip brought, handed on already; taken before the next event.
    unproven: Option<(MessageId, libp2p::PeerId, Unproven)>,
    /// Connections that we close, and why.
    let_go: HashMap<ConnectionId, HangUp>,
    /// Messages of programs' topics that the daemon was too slow for, until it is told.
    lost: HashMap<String, u64>,
    /// Peers of whose end the daemon was too slow to hear, until it is told.
    gone: HashMap<PeerId, bool>,
    outbox: Outbox,
    /// Addresses to listen on that the machine did not have, and when it was looked for them.
    missing: Vec<Multiaddr>,
    listened: MonoMs,
    water_marks: WaterMarks,
    governor: Governor,
    /// When it was last logged that a listener failed.
    listener_failed: Option<MonoMs>,
    meters: Meters,
    mplex: bool,
    /// Whom it was told of lately that they lack something, and when.
    incompatible: HashMap<String, MonoMs>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = self.gossip.wake(self.now()).map(|at| at.0.max(self.repaired.0.saturating_add(REPAIR_MS)));
            let wake = wake.and_then(|at| self.began.checked_add(Duration::from_millis(at)));
            let again = self.outbox.wake();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => self.on_tick(),
                () = tokio::time::sleep_until(wake.unwrap_or(self.began).into()), if wake.is_some() => self.on_due(),
                () = outbox::due(again) => self.send_held(),
                Some(command) = commands.recv() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_swarm(event),
            }
            if self.lookups.seeks_peers() {
                self.lookups.look(&mut self.swarm.behaviour_mut().kad);
            }
            self.prove().await;
        }
    }

    fn now(&self) -> MonoMs {
        MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wall() -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn tell(&mut self, event: Event) {
        for dropped in self.events.push(0, event) {
            // The state can be read anew; what was lost, and who went and why, is told again.
            match dropped {
                Event::Lost { topic, count } => self.note_lost(topic, count),
                Event::Disconnected { peer, for_good } if self.gone.len() < EVENTS => {
                    self.gone.insert(peer, for_good);
                }
                _ => {}
            }
        }
    }

    fn note_lost(&mut self, topic: String, more: u64) {
        let count = self.lost.entry(topic).or_default();
        *count = count.saturating_add(more);
    }

    fn on_tick(&mut self) {
        let now = self.now();
        self.dial.tick(&mut self.swarm, now);
        self.renew_silent(now);
        self.renew_mute(now);
        self.trim(&self.water_marks.clone(), "more peers than wanted, and of little use");
        if let Some(room) = self.governor.room(now, self.peers.len()) {
            let marks = WaterMarks { high: room, low: room, grace_ms: 0 };
            self.trim(&marks, "more memory than network.memory_mib, and of little use");
        }
        for (topic, count) in std::mem::take(&mut self.lost) {
            self.tell(Event::Lost { topic, count });
        }
        for (peer, for_good) in std::mem::take(&mut self.gone) {
            if peers::to_libp2p(&peer).is_some_and(|peer| !self.peers.contains(&peer)) {
                self.tell(Event::Disconnected { peer, for_good });
            }
        }
        if std::mem::take(&mut self.say_protocols) {
            let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
            self.swarm.behaviour_mut().identify.push(peers);
        }
        if !self.missing.is_empty() && now.since(self.listened) >= LISTEN_AGAIN_MS {
            self.listened = now;
            swarm::listen_again(&mut self.swarm, &mut self.missing);
        }
        if self.look_around.due(now) {
            // Fails while no peer is known, which is no news.
            let _ = self.swarm.behaviour_mut().kad.bootstrap();
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.on_closed(peer_id, connection_id, cause.as_ref());
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.dial.failed(peer_id, connection_id, &error);
                self.on_dial_failed(peer_id, error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                if let Some(lack) = Unshared::of(&error) {
                    let peer = self.meters.refused(&send_back_addr);
                    self.on_incompatible(peer, send_back_addr, true, lack);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => self.tell(Event::Listening(address.into())),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.tell(Event::ListeningNoMore(address.into())),
            SwarmEvent::ListenerError { error, .. } => self.on_listener_failed(&error),
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "a listener closed");
            }
            _ => {}
        }
    }

    /// A listener that accepts nothing, mostly since no file descriptor is left, tries again ten times a second.
    fn on_listener_failed(&mut self, error: &std::io::Error) {
        const EVERY_MS: u64 = 10_000;
        let now = self.now();
        if self.listener_failed.is_none_or(|at| now.since(at) >= EVERY_MS) {
            self.listener_failed = Some(now);
            tracing::warn!(%error, "a listener failed");
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossipsub(event) => self.on_gossipsub(event),
            BehaviourEvent::Pace(Emptied) => self.send_held(),
            BehaviourEvent::Fetch(event) => self.on_fetch(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, is_new_peer: true, addresses, .. }) => {
                self.look_around.stirred();
                self.on_routable(peer, addresses);
            }
            BehaviourEvent::Kad(event) => {
                self.lookups.on_event(&mut self.swarm.behaviour_mut().kad, event, Self::wall());
            }
            _ => {}
        }
    }
}
