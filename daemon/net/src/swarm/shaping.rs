//! How fast bytes go to peers and come from them, so that sound is in time on a line that something else fills. Sound waits for
//! nothing; messages and bulk have what it leaves, in this order.

use std::{
    collections::HashMap,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use libp2p::PeerId;
use p2pd_core::{
    pace::{Micros, Order, Pace},
    setting::Fault,
};
use tokio::time::{Sleep, sleep};

use crate::{config::Bandwidth, streams::reserved::StreamClass};

/// What a write costs beside its bytes: what the muxer, the encryption, TCP and IP add to it, and of these a part of its length.
const HEADERS: u64 = 64;
const HEADERS_PART: u64 = 20;

/// How long it counts that a message has found no room: a minute.
const LATELY: Micros = 60_000_000;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To peers.
    Up,
    /// From peers.
    Down,
}

/// Both ways of one kind of traffic.
#[derive(Default)]
struct Both {
    up: Pace,
    down: Pace,
}

impl Both {
    fn set(&mut self, (up, down): (u64, u64), now: Micros) {
        self.up.set(up, now);
        self.down.set(down, now);
    }

    fn pace(&mut self, way: Way) -> &mut Pace {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }
}

/// What a peer with connections has.
struct Peer {
    /// Its connections, and those of them to beyond the local network.
    connections: usize,
    of_wan: usize,
    paces: Both,
}

struct State {
    limits: Bandwidth,
    all: Both,
    wan: Both,
    bulk: Both,
    messages: Pace,
    /// What is published, before it is written: so much of it that it goes at once.
    published: Pace,
    published_wan: Pace,
    peers: HashMap<PeerId, Peer>,
    /// Messages of topics that have found no room, and when the last of them did.
    left_out: Option<(u64, Micros)>,
}

impl State {
    fn set(&mut self, limits: Bandwidth, now: Micros) {
        let Bandwidth { upload, download, wan_upload, wan_download, .. } = limits;
        self.all.set((upload.0, download.0), now);
        self.wan.set((wan_upload.0, wan_download.0), now);
        self.bulk.set((limits.bulk_upload.0, limits.bulk_download.0), now);
        self.messages.set(limits.messages_upload.0, now);
        let bounds = [upload.0, limits.messages_upload.0];
        self.published.set(bounds.into_iter().filter(|rate| *rate > 0).min().unwrap_or(0), now);
        self.published_wan.set(wan_upload.0, now);
        for peer in self.peers.values_mut() {
            peer.paces.set((limits.peer_upload.0, limits.peer_download.0), now);
        }
        self.limits = limits;
    }

    /// The paces that the bytes of a stream keep to.
    fn paces(&mut self, line: &Line, way: Way, class: StreamClass) -> impl Iterator<Item = &mut Pace> {
        let wan = line.is_wan.then(|| self.wan.pace(way));
        let class = match (class, way) {
            (StreamClass::Bulk, _) => Some(self.bulk.pace(way)),
            (StreamClass::Messages, Way::Up) => Some(&mut self.messages),
            (StreamClass::Messages, Way::Down) | (StreamClass::Live, _) => None,
        };
        let peer = self.peers.get_mut(&line.peer).map(|peer| peer.paces.pace(way));
        std::iter::once(self.all.pace(way)).chain(wan).chain(class).chain(peer)
    }

    /// How many of these peers are beyond the local network.
    fn of_wan(&self, peers: &[PeerId]) -> usize {
        peers.iter().filter(|peer| self.peers.get(peer).is_some_and(|peer| peer.of_wan > 0)).count()
    }

    /// Whether a message may go, also beyond the local network where it is to.
    fn is_free(&mut self, now: Micros, is_wan: bool) -> bool {
        let beyond = [&mut self.wan.up, &mut self.published_wan].into_iter().filter(|_| is_wan);
        let mut paces = [&mut self.all.up, &mut self.published].into_iter().chain(beyond);
        paces.all(|pace| pace.allowance(now, Order::First).is_ok())
    }
}

struct Shared {
    began: Instant,
    /// There is some bound.
    bounded: AtomicBool,
    state: Mutex<State>,
}

/// How fast bytes go, for all connections.
#[derive(Clone)]
pub struct Shaper(Arc<Shared>);

impl Shaper {
    pub(crate) fn new(limits: Bandwidth) -> Self {
        let both = Both::default;
        let state = State {
            limits,
            all: both(),
            wan: both(),
            bulk: both(),
            messages: Pace::default(),
            published: Pace::default(),
            published_wan: Pace::default(),
            peers: HashMap::new(),
            left_out: None,
        };
        let shared = Shared { began: Instant::now(), bounded: AtomicBool::new(false), state: Mutex::new(state) };
        let shaper = Shaper(Arc::new(shared));
        shaper.set(limits);
        shaper
    }

    /// Without any bound.
    #[cfg(test)]
    pub(crate) fn unbounded() -> Self {
        Shaper::new(Bandwidth::defaults().unwrap())
    }

    /// The bounds in force.
    pub fn limits(&self) -> Bandwidth {
        self.lock().limits
    }

