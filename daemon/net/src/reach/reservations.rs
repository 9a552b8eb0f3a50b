//! Places at relays: which relays are asked, what they answer, and which addresses through them others are told.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    time::Duration,
};

use ipnet::IpNet;
use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    relay::{client, outbound::hop::ReserveError},
};
use p2pd_core::{
    address_scope::Scope,
    id,
    multiaddr::Multiaddr as Address,
    relays::{Candidate, Loss, Rank, Relays},
    time::{MonoMs, UnixMs},
};

use super::{
    circuit_limit::{CircuitLimit, CircuitLimits},
    reservation_answer::HOP,
};
use crate::{
    Event, NetError, Network,
    context::{Context, Effect},
    dial::parse,
    error::innermost,
    ids,
    peers::{incompatible::causes, table::PeerInfo},
};

/// How often it is looked whether another relay is to be asked, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// Addresses over one relay that are told.
const MAX_TOLD: usize = 3;
/// Relays of which it is told what became of them.
const MAX_KNOWN: usize = 16;

/// For so long after its answer the library asks a relay nothing, in milliseconds: a reservation lasts a minute at least
/// (`reservation_answer.rs`), and is renewed after three quarters of its time.
const QUIET_MS: u64 = 30_000;

/// A relay, and what became of asking it.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Who.
    pub peer: id::PeerId,
    /// What it is to this daemon.
    pub state: RelayState,
    /// Since when.
    pub since: UnixMs,
    /// How long it passes on one connection; `None`: without a bound that it tells.
    pub max_time: Option<Duration>,
    /// How many bytes of one connection it passes on; `None`: without a bound that it tells.
    pub max_bytes: Option<u64>,
    /// The addresses over it that others are told.
    pub addresses: Vec<Address>,
}

/// What a relay is to this daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayState {
    /// It is being asked.
    Asked,
    /// It has a place for this daemon.
    Reserved,
    /// It has none, or none any more, and why.
    Lost(String),
}

/// A listener at a relay.
struct Listening {
    relay: PeerId,
    /// The address of the relay that was given to the library.
    at: Address,
    /// The addresses over it that the relay tells.
    said: Vec<Address>,
    /// When it last agreed.
    answered: Option<MonoMs>,
}

pub(super) struct Reservations {
    /// Those of `network.relays`.
    listed: HashSet<PeerId>,
    choice: Relays,
    listeners: HashMap<ListenerId, Listening>,
    known: HashMap<PeerId, Relay>,
    limits: CircuitLimits,
    looked: Option<MonoMs>,
}

/// The network of an address of the world, within which two relays are not asked.
pub(super) fn network(address: &Address) -> Option<IpNet> {
    let ip = address.ip().filter(|_| address.reach() == Scope::World)?;
    let prefix = if ip.is_ipv4() { 16 } else { 32 };
    Some(IpNet::new(ip, prefix).ok()?.trunc())
}

