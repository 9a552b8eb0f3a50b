//! From where this daemon is reached. While the world reaches none of its addresses, relays pass on connections to it: those to ask are
//! chosen by [`p2pd_core::relays`], and the addresses over them are told to others.

pub(crate) mod autonat;
pub(crate) mod circuit_limit;
mod delimited;
mod handle;
pub(crate) mod hole_punching;
mod observed;
pub(crate) mod relay_client;
pub(crate) mod relay_server;
pub(crate) mod reservation_answer;
mod reservations;
mod upgrades;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    relay::client,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use p2pd_core::{
    address_scope::Scope,
    id,
    multiaddr::Multiaddr as Address,
    reachability::{Answer, OwnAddress, Reachability, Source, State, Witness},
    time::MonoMs,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::handle::Handle;
pub use self::reservations::{Relay, RelayState};
pub(crate) use self::upgrades::Replaced;
use self::{
    circuit_limit::CircuitLimit, hole_punching::Role, observed::Observed, reservations::Reservations,
    upgrades::Upgrades,
};
use crate::{
    Event, NetError, Network,
    context::{Context, Effect},
    dial::parse_announce,
    ids,
    peers::table::PeerInfo,
};

/// From where this daemon is reached.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// Own addresses, those first that reach farthest.
    pub addresses: Vec<OwnAddress>,
    /// Each peer sees another port, so that a router is between that gives each destination its own.
    pub ports_vary: bool,
}

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
    Own {
        reply: oneshot::Sender<Reached>,
    },
    /// An own address that is to be tested now, and the peers that did not reach it.
    Due {
        reply: oneshot::Sender<Option<(Address, Vec<id::PeerId>)>>,
    },
    /// An own address was tested, by a peer that answered so; or nobody was there to ask.
    Tested {
        address: Address,
        answer: Option<(id::PeerId, Answer)>,
    },
    /// Makes a new connection to a peer at this address, from a port that nobody has sent to.
    DialBack {
        peer: PeerId,
        address: Address,
        reply: oneshot::Sender<Option<ConnectionId>>,
    },
    HangUp(ConnectionId),
}

pub(crate) struct Reach {
    /// The machine's own addresses on which it listens.
    listens: HashSet<Address>,
    reservations: Reservations,
    /// Addresses at which others have seen this daemon, the newest last.
    seen: VecDeque<Address>,
    upgrades: Upgrades,
    reachability: Reachability,
    /// Where peers see this machine.
    observed: Observed,
    /// Dials for a test of somebody's address.
    dial_backs: HashMap<ConnectionId, oneshot::Sender<Option<ConnectionId>>>,
    /// To whoever agrees with peers on direct connections.
    came: mpsc::Sender<id::PeerId>,
}

impl Reach {
    pub(crate) fn new(network: &Network, context: &Context, came: mpsc::Sender<id::PeerId>) -> Result<Self, NetError> {
        let mut reachability = Reachability::default();
        for address in &network.announce {
            let address = Address::from(parse_announce(address)?);
            reachability.offer(context.now(), context.wall(), address, Source::Operator, |_| true);
        }
        Ok(Reach {
            listens: HashSet::new(),
            reservations: Reservations::new(network)?,
            seen: VecDeque::new(),
            upgrades: Upgrades::default(),
            reachability,
            observed: Observed::default(),
            dial_backs: HashMap::new(),
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
            Command::Own { reply } => {
                drop(reply.send(Reached {
                    addresses: self.own_addresses(),
                    ports_vary: self.observed.ports_vary(&self.listens),
                }));
            }
            Command::Due { reply } => {
                let is_credible = |address: &Address| is_credible(&self.listens, &self.observed, address);
                drop(reply.send(self.reachability.due(context.now(), is_credible)));
            }
            Command::Tested { address, answer } => self.tested(context, &address, answer),
            Command::DialBack { peer, address, reply } => {
                let options = DialOpts::peer_id(peer).addresses(vec![address.into()]).condition(PeerCondition::Always);
                let options = options.allocate_new_port().build();
                self.dial_backs.insert(options.connection_id(), reply);
                context.want(Effect::Dial(options));
            }
            Command::HangUp(id) => context.want(Effect::Close(id)),
        }
    }

    fn offer(&mut self, context: &Context, address: Address, source: Source) {
        let is_credible = |address: &Address| is_credible(&self.listens, &self.observed, address);
        self.reachability.offer(context.now(), context.wall(), address, source, is_credible);
    }

    /// Own addresses, and from where each is reached.
    fn own_addresses(&self) -> Vec<OwnAddress> {
        let mut own = self.reachability.list(|address| self.observed.count(address));
        for relay in self.reservations.list() {
            let through = |address| OwnAddress {
                address,
                state: State::Relayed,
                since: relay.since,
                witness: Witness::Relay(relay.peer.clone()),
                refused_by: Vec::new(),
            };
            own.extend(relay.addresses.iter().cloned().map(through));
        }
        own.sort_by_cached_key(|own| (Reverse(own.address.reach()), own.address.to_string()));
        own
    }

    fn tested(&mut self, context: &mut Context, address: &Address, answer: Option<(id::PeerId, Answer)>) {
        let Some((peer, answer)) = answer else { return self.reachability.nobody(context.now(), address) };
        let changed = self.reachability.answered(context.now(), context.wall(), address, &peer, answer);
        let is_told = self.listens.contains(address);
        match changed {
            Some(State::Public) => {
                tracing::info!(%address, by = %peer, "reached from the world");
                context.tell(Event::Reached { address: address.clone(), by: peer });
                if !is_told {
                    context.want(Effect::Announce(address.clone().into()));
                }
            }
            Some(_) => {
                tracing::info!(%address, by = %peer, "not reached from the world");
                context.tell(Event::NotReached { address: address.clone(), by: peer });
                if !is_told {
                    context.want(Effect::Withdraw(address.clone().into()));
                }
            }
            None => {}
        }
    }

    /// Takes up where a peer sees this machine.
    pub(crate) fn on_identify(&mut self, id: ConnectionId, observed: &Multiaddr) {
        self.observed.note(id, observed.clone().into());
    }

    /// Whether the world reaches this daemon, as far as peers have tested it, or its operator says.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        self.reachability.is_reached()
    }