    /// Sets other bounds, for all connections, from now on.
    pub fn set(&self, limits: Bandwidth) {
        let now = self.now();
        self.set_in(&mut self.lock(), limits, now);
    }

    /// Changes the bounds, unless one of those that come of it is out of its range.
    pub fn change(&self, change: impl FnOnce(Bandwidth) -> Bandwidth) -> Result<Bandwidth, Fault> {
        let now = self.now();
        let mut state = self.lock();
        let limits = change(state.limits);
        limits.check()?;
        self.set_in(&mut state, limits, now);
        Ok(limits)
    }

    fn set_in(&self, state: &mut State, limits: Bandwidth, now: Micros) {
        state.set(limits, now);
        self.0.bounded.store(limits.is_bounded(), Ordering::Relaxed);
    }

    /// A new connection to a peer.
    pub(super) fn connection(&self, peer: PeerId, is_wan: bool) -> Line {
        let now = self.now();
        let mut state = self.lock();
        let rates = (state.limits.peer_upload.0, state.limits.peer_download.0);
        let known = state.peers.entry(peer).or_insert_with(|| {
            let mut paces = Both::default();
            paces.set(rates, now);
            Peer { connections: 0, of_wan: 0, paces }
        });
        known.connections = known.connections.saturating_add(1);
        known.of_wan = known.of_wan.saturating_add(usize::from(is_wan));
        Line { shaper: self.clone(), peer, is_wan }
    }

    /// Whether a message to these peers may go now, as far as the line is concerned.
    pub(crate) fn may_publish(&self, to: &[PeerId]) -> bool {
        if to.is_empty() || !self.is_bounded() {
            return true;
        }
        let now = self.now();
        let mut state = self.lock();
        let is_wan = state.of_wan(to) > 0;
        state.is_free(now, is_wan)
    }

    /// Whether messages may go to anybody now.
    pub(crate) fn is_free(&self) -> bool {
        let now = self.now();
        self.lock().is_free(now, true)
    }

    /// Notes that a message of a topic was refused, or not passed on, because the line is full.
    pub(crate) fn left_out(&self) {
        let now = self.now();
        let mut state = self.lock();
        let (count, _) = state.left_out.unwrap_or_default();
        state.left_out = Some((count.saturating_add(1), now));
    }

    /// How many messages of topics have found no room on the line, where that still happens.
    pub fn lately_left_out(&self) -> Option<u64> {
        let now = self.now();
        let lately = |(_, last): &(u64, Micros)| now.saturating_sub(*last) < LATELY;
        self.lock().left_out.filter(lately).map(|(count, _)| count)
    }

    /// Counts a message of so many bytes that was published to these peers.
    pub(crate) fn published(&self, to: &[PeerId], bytes: usize) {
        if !self.is_bounded() {
            return;
        }
        let now = self.now();
        let mut state = self.lock();
        let (of_wan, each) = (state.of_wan(to), cost(bytes));
        state.published.take(now, each.saturating_mul(to.len() as u64));
        state.published_wan.take(now, each.saturating_mul(of_wan as u64));
    }

    fn is_bounded(&self) -> bool {
        self.0.bounded.load(Ordering::Relaxed)
    }

