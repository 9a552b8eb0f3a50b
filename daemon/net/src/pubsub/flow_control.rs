//! Flow control for gossipsub. Gossipsub silently drops a message for any peer whose send queue is full. We count the messages that
//! were queued for each peer. At 32 we ask the handlers of its connections to report when gossipsub's queue has drained. Our handler is
//! polled after gossipsub's: when it runs, that queue is empty, or its substream takes no more, which the meter knows
//! (`swarm/bandwidth.rs`). `room` says whether a new message should wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, ToSwarm, behaviour::ConnectionEstablished,
        handler::ConnectionEvent,
    },
};

use crate::swarm::{
    bandwidth::{Meter, Meters},
    shaping::Shaper,
};

/// Messages that gossipsub's queue to a peer holds, each a copy. Not the library's 5,000. The library bounds no bytes: a peer that takes
/// nothing holds up to 192 MiB where a topic's messages have the 1 MiB that it may be set to, until it is let go of after 60 s. What it
/// asked for is at most three copies of each message of the last five seconds. Where many do so, the last line is the memory governor
/// (`peers/memory_limit.rs`).
pub(crate) const QUEUE: usize = 192;
/// From so many on a peer has no room. The rest is for what is not counted: offers of messages, and those that the peer asked
/// for. Followers of a fast publisher that are a second behind ask for hundreds, which are on their way already; were there less
/// room, those would push out what is published meanwhile.
const FULL: u32 = 48;
/// From so many on its connections are asked.
const ASK: u32 = 32;
/// The same in bytes. Sound shares the queue and is not held back: it waits for no more than these and one message.
const FULL_BYTES: usize = 512 << 10;
const ASK_BYTES: usize = FULL_BYTES / 2;
/// A message of so many bytes waits for no others than for their number: one program's large ones do not hold up another's small ones.
pub(super) const SMALL: usize = 16 << 10;
/// How long a full peer holds up those that have room: so many times as long as the fastest took last, and at least so long.
/// That is the least pace that slow peers can force on others: 48 messages in 50 ms, or a tenth of what the fastest takes.
const SLOWER: u32 = 10;
const LEAST_WAIT: Duration = Duration::from_millis(50);
/// Peers that are only slow now and then are waited for longer: so long beyond that, each for itself and out of one account, to
/// which a tenth of the time comes back.
const CREDIT: Duration = Duration::from_millis(800);
const REGAIN: u32 = 10;

/// Whether a message may go to all of its followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may; so many of them are full and not waited for.
    Beside(usize),
    /// So many are full, some of whom ought to have room soon, or all.
    Wait(usize),
}

/// Messages that may wait in the queue to a peer.
#[derive(Clone, Copy, Default)]
struct Waiting {
    messages: u32,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn subtract(&mut self, sent: Waiting) {
        self.messages = self.messages.saturating_sub(sent.messages);
        self.bytes = self.bytes.saturating_sub(sent.bytes);
    }

    /// Whether there is no room for a message of so many bytes.
    fn is_full_for(self, bytes: usize) -> bool {
        self.messages >= FULL || (bytes > SMALL && self.bytes >= FULL_BYTES)
    }

    fn is_worth_asking(self) -> bool {
        self.messages >= ASK || self.bytes >= ASK_BYTES
    }
}

struct Asked {
    number: Question,
    /// What was counted then.
    covers: Waiting,
    at: Instant,
    /// It was waited for longer than this, which it may take.
    indulged: Option<Duration>,
}

#[derive(Default)]
struct Peer {
    connections: Vec<ConnectionId>,
    waiting: Waiting,
    asked: Option<Asked>,
    /// How long the last answer took.
    took: Duration,
}

/// To whoever holds messages back: some peer has room again, or is gone.
#[derive(Debug)]
pub(crate) struct Drained;

/// The number of a question, which is the answer, too: nothing waits any more of what was counted when it was asked.
type Question = u32;

pub(crate) struct Behaviour {
    meters: Meters,
    peers: HashMap<PeerId, Peer>,
    asks: VecDeque<(PeerId, ConnectionId, Question)>,
    asked: Question,
    drained: bool,
    /// Time for which slow peers may still be waited for, as it was then. One for all, since peers cost nothing.
    credit: (Duration, Instant),
}

impl Behaviour {
    pub(crate) fn new(meters: Meters) -> Self {
        let credit = (CREDIT, Instant::now());
        Behaviour { meters, peers: HashMap::new(), asks: VecDeque::new(), asked: 0, drained: false, credit }
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// How fast bytes go.
    pub(crate) fn shaper(&self) -> &Shaper {
        self.meters.shaper()
    }

    /// Counts a message of so many bytes that was published to these peers.
    pub(crate) fn sent(&mut self, to: &[PeerId], bytes: usize) {
        for id in to {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.waiting.add(bytes);
            }
        }
    }

