//! From where this daemon is reached. While the world reaches none of its addresses, relays pass on connections to it: those to ask are
//! chosen by [`p2pd_core::relays`], and the addresses over them are told to others.

pub(crate) mod circuit_limit;
pub(crate) mod hole_punching;
pub(crate) mod relay_client;
pub(crate) mod relay_server;
pub(crate) mod reservation_answer;
mod reservations;
mod upgrades;

use std::collections::{HashSet, VecDeque};

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    relay::client,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use p2pd_core::{address_scope::Scope, id, multiaddr::Multiaddr as Address, time::MonoMs};
use tokio::sync::{mpsc, oneshot};

pub use self::reservations::{Relay, RelayState};
pub(crate) use self::upgrades::Replaced;
use self::{circuit_limit::CircuitLimit, hole_punching::Role, reservations::Reservations, upgrades::Upgrades};
use crate::{
    Event, NetError, Network,
    commands::Commands,
    context::{Context, Effect},
    ids,
    peers::table::PeerInfo,
};

/// Addresses at which others have seen this daemon that are remembered: a router that uses another port for each peer makes up many.
const MAX_SEEN: usize = 8;

pub(crate) enum Command {
    Relays {
        reply: oneshot::Sender<Vec<Relay>>,
    },
    /// Where others see this daemon.
    Candidates {
        reply: oneshot::Sender<Vec<Address>>,
    },
    /// Dials a peer that does the same at this moment.
    Punch {
        peer: id::PeerId,
        addresses: Vec<Address>,
        role: Role,
    },
}

pub(crate) struct Reach {
    /// The operator says where this daemon is reached.
    announces: bool,
    /// The machine's own addresses on which it listens.
    listens: HashSet<Address>,
    reservations: Reservations,
    /// Addresses at which others have seen this daemon, the newest last.
    seen: VecDeque<Address>,
    upgrades: Upgrades,
    /// To whoever agrees with peers on direct connections.
    came: mpsc::Sender<id::PeerId>,
}

impl Reach {
    pub(crate) fn new(network: &Network, came: mpsc::Sender<id::PeerId>) -> Result<Self, NetError> {
        Ok(Reach {
            announces: !network.announce.is_empty(),
            listens: HashSet::new(),
            reservations: Reservations::new(network)?,
            seen: VecDeque::new(),
            upgrades: Upgrades::default(),
            came,
        })
    }

    pub(crate) fn on_command(&mut self, context: &mut Context, command: Command) {
        match command {
            Command::Relays { reply } => drop(reply.send(self.reservations.list())),
            Command::Candidates { reply } => drop(reply.send(self.candidates())),
            Command::Punch { peer, addresses, role } => {
                if let Some(peer) = ids::to_libp2p(&peer) {
                    self.punch(context, peer, addresses, role);
                }
            }
        }
    }

    /// Where others may reach this daemon when its router expects them: of what they have seen and where it listens, what reaches farthest.
    fn candidates(&self) -> Vec<Address> {
        let all: Vec<_> = self.seen.iter().rev().chain(&self.listens).collect();
        let farthest = all.iter().map(|address| address.reach()).max();
        all.into_iter().filter(|address| Some(address.reach()) == farthest).cloned().collect()
    }

    /// Somebody has seen this daemon at an address.
    pub(crate) fn on_seen(&mut self, address: Address) {
        let address = address.without_peer();
        if address.is_circuit() {
            return;
        }
        self.seen.retain(|seen| *seen != address);
        self.seen.push_back(address);
        if self.seen.len() > MAX_SEEN {
            self.seen.pop_front();
        }
    }

