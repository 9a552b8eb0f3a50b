//! What the task lends to its drivers: the time, the queue in which the daemon is told of changes, and a list of what they want done to
//! the swarm. The task does that when the driver has returned, so that no driver needs the swarm, or another driver.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libp2p::swarm::{ConnectionId, dial_opts::DialOpts};
use p2pd_core::{
    id::PeerId,
    time::{MonoMs, UnixMs},
};

use crate::{Event, ids, queue};

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
    /// Has all peers told which protocols are spoken here.
    SayProtocols,
}

pub(crate) struct Context {
    began: Instant,
    events: queue::Writer<Event>,
    effects: VecDeque<Effect>,
    /// Messages of programs' topics that the daemon was too slow for, until it is told.
    lost: HashMap<String, u64>,
    /// Peers of whose end the daemon was too slow to hear, until it is told.
    gone: HashMap<PeerId, bool>,
}

impl Context {
    pub(crate) fn new() -> (Self, queue::Reader<Event>) {
        let (events, reader) = queue::bounded(EVENTS, usize::MAX);
        let (effects, lost, gone) = (VecDeque::new(), HashMap::new(), HashMap::new());
        (Context { began: Instant::now(), events, effects, lost, gone }, reader)
    }

    /// Since the start.
    pub(crate) fn now(&self) -> MonoMs {
        MonoMs(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The same as an instant.
    pub(crate) fn instant(&self, at: MonoMs) -> Option<Instant> {
        self.began.checked_add(Duration::from_millis(at.0))
    }

    pub(crate) fn wall(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Tells the daemon. What it can read anew is dropped when it is slow; what was lost, and who went and why, is told again.
    pub(crate) fn tell(&mut self, event: Event) {
        for dropped in self.events.push(0, event) {
            match dropped {
                Event::Lost { topic, count } => self.note_lost(topic, count),
                Event::Disconnected { peer, for_good } if self.gone.len() < EVENTS => {
                    self.gone.insert(peer, for_good);
                }
                _ => {}
            }
        }
    }

    /// Counts messages of a topic that the daemon is told it lost, with the next tick.
    pub(crate) fn note_lost(&mut self, topic: String, more: u64) {
        let count = self.lost.entry(topic).or_default();
        *count = count.saturating_add(more);
    }

    /// A peer is connected again.
    pub(crate) fn is_back(&mut self, peer: &PeerId) {
        self.gone.remove(peer);
    }

    /// Tells again what the daemon was too slow for.
    pub(crate) fn on_tick(&mut self, is_connected: impl Fn(&libp2p::PeerId) -> bool) {
        for (topic, count) in std::mem::take(&mut self.lost) {
            self.tell(Event::Lost { topic, count });
        }
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
