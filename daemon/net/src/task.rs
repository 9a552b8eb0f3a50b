//! The task that owns the swarm: it takes turns between commands, the network and a tick, and hands each to the driver
//! it belongs to. Nothing is awaited inside an arm.

mod commands;
mod outbox;

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use libp2p::{
    Swarm,
    gossipsub::{self, IdentTopic, MessageAcceptance, MessageId, TopicHash},
    identify, kad, mdns, ping, request_response,
    swarm::SwarmEvent,
};
use p2pd_core::{
    scope,
    time::{MonoMs, UnixMs},
    topic,
};
use tokio::{sync::mpsc, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::outbox::Outbox;
use crate::{
    Config, DhtMode, Event, Handle, Identity, Incoming, NetError, WaterMarks,
    behaviour::{self, Behaviour, BehaviourEvent, kad_protocol},
    command::Command,
    dial::Dial,
    fetch,
    gossip::{Gossip, Judged, Report, Unproven, followers},
    greeting::Greetings,
    lookup::Lookups,
    memory::Governor,
    meter::Meters,
    pace::Emptied,
    peers::{self, Peers},
    queue,
    settings::Settings,
    stream::Ask,
    swarm,
    validators::{Ruled, Ruling},
    worth,
};

/// Commands that wait before their callers do.
const COMMANDS: usize = 64;
/// Messages from the network that wait for the daemon.
const INCOMING: usize = 256;
/// State changes that wait for the daemon.
const EVENTS: usize = 256;
/// How often dialling and looking around are seen to.
const TICK: Duration = Duration::from_millis(250);
/// Least time between two looks for missing groups, in milliseconds; one is worth fetching for some 50.
const REPAIR_MS: u64 = 10;
/// How often Kademlia looks around, in milliseconds.
const LOOK_AROUND_MS: u64 = 60_000;

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
    let meters = Meters::new(config.max_streams_per_connection as usize);
    let swarm = swarm::build(config, identity, settings.clone(), &meters)?;
    let task = Task {
        swarm,
        dial: Dial::new(&config.bootstrap)?,
        gossip: Gossip::new(config, settings),
        peers: Peers::default(),
        kad_protocol: kad_protocol(config)?,
        protocol_version: behaviour::protocol_version(&config.network),
        directory: IdentTopic::new(topic::directory(&config.network)).hash(),
        greetings: Greetings::default(),
        lookups: Lookups::default(),
        dht: config.dht,
        incoming: incoming_writer,
        events: event_writer,
        began: Instant::now(),
        looked_around: MonoMs(0),
        repaired: MonoMs(0),
        say_protocols: false,
        unproven: None,
        let_go: HashMap::new(),
        lost: HashMap::new(),
        outbox: Outbox::default(),
        water_marks: config.water_marks,
        governor: Governor::new(config.memory_budget),
        meters,
    };
    let task = tokio::spawn(task.run(command_queue, stop));
    Ok(Running { handle: Handle { commands }, incoming, events, task })
}