/// Why a listener at a relay ended.
fn loss(reason: &Result<(), std::io::Error>) -> (Loss, String) {
    let Err(error) = reason else { return (Loss::Gone, "the connection to it closed".into()) };
    let why = causes(error as &(dyn Error + 'static)).find_map(|cause| cause.downcast_ref::<ReserveError>());
    match why {
        Some(ReserveError::ResourceLimitExceeded) => (Loss::Full, "it has no room".into()),
        Some(ReserveError::Refused) => (Loss::Refused, "it refuses this daemon".into()),
        Some(ReserveError::Unsupported) => (Loss::Refused, "it passes on no connections".into()),
        Some(ReserveError::Protocol(fault)) => (Loss::Refused, format!("its answer makes no sense: {fault}")),
        Some(ReserveError::Io(_)) | None => (Loss::Gone, innermost(error)),
    }
}

impl Reservations {
    pub(super) fn new(network: &Network) -> Result<Self, NetError> {
        let listed = network.relays.iter().map(|text| parse(text).map(|(peer, _)| peer));
        Ok(Reservations {
            listed: listed.collect::<Result<_, _>>()?,
            choice: Relays::default(),
            listeners: HashMap::new(),
            known: HashMap::new(),
            limits: CircuitLimits::default(),
            looked: None,
        })
    }

    /// The relays that were asked, ordered by id.
    pub(super) fn list(&self) -> Vec<Relay> {
        let mut relays: Vec<_> = self.known.values().cloned().collect();
        relays.sort_by(|a, b| a.peer.cmp(&b.peer));
        relays
    }

    /// How much of a connection a relay passes on, as it tells.
    pub(super) fn limit(&self, relay: &id::PeerId) -> Option<CircuitLimit> {
        self.limits.of(relay)
    }

    /// Asks relays, as many as are missing.
    pub(super) fn on_tick(&mut self, context: &mut Context, peers: impl FnOnce() -> Vec<PeerInfo>) {
        let now = context.now();
        if self.looked.is_some_and(|at| now.since(at) < LOOK_MS) {
            return;
        }
        self.looked = Some(now);
        let offers: HashMap<id::PeerId, (Candidate, Address)> = peers()
            .into_iter()
            .filter_map(|info| self.offer(&info))
            .map(|(candidate, at)| (candidate.relay.clone(), (candidate, at)))
            .collect();
        let candidates = offers.values().map(|(candidate, _)| candidate.clone()).collect();
        for candidate in self.choice.next(now, candidates) {
            let Some((_, at)) = offers.get(&candidate.relay) else { continue };
            let Some(relay) = ids::to_libp2p(&candidate.relay) else { continue };
            self.choice.asked(&candidate);
            self.note(context, relay, RelayState::Asked);
            context.want(Effect::Reserve(relay, at.clone().through(&candidate.relay).into()));
        }
    }

    /// What a connected peer is worth as a relay, and where it is.
    fn offer(&self, info: &PeerInfo) -> Option<(Candidate, Address)> {
        if !info.protocols.iter().any(|protocol| protocol == HOP) {
            return None;
        }
        let direct = || info.connections.iter().filter(|connection| !connection.address.is_circuit());
        let near = direct().map(|connection| connection.address.reach()).min()?;
        let dialled = direct().find(|connection| !connection.inbound).map(|connection| connection.address.clone());
        let says = || info.addresses.iter().find(|a| a.is_plain() && !a.is_circuit() && a.reach() >= near).cloned();
        let at = dialled.or_else(says)?;
        let listed = ids::to_libp2p(&info.peer).is_some_and(|peer| self.listed.contains(&peer));
        let is_kept = info.kept.iter().any(|why| ["bootstrap", "pinned"].contains(why));
        let rank = match (listed, is_kept) {
            (true, _) => Rank::Listed,
            (_, true) => Rank::Kept,
            _ => Rank::Connected,
        };
        Some((Candidate { relay: info.peer.clone(), rank, rtt: info.rtt, network: network(&at) }, at.without_peer()))
    }

    /// The library listens at a relay, or will not.
    pub(super) fn on_reserve(
        &mut self,
        context: &mut Context,
        relay: PeerId,
        at: Multiaddr,
        listener: Result<ListenerId, String>,
    ) {
        match listener {
            Ok(id) => {
                self.listeners.insert(id, Listening { relay, at: at.into(), said: Vec::new(), answered: None });
            }
            Err(why) => self.lost(context, relay, Loss::Refused, why),
        }
    }

    /// Takes up an address on which the library listens. Whether it is at a relay.
    pub(super) fn on_listening(&mut self, context: &mut Context, id: ListenerId, address: &Address) -> bool {
        let Some(listening) = self.listeners.get_mut(&id) else { return address.is_circuit() };
        let circuit = address.clone().without_peer();
        let of_relay = address.relay().is_some_and(|relay| {
            Some(relay.peer) == listening.at.relay().map(|relay| relay.peer) && !relay.address.is_circuit()
        });
        if of_relay && address.is_plain() && listening.said.len() < MAX_TOLD && !listening.said.contains(&circuit) {
            listening.said.push(circuit);
        }
        self.tell_addresses(context, id);
        true
    }

    /// A listener has closed. Whether it was at a relay.
    pub(super) fn on_closed(
        &mut self,
        context: &mut Context,
        id: ListenerId,
        reason: &Result<(), std::io::Error>,
    ) -> bool {
        let Some(listening) = self.listeners.remove(&id) else { return false };
        let (why, told) = loss(reason);
        self.lost(context, listening.relay, why, told);
        true
    }

    /// Lets go of the relays, once this daemon is reached without them: others are not told of them any more. The place at each is given up
    /// when it has just answered, with the next renewal at the latest, since the library panics where an answer finds no listener.
    pub(super) fn release(&mut self, context: &mut Context) {
        let now = context.now();
        for told in self.known.values_mut().flat_map(|known| known.addresses.drain(..)) {
            context.want(Effect::Withdraw(told.into()));
        }
        let is_quiet = |listening: &Listening| listening.answered.is_some_and(|at| now.since(at) < QUIET_MS);
        for (id, listening) in self.listeners.extract_if(|_, listening| is_quiet(listening)) {
            tracing::info!(relay = %listening.relay, "let go of: this daemon is reached without it");
            self.known.remove(&listening.relay);
            context.want(Effect::Unlisten(id));
            let relay = ids::from_libp2p(&listening.relay);
            self.choice.release(&relay);
            context.tell(Event::RelayLost { relay, why: "this daemon is reached without it".into() });
        }
    }

    fn lost(&mut self, context: &mut Context, relay: PeerId, why: Loss, told: String) {
        for address in self.known.get(&relay).map(|known| known.addresses.clone()).unwrap_or_default() {
            context.want(Effect::Withdraw(address.into()));
        }
        self.choice.lost(context.now(), &ids::from_libp2p(&relay), why);
        tracing::debug!(%relay, why = told, "no place at a relay");
        self.note(context, relay, RelayState::Lost(told));
    }

    /// Takes up what a relay has agreed to.
    pub(super) fn on_relay(&mut self, context: &mut Context, event: client::Event) {
        let (relay, limit, has_place) = match event {
            client::Event::ReservationReqAccepted { relay_peer_id, limit, .. } => (relay_peer_id, limit, true),
            client::Event::OutboundCircuitEstablished { relay_peer_id, limit } => (relay_peer_id, limit, false),
            client::Event::InboundCircuitEstablished { .. } => return,
        };
        let told = limit.as_ref().map(|limit| (limit.duration(), limit.data_in_bytes())).unwrap_or_default();
        let limit = CircuitLimit::new(told.0, told.1);
        self.limits.note(ids::from_libp2p(&relay), limit);
        if !has_place {
            return;
        }
        self.choice.reserved(&ids::from_libp2p(&relay));
        self.note(context, relay, RelayState::Reserved);
        let mut listeners = self.listeners.iter_mut();
        let id = listeners.find(|(_, listening)| listening.relay == relay).map(|(id, listening)| {
            listening.answered = Some(context.now());
            *id
        });
        if let Some(known) = self.known.get_mut(&relay) {
            (known.max_time, known.max_bytes) = (limit.time, limit.bytes);
        }
        id.into_iter().for_each(|id| self.tell_addresses(context, id));
    }

    /// Has others told of the addresses over a relay that has a place for this daemon.
    fn tell_addresses(&mut self, context: &mut Context, id: ListenerId) {
        let Some(Listening { relay, at, said, .. }) = self.listeners.get(&id) else { return };
        let Some(known) = self.known.get_mut(relay).filter(|known| known.state == RelayState::Reserved) else { return };
        let addresses = told(at, said);
        let (before, now) = (known.addresses.iter().collect::<HashSet<_>>(), addresses.iter().collect::<HashSet<_>>());
        let as_told = |address: &Address| Multiaddr::from(address.clone());
        now.difference(&before).for_each(|new| context.want(Effect::Announce(as_told(new))));
        before.difference(&now).for_each(|old| context.want(Effect::Withdraw(as_told(old))));
        known.addresses = addresses;
    }

    /// Notes what a relay is from now on, and tells of it.
    fn note(&mut self, context: &mut Context, relay: PeerId, state: RelayState) {
        let before = self.known.get(&relay).map(|known| known.state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        if self.known.len() >= MAX_KNOWN && before.is_none() {
            let is_lost = |known: &&Relay| matches!(known.state, RelayState::Lost(_));
            let oldest = self.known.values().filter(is_lost).min_by_key(|known| known.since).map(|k| k.peer.clone());
            let oldest = oldest.and_then(|peer| ids::to_libp2p(&peer));
            oldest.map(|peer| self.known.remove(&peer));
        }
        let peer = ids::from_libp2p(&relay);
        match (&state, before) {
            (RelayState::Reserved, _) => context.tell(Event::RelayReserved(peer.clone())),
            (RelayState::Lost(why), Some(RelayState::Reserved)) => {
                context.tell(Event::RelayLost { relay: peer.clone(), why: why.clone() });
            }
            _ => {}
        }
        let known =
            Relay { peer, state, since: context.wall(), max_time: None, max_bytes: None, addresses: Vec::new() };
        self.known.insert(relay, known);
    }
}

/// Of the addresses over a relay, those to tell: the one at which it is reached from here, unless others reach farther, and those that it
/// tells that reach as far.
fn told(at: &Address, said: &[Address]) -> Vec<Address> {
    let all: Vec<_> = std::iter::once(at).chain(said.iter().filter(|said| *said != at)).collect();
    let farthest = all.iter().map(|address| address.reach()).max().unwrap_or(Scope::World);
    all.into_iter().filter(|address| address.reach() == farthest).take(MAX_TOLD).cloned().collect()
}