    /// Where others may reach this daemon when its router expects them: of what they have seen and where it listens, what reaches farthest.
    fn candidates(&self) -> Vec<Address> {
        let all: Vec<_> = self.seen.iter().rev().chain(&self.listens).collect();
        let farthest = all.iter().map(|address| address.reach()).max();
        all.into_iter().filter(|address| Some(address.reach()) == farthest).cloned().collect()
    }

    /// Somebody has seen this daemon at an address.
    pub(crate) fn on_seen(&mut self, context: &Context, address: Address) {
        let address = address.without_peer();
        if address.is_circuit() || !address.is_plain() {
            return;
        }
        if address.reach() == Scope::World {
            self.offer(context, address.clone(), Source::Observed);
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

    /// Notes a connection. Whether the peer has come by itself, which proves that others may: not through a relay, nor as the other side of
    /// a dial of ours.
    pub(crate) fn on_connected(
        &mut self,
        context: &mut Context,
        peer: PeerId,
        id: ConnectionId,
        address: &Address,
        inbound: bool,
    ) -> bool {
        match self.dial_backs.remove(&id).map(|reply| reply.send(Some(id))) {
            Some(Ok(())) => {}
            // Nobody waits any more for one that came too late.
            Some(Err(_)) => context.want(Effect::Close(id)),
            None if !address.is_circuit() => self.observed.connected(id, peer, address, inbound),
            None => {}
        }
        if self.upgrades.connected(context.now(), peer, id, address, inbound) {
            tracing::info!(%peer, %address, "a direct connection stands in place of the one through a relay");
            context.tell(Event::Upgraded(ids::from_libp2p(&peer)));
        }
        inbound && !address.is_circuit() && !self.upgrades.is_relayed(&peer)
    }

    pub(crate) fn on_connection_closed(&mut self, id: ConnectionId) {
        self.observed.closed(id);
        self.upgrades.closed(id);
    }

    pub(crate) fn on_dial_failed(&mut self, context: &Context, id: ConnectionId) {
        if let Some(reply) = self.dial_backs.remove(&id) {
            let _ = reply.send(None);
        }
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

    /// Whether others have no way here but through relays. While nobody has tested that, an IPv4 address of the world is believed in; at an
    /// IPv6 address, a router may let nobody in.
    fn needs_relays(&self) -> bool {
        let public = |address: &Address| address.reach() == Scope::World && address.ip().is_some_and(|ip| ip.is_ipv4());
        !self.is_reached().unwrap_or_else(|| self.listens.iter().any(public))
    }

    /// How much of a connection a relay passes on, as it tells.
    pub(crate) fn limit(&self, relay: &id::PeerId) -> Option<CircuitLimit> {
        self.reservations.limit(relay)
    }

    /// Asks relays, as many as are missing, where they are needed.
    pub(crate) fn on_tick(&mut self, context: &mut Context, peers: impl FnOnce() -> Vec<PeerInfo>) {
        if self.needs_relays() {
            self.reservations.on_tick(context, peers);
        } else {
            self.reservations.release(context);
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
            self.offer(context, address.clone().without_peer(), Source::Listener);
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

    pub(crate) fn on_listening_no_more(&mut self, context: &mut Context, address: &Address) {
        self.listens.remove(address);
        if let Some(by) = self.reachability.withdraw(address) {
            context.tell(Event::NotReached { address: address.clone(), by });
        }
    }
}

/// Whether this machine may have an address at which peers say that they see it. One that has an address of the world is not behind a
/// router, and knows its own.
fn is_credible(listens: &HashSet<Address>, observed: &Observed, address: &Address) -> bool {
    let family = |ip: &IpAddr| address.ip().is_some_and(|seen| seen.is_ipv4() == ip.is_ipv4());
    let of_world = listens.iter().filter(|own| own.reach() == Scope::World).filter_map(Address::ip);
    let own: HashSet<IpAddr> = of_world.filter(family).collect();
    match own.is_empty() {
        true => observed.is_credible(address),
        false => address.ip().is_some_and(|ip| own.contains(&ip)),
    }
}