    /// Whether a peer is not known to be full for a message of so many bytes.
    pub(crate) fn has_room(&self, peer: &PeerId, bytes: usize) -> bool {
        self.peers.get(peer).is_none_or(|peer| !peer.waiting.is_full_for(bytes))
    }

    /// Whether more than what the directory may take waits for one of these peers: the rest of the queue is for what programs publish.
    pub(crate) fn is_busy_with_directory(&self, to: &[PeerId]) -> bool {
        self.busy_with_directory(to) > 0
    }

    /// Whether that is so for most of them. One alone may be frozen.
    pub(crate) fn are_most_busy_with_directory(&self, to: &[PeerId]) -> bool {
        self.busy_with_directory(to).saturating_mul(2) > to.len()
    }

    fn busy_with_directory(&self, to: &[PeerId]) -> usize {
        to.iter().filter_map(|id| self.peers.get(id)).filter(|peer| peer.waiting.is_worth_asking()).count()
    }

    /// Whether there is room for a message of so many bytes to these peers.
    pub(crate) fn room(&mut self, to: &[PeerId], bytes: usize, now: Instant) -> Room {
        for id in to {
            self.ask(*id, now);
        }
        let known = || to.iter().filter_map(|id| self.peers.get(id));
        let full = known().filter(|peer| peer.waiting.is_full_for(bytes)).count();
        let fastest = known().filter(|peer| !peer.waiting.is_full_for(bytes)).map(|peer| peer.took).min();
        // Where all are full, nobody is held up.
        let Some(fastest) = fastest else { return if full > 0 { Room::Wait(full) } else { Room::Beside(0) } };
        let wait = fastest.saturating_mul(SLOWER).max(LEAST_WAIT);
        let indulgence = wait.saturating_add(self.credit(now));
        let mut waits = false;
        for id in to {
            let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.waiting.is_full_for(bytes)) else { continue };
            let Some(asked) = &mut peer.asked else { continue };
            let since = now.saturating_duration_since(asked.at);
            waits |= since < indulgence;
            if (wait..indulgence).contains(&since) {
                asked.indulged = Some(wait);
            }
        }
        if waits { Room::Wait(full) } else { Room::Beside(full) }
    }

    fn credit(&self, now: Instant) -> Duration {
        let (left, then) = self.credit;
        CREDIT.min(left.saturating_add(now.saturating_duration_since(then) / REGAIN))
    }

    /// Asks a peer's connections, if it is time to and they have not been.
    fn ask(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.waiting.is_worth_asking() || peer.asked.is_some() {
            return;
        }
        self.asked = self.asked.wrapping_add(1);
        let number = self.asked;
        peer.asked = Some(Asked { number, covers: peer.waiting, at: now, indulged: None });
        self.asks.extend(peer.connections.iter().map(|connection| (id, *connection, number)));
    }

    fn answered(&mut self, id: PeerId, number: Question, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        // Another connection may have answered before.
        let Some(asked) = peer.asked.take_if(|asked| asked.number == number) else { return };
        peer.waiting.subtract(asked.covers);
        let took = now.saturating_duration_since(asked.at);
        peer.took = took;
        if let Some(wait) = asked.indulged {
            self.credit = (self.credit(now).saturating_sub(took.saturating_sub(wait)), now);
        }
        self.drained = true;
    }

    fn handler(&self, peer: &PeerId, address: &Multiaddr) -> Handler {
        Handler { meter: self.meters.find(peer, address), asked: None }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Drained;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        address: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(&peer, address))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(&peer, address))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                let peer = self.peers.entry(peer_id).or_default();
                peer.connections.push(connection_id);
                self.asks.extend(peer.asked.iter().map(|asked| (peer_id, connection_id, asked.number)));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                let Some(peer) = self.peers.get_mut(&peer_id) else { return };
                peer.connections.retain(|id| *id != connection_id);
                if peer.connections.is_empty() {
                    self.peers.remove(&peer_id);
                    // Nobody waits for it any more.
                    self.drained = true;
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, number: Question) {
        self.answered(peer, number, Instant::now());
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Drained, Question>> {
        if std::mem::take(&mut self.drained) {
            return Poll::Ready(ToSwarm::GenerateEvent(Drained));
        }
        match self.asks.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => Poll::Pending,
        }
    }
}

/// One connection's part.
pub(crate) struct Handler {
    meter: Option<Arc<Meter>>,
    asked: Option<Question>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Question;
    type ToBehaviour = Question;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Question>> {
        let blocked = || self.meter.as_ref().is_some_and(|meter| meter.gossip_blocked());
        match self.asked {
            Some(number) if !blocked() => {
                self.asked = None;
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(number))
            }
            _ => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, number: Question) {
        self.asked = Some(number);
    }