    fn punch(&mut self, context: &mut Context, peer: PeerId, addresses: Vec<Address>, role: Role) {
        let addresses = self.upgrades.admit(context.now(), peer, addresses);
        if addresses.is_empty() {
            return;
        }
        tracing::debug!(%peer, ?addresses, ?role, "dialling as the peer does");
        let addresses = addresses.into_iter().map(Multiaddr::from).collect();
        // From the ports that listen, which are those that the router has let others see.
        let options = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always);
        let options = if role == Role::Listener { options.override_role() } else { options }.build();
        self.upgrades.dialled(options.connection_id(), peer);
        context.want(Effect::Dial(options));
    }

    /// Notes a connection.
    pub(crate) fn on_connected(
        &mut self,
        context: &mut Context,
        peer: PeerId,
        id: ConnectionId,
        address: &Address,
        inbound: bool,
    ) {
        if self.upgrades.connected(context.now(), peer, id, address, inbound) {
            tracing::info!(%peer, %address, "a direct connection stands in place of the one through a relay");
            context.tell(Event::Upgraded(ids::from_libp2p(&peer)));
        }
    }

    pub(crate) fn on_connection_closed(&mut self, id: ConnectionId) {
        self.upgrades.closed(id);
    }

    pub(crate) fn on_dial_failed(&mut self, context: &Context, id: ConnectionId) {
        if let Some(peer) = self.upgrades.failed(context.now(), id) {
            tracing::debug!(%peer, "no direct connection came about");
        }
    }

    /// Asks who came through a relay for a direct connection. The connections through relays that are of use no more.
    pub(crate) fn upgrade(&mut self, now: MonoMs) -> Vec<Replaced> {
        for peer in self.upgrades.due(now) {
            // When too many wait, it stays with the relay.
            let _ = self.came.try_send(ids::from_libp2p(&peer));
        }
        self.upgrades.replaced(now)
    }

    /// Whether others have no way here but through relays. Whether a router lets anybody in at an IPv6 address of the world,
    /// nobody here knows.
    fn needs_relays(&self) -> bool {
        let public = |address: &Address| address.reach() == Scope::World && address.ip().is_some_and(|ip| ip.is_ipv4());
        !self.announces && !self.listens.iter().any(public)
    }

    /// How much of a connection a relay passes on, as it tells.
    pub(crate) fn limit(&self, relay: &id::PeerId) -> Option<CircuitLimit> {
        self.reservations.limit(relay)
    }

    /// Asks relays, as many as are missing, where they are needed.
    pub(crate) fn on_tick(&mut self, context: &mut Context, peers: impl FnOnce() -> Vec<PeerInfo>) {
        if self.needs_relays() {
            self.reservations.on_tick(context, peers);
        }
    }

    /// The library listens at a relay, or will not.
    pub(crate) fn on_reserve(
        &mut self,
        context: &mut Context,
        relay: PeerId,
        at: Multiaddr,
        listener: Result<ListenerId, String>,
    ) {
        self.reservations.on_reserve(context, relay, at, listener);
    }

    /// Takes up what a relay has agreed to.
    pub(crate) fn on_relay(&mut self, context: &mut Context, event: client::Event) {
        self.reservations.on_relay(context, event);
    }

    /// Takes up an address on which the library listens. Whether it is at a relay.
    pub(crate) fn on_listening(&mut self, context: &mut Context, id: ListenerId, address: &Address) -> bool {
        let at_relay = self.reservations.on_listening(context, id, address);
        if !at_relay {
            self.listens.insert(address.clone());
        }
        at_relay
    }

    /// A listener has closed. Whether it was at a relay.
    pub(crate) fn on_closed(
        &mut self,
        context: &mut Context,
        id: ListenerId,
        reason: &Result<(), std::io::Error>,
    ) -> bool {
        self.reservations.on_closed(context, id, reason)
    }

    pub(crate) fn on_listening_no_more(&mut self, address: &Address) {
        self.listens.remove(address);
    }
}

/// Asks from where this daemon is reached.
#[derive(Clone)]
pub struct Handle(pub(crate) Commands<Command>);

impl Handle {
    /// Where others see this daemon.
    async fn candidates(&self) -> Result<Vec<Address>, NetError> {
        self.0.ask(|reply| Command::Candidates { reply }).await
    }

    /// Dials a peer that does the same at this moment.
    async fn punch(&self, peer: &id::PeerId, addresses: Vec<Address>, role: Role) -> Result<(), NetError> {
        self.0.say(Command::Punch { peer: peer.clone(), addresses, role }).await
    }

    /// The relays that were asked.
    pub async fn relays(&self) -> Result<Vec<Relay>, NetError> {
        self.0.ask(|reply| Command::Relays { reply }).await
    }
}
