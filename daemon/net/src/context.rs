//! What the task lends to its drivers: the time, the queue in which the daemon is told of changes, and a list of what they want done to
//! the swarm. The task does that when the driver has returned, so that no driver needs the swarm, or another driver.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use libp2p::{
    Multiaddr,
    core::transport::ListenerId,
    swarm::{ConnectionId, dial_opts::DialOpts},
};
use p2pd_core::{
    id::PeerId,
    time::{MonoMs, UnixMs},
};

use crate::{Event, clock::Clock, ids, queue};

/// State changes that wait for the daemon.
const EVENTS: usize = 256;

/// Why this daemon closes the connections to a peer, and whether it wants none for now.
#[derive(Clone, Copy)]
pub(crate) struct HangUp {
    pub(crate) why: &'static str,
    pub(crate) for_good: bool,
}

/// What a driver wants done.
pub(crate) enum Effect {
    Dial(DialOpts),
    /// Closes one connection; the peer driver knows why.
    Close(ConnectionId),
    HangUp(libp2p::PeerId, HangUp),
    /// Listens at a relay, at this address.
    Reserve(libp2p::PeerId, Multiaddr),
    /// Listens there no more.
    Unlisten(ListenerId),
    /// Has others told that this daemon is reached at an address.
    Announce(Multiaddr),
    /// Has it told no more.
    Withdraw(Multiaddr),
    /// Has all peers told which protocols are spoken here.
    SayProtocols,
}

pub(crate) struct Context {
    clock: Clock,
    events: queue::Writer<Event>,
    effects: VecDeque<Effect>,
    /// Peers of whose end the daemon was too slow to hear, until it is told.
    gone: HashMap<PeerId, bool>,
}

impl Context {
    pub(crate) fn new() -> (Self, queue::Reader<Event>) {
        let (events, reader) = queue::bounded(EVENTS, usize::MAX);
        (Context { clock: Clock::start(), events, effects: VecDeque::new(), gone: HashMap::new() }, reader)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn now(&self) -> MonoMs {
        self.clock.now()
    }

    pub(crate) fn instant(&self, at: MonoMs) -> Option<Instant> {
        self.clock.instant(at)
    }

    pub(crate) fn wall(&self) -> UnixMs {
        self.clock.wall()
    }

    /// Tells the daemon. What it can read anew is dropped when it is slow; who went and why is told again.
    pub(crate) fn tell(&mut self, event: Event) {
        for dropped in self.events.push(0, event) {
            if let Event::Disconnected { peer, for_good } = dropped
                && self.gone.len() < EVENTS
            {
                self.gone.insert(peer, for_good);
            }
        }
    }

    /// A peer is connected again.
    pub(crate) fn is_back(&mut self, peer: &PeerId) {
        self.gone.remove(peer);
    }

    /// Tells again what the daemon was too slow for.
    pub(crate) fn on_tick(&mut self, is_connected: impl Fn(&libp2p::PeerId) -> bool) {
        for (peer, for_good) in std::mem::take(&mut self.gone) {
            if ids::to_libp2p(&peer).is_some_and(|peer| !is_connected(&peer)) {
                self.tell(Event::Disconnected { peer, for_good });
            }
        }
    }

    pub(crate) fn want(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn hang_up(&mut self, peer: libp2p::PeerId, why: HangUp) {
        self.want(Effect::HangUp(peer, why));
    }

    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