    fn now(&self) -> Micros {
        Micros::try_from(self.0.began.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(bytes: usize) -> u64 {
    let bytes = bytes as u64;
    bytes.saturating_add(HEADERS).saturating_add(bytes / HEADERS_PART)
}

/// One connection's part of it.
pub(crate) struct Line {
    shaper: Shaper,
    peer: PeerId,
    is_wan: bool,
}

impl Line {
    /// Whether there is any bound.
    pub(super) fn is_bounded(&self) -> bool {
        self.shaper.is_bounded()
    }

    /// How many bytes of a stream may go now, or how long until some may.
    fn allowance(&self, way: Way, class: StreamClass) -> Result<usize, Duration> {
        let order = match class {
            StreamClass::Live => return Ok(usize::MAX),
            StreamClass::Messages => Order::First,
            StreamClass::Bulk => Order::Last,
        };
        if !self.is_bounded() {
            return Ok(usize::MAX);
        }
        let now = self.shaper.now();
        let (mut bytes, mut wait) = (u64::MAX, None);
        for pace in self.shaper.lock().paces(self, way, class) {
            match pace.allowance(now, order) {
                Ok(allowed) => bytes = bytes.min(allowed),
                Err(time) => wait = wait.max(Some(time)),
            }
        }
        wait.map_or(Ok(usize::try_from(bytes).unwrap_or(usize::MAX)), Err)
    }

    /// Counts bytes of a stream that have gone.
    pub(super) fn carried(&self, way: Way, class: StreamClass, bytes: usize) {
        if bytes > 0 && self.is_bounded() {
            let now = self.shaper.now();
            // How what comes was packed is not known here.
            let cost = if way == Way::Up { cost(bytes) } else { bytes as u64 };
            self.shaper.lock().paces(self, way, class).for_each(|pace| pace.take(now, cost));
        }
    }
}

/// When more bytes of a stream may go one way.
pub(super) struct Turn {
    way: Way,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    pub(super) fn new(way: Way) -> Self {
        Turn { way, wait: None }
    }

    /// How many may go now; all, of what is in no class.
    pub(super) fn poll(&mut self, line: &Line, class: Option<StreamClass>, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(class) = class else { return Poll::Ready(usize::MAX) };
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match line.allowance(self.way, class) {
                Ok(bytes) => return Poll::Ready(bytes),
                Err(wait) => self.wait = Some(Box::pin(sleep(by_chance(wait)))),
            }
        }
    }
}

/// Up to twice as long, so that of several who wait each comes first now and then.
fn by_chance(wait: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 1024;
    let more = wait.saturating_mul(u32::try_from(chance).unwrap_or(0)) / 1024;
    wait.saturating_add(more)
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.shaper.lock();
        let Some(peer) = state.peers.get_mut(&self.peer) else { return };
        peer.connections = peer.connections.saturating_sub(1);
        peer.of_wan = peer.of_wan.saturating_sub(usize::from(self.is_wan));
        if peer.connections == 0 {
            state.peers.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::setting::Rate;

    use super::*;

    /// 80 kbit/s, which is 3,000 bytes at once and of these 1,500 in bulk.
    const SLOW: Rate = Rate(10_000);

    fn shaper(set: impl FnOnce(&mut Bandwidth)) -> Shaper {
        let mut limits = Bandwidth::defaults().unwrap();
        set(&mut limits);
        Shaper::new(limits)
    }

    /// Whether some of it may go after this much has gone each way.
    fn goes(line: &Line, class: StreamClass) -> [bool; 2] {
        [Way::Up, Way::Down].map(|way| line.allowance(way, class).is_ok())
    }

    #[test]
    fn the_world_and_the_local_network_have_bounds_of_their_own() {
        let shaper = shaper(|limits| (limits.wan_upload, limits.upload) = (SLOW, Rate(2_000_000)));
        let [near, far] = [false, true].map(|is_wan| shaper.connection(PeerId::random(), is_wan));
        assert_eq!([&near, &far].map(|line| goes(line, StreamClass::Bulk)), [[true; 2]; 2]);
        far.carried(Way::Up, StreamClass::Live, 5_000);
        assert_eq!(goes(&far, StreamClass::Bulk), [false, true], "sound has taken its place");
        assert_eq!(goes(&far, StreamClass::Live), [true; 2], "and does not wait itself");
        assert_eq!(goes(&near, StreamClass::Bulk), [true; 2]);
        near.carried(Way::Up, StreamClass::Bulk, 400_000);
        assert_eq!(goes(&near, StreamClass::Bulk), [false, true], "upload is of all");
    }

    #[test]
    fn peers_share_the_rates_of_all_and_have_their_own() {
        let shaper = shaper(|limits| limits.peer_download = SLOW);
        let greedy = PeerId::random();
        let lines = [greedy, greedy, PeerId::random()].map(|peer| shaper.connection(peer, true));
        lines[0].carried(Way::Down, StreamClass::Bulk, 10_000);
        let downloads = lines.each_ref().map(|line| goes(line, StreamClass::Bulk)[1]);
        assert_eq!(downloads, [false, false, true], "on each of its connections");
        drop(lines);
        assert!(shaper.lock().peers.is_empty());
    }

    #[test]
    fn messages_and_bulk_have_bounds_of_their_own() {
        let shaper = shaper(|limits| (limits.bulk_upload, limits.messages_upload) = (SLOW, SLOW));
        let line = shaper.connection(PeerId::random(), true);
        line.carried(Way::Up, StreamClass::Bulk, 10_000);
        assert_eq!([StreamClass::Bulk, StreamClass::Messages].map(|class| goes(&line, class)[0]), [false, true]);
        line.carried(Way::Up, StreamClass::Messages, 10_000);
        assert!(!goes(&line, StreamClass::Messages)[0]);
        shaper.set(Bandwidth::defaults().unwrap());
        assert_eq!(goes(&line, StreamClass::Bulk), [true; 2], "no bound any more");
    }

    #[test]
    fn what_is_published_waits_for_its_own_copies_and_for_what_else_goes() {
        let shaper = shaper(|limits| limits.wan_upload = SLOW);
        let peers = [PeerId::random(), PeerId::random()];
        let [near, far] = [shaper.connection(peers[0], false), shaper.connection(peers[1], true)];
        shaper.published(&peers, 2_000);
        assert!(shaper.may_publish(&peers), "one copy of it goes to the world");
        shaper.published(&peers, 2_000);
        assert!(!shaper.may_publish(&peers) && shaper.may_publish(&peers[..1]));
        let shaper = self::shaper(|limits| limits.upload = SLOW);
        let line = shaper.connection(peers[0], false);
        line.carried(Way::Up, StreamClass::Live, 10_000);
        assert!(!shaper.may_publish(&peers[..1]), "sound has taken its place");
        assert!(shaper.may_publish(&[]), "what nobody gets takes none");
        assert_eq!(shaper.lately_left_out(), None);
        (0..3).for_each(|_| shaper.left_out());
        assert_eq!(shaper.lately_left_out(), Some(3));
        drop((near, far));
    }
}