/// Why this daemon closes the connections to a peer, and whether it wants none for now.
#[derive(Clone, Copy)]
struct HangUp {
    why: &'static str,
    for_good: bool,
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
    greetings: Greetings,
    lookups: Lookups,
    dht: DhtMode,
    incoming: queue::Writer<Incoming>,
    events: queue::Writer<Event>,
    began: Instant,
    looked_around: MonoMs,
    repaired: MonoMs,
    say_protocols: bool,
    /// A group that gossip brought, handed on already; taken before the next event.
    unproven: Option<(MessageId, libp2p::PeerId, Unproven)>,
    /// Peers that we hang up on, and why.
    let_go: HashMap<libp2p::PeerId, HangUp>,
    /// Messages of programs' topics that the daemon was too slow for, until it is told.
    lost: HashMap<String, u64>,
    outbox: Outbox,
    water_marks: WaterMarks,
    governor: Governor,
    meters: Meters,
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
                () = tokio::time::sleep_until(wake.unwrap_or(self.began).into()), if wake.is_some() => {
                    self.repaired = self.now();
                    let asks = self.gossip.due(&self.swarm.behaviour().gossipsub, self.repaired);
                    self.ask_all(asks);
                    self.gossip.validators.due(self.repaired).into_iter().for_each(|ruled| self.conclude_ruled(ruled));
                }
                () = outbox::due(again) => self.send_held(),
                Some(command) = commands.recv() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_swarm(event),
            }
            if self.lookups.seeks_peers() {
                let reach = self.peers.nearest();
                self.lookups.look(&mut self.swarm.behaviour_mut().kad, reach);
            }
            if let Some((id, source, unproven)) = self.unproven.take() {
                // First what waits for the group: it is on its way to programs while its signature is checked.
                tokio::task::yield_now().await;
                let acceptance = self.gossip.prove(unproven, &source, self.now());
                self.report(&id, &source, acceptance);
            }
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
            // The state can be read anew; what was lost is told again.
            if let Event::Lost { topic, count } = dropped {
                self.note_lost(topic, count);
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
        self.trim(&self.water_marks.clone(), "more peers than wanted, and of little use");
        if let Some(room) = self.governor.room(now, self.peers.len()) {
            let marks = WaterMarks { high: room, low: room, grace_ms: 0 };
            self.trim(&marks, "more memory than network.memory_mib, and of little use");
        }
        for (topic, count) in std::mem::take(&mut self.lost) {
            self.tell(Event::Lost { topic, count });
        }
        let connected = &self.swarm;
        self.let_go.retain(|peer, _| connected.is_connected(peer));
        if std::mem::take(&mut self.say_protocols) {
            let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
            self.swarm.behaviour_mut().identify.push(peers);
        }
        if now.since(self.looked_around) >= LOOK_AROUND_MS {
            self.looked_around = now;
            // Fails while no peer is known, which is no news.
            let _ = self.swarm.behaviour_mut().kad.bootstrap();
        }
    }

    /// Lets go of peers that ought to follow the directory and have not said so.
    fn renew_silent(&mut self, now: MonoMs) {
        let known = followers(&self.swarm.behaviour().gossipsub, &self.directory);
        let silent = self.peers.ours().filter(|peer| !known.contains(peer)).collect();
        for peer in self.greetings.overdue(now, silent, |peer| self.peers.contains(peer)) {
            tracing::info!(%peer, "its subscriptions were not heard; connecting anew");
            let _ = self.hang_up(peer, HangUp { why: "its subscriptions were not heard", for_good: false });
        }
    }

    fn ask_all(&mut self, asks: impl IntoIterator<Item = Ask>) {
        for Ask { peer, request } in asks {
            self.swarm.behaviour_mut().fetch.send_request(&peer, request);
        }
    }

    /// Asks up to two followers of a topic for its last seconds.
    fn burst(&mut self, topic: &TopicHash) {
        let followers = followers(&self.swarm.behaviour().gossipsub, topic);
        let asks: Vec<Ask> = followers.into_iter().take(2).filter_map(|peer| self.gossip.burst(topic, peer)).collect();
        self.ask_all(asks);
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.dial.connected(&peer_id, connection_id);
                self.let_go.remove(&peer_id);
                // Whoever has dialled us proves that others may.
                if endpoint.is_listener() && self.dht == DhtMode::Auto {
                    self.dht = DhtMode::Server;
                    self.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Server));
                    self.say_protocols = true;
                }
                let meter = self.meters.claim(&peer_id, endpoint.get_remote_address());
                if self.peers.opened(peer_id, connection_id, &endpoint, meter, Self::wall()) {
                    self.tell(Event::Connected(peers::from_libp2p(&peer_id)));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let why = self.why_closed(&peer_id, cause.as_ref());
                if !self.peers.closed(&peer_id, connection_id, why, Self::wall()) {
                    return;
                }
                let for_good = self.let_go.remove(&peer_id).is_some_and(|hung_up| hung_up.for_good);
                self.tell(Event::Disconnected { peer: peers::from_libp2p(&peer_id), for_good });
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.dial.failed(peer_id, connection_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.tell(Event::Listening(address.to_string()));
                // Kademlia passes on no provider without an address. Whether it can be reached there, whoever dials sees.
                self.swarm.add_external_address(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "a listener closed");
            }
            _ => {}
        }
    }

    /// Why a connection closed: because we let go of the peer, or as the transport has it.
    fn why_closed(&mut self, peer: &libp2p::PeerId, cause: Option<&libp2p::swarm::ConnectionError>) -> String {
        match (self.let_go.get(peer), cause) {
            (Some(hung_up), _) => hung_up.why.to_owned(),
            (None, None) => "closed by either side in good order".to_owned(),
            (None, Some(error)) => crate::dial::innermost(error),
        }
    }

    /// Lets go of a peer, and remembers why until it is gone.
    fn hang_up(&mut self, peer: libp2p::PeerId, why: HangUp) -> Result<(), ()> {
        let known = self.swarm.disconnect_peer_id(peer);
        if known.is_ok() {
            self.let_go.insert(peer, why);
        }
        known
    }

    /// Lets go of the least useful peers when there are too many.
    fn trim(&mut self, marks: &WaterMarks, why: &'static str) {
        let gossipsub = &self.swarm.behaviour().gossipsub;
        for peer in worth::let_go(&self.peers, &self.dial, gossipsub, Self::wall(), marks) {
            tracing::debug!(%peer, "let go of: {why}");
            let _ = self.hang_up(peer, HangUp { why, for_good: true });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossipsub(event) => self.on_gossipsub(event),
            BehaviourEvent::Pace(Emptied) => self.send_held(),
            BehaviourEvent::Fetch(event) => self.on_fetch(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(rtt), .. }) => self.peers.pinged(&peer, rtt),
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, is_new_peer: true, addresses, .. }) => {
                let reach = self.peers.nearest();
                let useful = addresses.into_vec().into_iter().filter(|a| scope::of(&a.to_string()) >= reach);
                self.on_found(peer, useful.collect());
            }
            BehaviourEvent::Kad(event) => {
                let reach = self.peers.nearest();
                self.lookups.on_event(&mut self.swarm.behaviour_mut().kad, event, Self::wall(), reach);
            }
            _ => {}
        }
    }

    fn on_gossipsub(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let (now, wall) = (self.now(), Self::wall());
                let judged = self.gossip.judge(&propagation_source, message_id.clone(), message, now, wall);
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
    fn conclude(&mut self, id: &MessageId, source: &libp2p::PeerId, judged: Judged) {
        let topic = match &judged.incoming {
            Some(Incoming::Message { topic, .. }) => Some(topic.clone()),
            _ => None,
        };
        if let Some(incoming) = judged.incoming {
            self.hand_on(incoming);
        }
        match (judged.report, topic) {
            (Report::Now(MessageAcceptance::Accept), Some(topic)) => self.pass_on_or_hold(topic, id.clone(), *source),
            (Report::Now(acceptance), _) => self.report(id, source, acceptance),
            (Report::Once(unproven), _) => self.unproven = Some((id.clone(), *source, unproven)),
        }
    }

    fn hand_on(&mut self, incoming: Incoming) {
        for lost in self.incoming.push(incoming.weight(), incoming) {
            if let Incoming::Message { topic, .. } = lost {
                self.note_lost(topic, 1);
            }
        }
    }

    fn report(&mut self, id: &MessageId, source: &libp2p::PeerId, acceptance: MessageAcceptance) {
        if matches!(acceptance, MessageAcceptance::Reject) {
            tracing::debug!(peer = %source, "sender loses score");
        }
        self.swarm.behaviour_mut().gossipsub.report_message_validation_result(id, source, acceptance);
    }

    fn conclude_ruled(&mut self, Ruled(waiting, ruling): Ruled) {
        let incoming = (ruling == Ruling::Accept).then_some(waiting.incoming);
        let report = Report::Now(ruling.into());
        self.conclude(&waiting.id, &waiting.source, Judged { incoming, report });
    }

    fn on_fetch(&mut self, event: request_response::Event<fetch::Request, fetch::Response>) {
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

    fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        self.peers.identified(&peer_id, &info, info.protocol_version == self.protocol_version);
        if info.protocols.contains(&self.kad_protocol) {
            let reach = self.peers.reach(&peer_id);
            let useful = info.listen_addrs.into_iter().filter(|address| scope::of(&address.to_string()) >= reach);
            for address in useful.take(8) {
                self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
            }
        }
        self.tell(Event::Identified(peers::from_libp2p(&peer_id)));
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, address) in found.into_iter().take(64) {
            self.on_found(peer, vec![address]);
        }
    }

    /// Connects to a peer that discovery found, as long as few are connected.
    fn on_found(&mut self, peer: libp2p::PeerId, addresses: Vec<libp2p::Multiaddr>) {
        const ENOUGH: usize = 24;
        // Not those that would have to go again.
        let enough = ENOUGH.min(self.water_marks.low);
        if addresses.is_empty() || self.peers.contains(&peer) || self.swarm.connected_peers().count() >= enough {
            return;
        }
        let options = libp2p::swarm::dial_opts::DialOpts::peer_id(peer).addresses(addresses);
        // It finds us at the same moment. Two dials from the ports that both listen on would meet as one connection of TCP,
        // on which each side waits for the other's answer.
        let _ = self.swarm.dial(options.allocate_new_port().build());
    }
}