    fn on_connection_event(&mut self, _: ConnectionEvent<DeniedUpgrade, DeniedUpgrade>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{streams::reserved::Reserved, swarm::shaping::Shaper};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// So many peers, to each of whom messages were sent until it is full and asked.
    fn full(count: usize, now: Instant) -> (Behaviour, Vec<PeerId>) {
        let mut pace = Behaviour::new(Meters::new(1, Reserved::default(), Shaper::unbounded()));
        let peers: Vec<PeerId> = (0..count).map(|_| PeerId::random()).collect();
        pace.peers = peers.iter().map(|id| (*id, Peer::default())).collect();
        fill(&mut pace, &peers, now);
        (pace, peers)
    }

    fn fill(pace: &mut Behaviour, peers: &[PeerId], now: Instant) {
        for _ in 0..FULL {
            pace.sent(peers, 1);
        }
        pace.room(peers, 1, now);
    }

    fn answer(pace: &mut Behaviour, peer: &PeerId, now: Instant) {
        let number = pace.peers[peer].asked.as_ref().expect("that it was asked").number;
        pace.answered(*peer, number, now);
    }

    #[test]
    fn a_full_peer_is_waited_for_and_then_left_behind() {
        let now = Instant::now();
        let (mut pace, peers) = full(3, now);
        assert_eq!(pace.room(&peers, 1, now), Room::Wait(3));
        answer(&mut pace, &peers[0], now + ms(1));
        assert_eq!(pace.room(&peers, 1, now + ms(1)), Room::Wait(2));
        assert_eq!(pace.room(&peers[..1], 1, now + ms(1)), Room::Beside(0), "they are none of its followers");
        answer(&mut pace, &peers[1], now + ms(40));
        assert_eq!(pace.room(&peers, 1, now + ms(849)), Room::Wait(1));
        assert_eq!(pace.room(&peers, 1, now + ms(850)), Room::Beside(1));
        assert_eq!(pace.room(&peers[2..], 1, now + ms(850)), Room::Wait(1), "nobody else waits");
        answer(&mut pace, &peers[2], now + ms(900));
        assert_eq!(pace.room(&peers, 1, now + ms(900)), Room::Beside(0), "it has caught up");
    }

    #[test]
    fn a_peer_for_which_large_messages_wait_is_full_for_others() {
        let (now, large) = (Instant::now(), FULL_BYTES / 2);
        let mut pace = Behaviour::new(Meters::new(1, Reserved::default(), Shaper::unbounded()));
        let peer = PeerId::random();
        pace.peers.insert(peer, Peer::default());
        for _ in 0..2 {
            assert!(pace.has_room(&peer, large));
            assert_eq!(pace.room(&[peer], large, now), Room::Beside(0));
            pace.sent(&[peer], large);
        }
        assert!(!pace.has_room(&peer, large) && pace.has_room(&peer, SMALL));
        for (bytes, room) in [(large, Room::Wait(1)), (SMALL, Room::Beside(0))] {
            assert_eq!(pace.room(&[peer], bytes, now), room);
        }
        answer(&mut pace, &peer, now);
        assert!(pace.has_room(&peer, large));
    }

    #[test]
    fn those_who_are_slow_share_the_time_for_which_they_are_waited_for() {
        let now = Instant::now();
        let (mut pace, peers) = full(3, now);
        answer(&mut pace, &peers[0], now + ms(1));
        answer(&mut pace, &peers[1], now + ms(1));
        assert_eq!(pace.room(&peers, 1, now + ms(600)), Room::Wait(1));
        answer(&mut pace, &peers[2], now + ms(700));
        let again = now + ms(1_000);
        fill(&mut pace, &peers, again);
        answer(&mut pace, &peers[0], again + ms(1));
        answer(&mut pace, &peers[2], again + ms(1));
        // 150 ms were left, and a tenth of the 300 since then has come back, and of the time that it is waited for.
        assert_eq!(pace.room(&peers, 1, again + ms(240)), Room::Wait(1), "another one");
        assert_eq!(pace.room(&peers, 1, again + ms(260)), Room::Beside(1));
        answer(&mut pace, &peers[1], again + ms(400));
        let later = again + ms(400);
        fill(&mut pace, &peers, later);
        answer(&mut pace, &peers[0], later + ms(1));
        answer(&mut pace, &peers[2], later + ms(1));
        assert_eq!(pace.room(&peers, 1, later + ms(49)), Room::Wait(1));
        assert_eq!(pace.room(&peers, 1, later + ms(60)), Room::Beside(1), "the least");
    }

    #[test]
    fn a_peer_may_take_ten_times_as_long_as_the_fastest() {
        let now = Instant::now();
        let (mut pace, peers) = full(2, now);
        answer(&mut pace, &peers[0], now + ms(300));
        assert_eq!(pace.room(&peers, 1, now + ms(2_999)), Room::Wait(1));
        assert_eq!(pace.room(&peers, 1, now + ms(3_800)), Room::Beside(1));
    }
}
