//! Counts what each connection carries, in all and per protocol, holds it to its pace, and bounds its streams. Sits between the transports and
//! the swarm, where every stream of every protocol passes.

mod stream;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::ready;
use libp2p::{
    Multiaddr, PeerId,
    core::muxing::{StreamMuxer, StreamMuxerEvent},
};
use p2pd_core::{address_scope::Scope, multiaddr::Multiaddr as Address};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use self::stream::MeteredStream;
use crate::{
    ids::without_peer,
    reach::reservation_answer::{HOP, STOP},
    streams::reserved::{Reserved, StreamClass},
    swarm::shaping::{Line, Shaper},
};

/// The muxer of TCP and WebSocket.
pub(crate) const YAMUX: &str = "yamux";
/// How the names of gossipsub's protocols begin.
const GOSSIPSUB: &str = "/meshsub/";
/// Protocols of one connection that are counted by name; all others together are `other`.
const MAX_PROTOCOLS: usize = 64;
/// How long a connection may take to close in good order.
const CLOSE: Duration = Duration::from_secs(2);
/// Connections that were refused whose peers are remembered.
const MAX_REFUSED: usize = 64;

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the peer.
    pub received: u64,
    /// To the peer.
    pub sent: u64,
}

impl Traffic {
    /// Adds another's bytes.
    pub(crate) fn add(&mut self, other: Traffic) {
        self.received = self.received.saturating_add(other.received);
        self.sent = self.sent.saturating_add(other.sent);
    }
}

#[derive(Debug, Default)]
struct Counter {
    received: AtomicU64,
    sent: AtomicU64,
    ours: Side,
    theirs: Side,
    /// A stream of ours did not take the last that was written to it.
    blocked: AtomicBool,
}

/// Streams that one side opened.
#[derive(Debug, Default)]
struct Side {
    open: AtomicUsize,
    /// There was one.
    ever: AtomicBool,
}

impl Side {
    fn open(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.ever.store(true, Ordering::Relaxed);
    }
}

impl Counter {
    fn side(&self, inbound: bool) -> &Side {
        if inbound { &self.theirs } else { &self.ours }
    }

    fn open(&self) -> usize {
        self.ours.open.load(Ordering::Relaxed).saturating_add(self.theirs.open.load(Ordering::Relaxed))
    }

    fn count(&self, traffic: Traffic) {
        self.received.fetch_add(traffic.received, Ordering::Relaxed);
        self.sent.fetch_add(traffic.sent, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic { received: self.received.load(Ordering::Relaxed), sent: self.sent.load(Ordering::Relaxed) }
    }
}

/// How many streams a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Opened by the peer.
    pub inbound: usize,
    /// Opened here.
    pub outbound: usize,
}

/// What one connection is and carries.
pub(crate) struct Meter {
    pub(crate) security: &'static str,
    muxer: OnceLock<&'static str>,
    pub(crate) address: Multiaddr,
    max_inbound: usize,
    reserved: Reserved,
    line: Line,
    total: Counter,
    protocols: Mutex<HashMap<String, Arc<Counter>>>,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    /// Gossipsub is to send nothing more on it.
    gossip_ends: AtomicBool,
}

impl Meter {
    /// Has gossipsub send nothing more here, but what is under way. Its other connections to the peer share the queue.
    pub(crate) fn end_gossip(&self) {
        self.gossip_ends.store(true, Ordering::Relaxed);
    }

    /// Bytes of gossipsub that have come.
    pub(crate) fn gossip_received(&self) -> u64 {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        let of_gossip = protocols.iter().filter(|(name, _)| name.starts_with(GOSSIPSUB));
        of_gossip.map(|(_, counter)| counter.read().received).fold(0, u64::saturating_add)
    }

    /// Notes how it is divided into streams.
    pub(crate) fn muxer(&self, name: &'static str) {
        // Agreed on once.
        let _ = self.muxer.set(name);
    }

    pub(crate) fn muxed_by(&self) -> &'static str {
        self.muxer.get().copied().unwrap_or_default()
    }

    /// What it has carried.
    pub(crate) fn total(&self) -> Traffic {
        self.total.read()
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> Streams {
        Streams { inbound: self.inbound.load(Ordering::Relaxed), outbound: self.outbound.load(Ordering::Relaxed) }
    }

    /// What each protocol has carried.
    pub(crate) fn protocols(&self) -> Vec<(String, Traffic)> {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        protocols.iter().map(|(name, counter)| (name.clone(), counter.read())).collect()
    }

    /// Whether a stream is open for which the peer is kept: one of a program, above all.
    pub(crate) fn busy(&self) -> bool {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        protocols.iter().any(|(name, counter)| counter.open() > 0 && self.reserved.is_kept_for(name))
    }

    /// Of gossipsub's streams that either side opened, the peer's first: whether there was one, and whether one is open.
    pub(crate) fn gossip(&self) -> [(bool, bool); 2] {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        let sides = |inbound: bool| {
            let of_gossip = protocols.iter().filter(|(name, _)| name.starts_with(GOSSIPSUB));
            of_gossip.map(move |(_, counter)| counter.side(inbound)).fold((false, false), |(had, open), side| {
                (had || side.ever.load(Ordering::Relaxed), open || side.open.load(Ordering::Relaxed) > 0)
            })
        };
        [sides(true), sides(false)]
    }

    /// Whether gossipsub's stream to the peer does not take what is written to it.
    pub(crate) fn gossip_blocked(&self) -> bool {
        let protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        protocols.iter().any(|(name, counter)| name.starts_with(GOSSIPSUB) && counter.blocked.load(Ordering::Relaxed))
    }

    fn protocol(&self, name: &str) -> Arc<Counter> {
        let mut protocols = self.protocols.lock().unwrap_or_else(PoisonError::into_inner);
        let known = protocols.len() < MAX_PROTOCOLS || protocols.contains_key(name);
        protocols.entry(if known { name } else { "other" }.to_owned()).or_default().clone()
    }

    /// In which class the bytes of a stream are. A relay passes on what others say; who is at an end of that has a connection inside it, whose
    /// bytes have had their turn.
    fn class(&self, protocol: &str, inbound: bool) -> Option<StreamClass> {
        let of_end = if inbound { STOP } else { HOP };
        match protocol {
            HOP | STOP if protocol == of_end => None,
            HOP | STOP => Some(StreamClass::Bulk),
            other => Some(self.reserved.traffic(other)),
        }
    }

    fn open(&self, inbound: bool) -> &AtomicUsize {
        if inbound { &self.inbound } else { &self.outbound }
    }
}

struct New {
    peer: PeerId,
    address: Multiaddr,
    meter: Weak<Meter>,
}

/// The meters of connections, until the swarm has told of each.
#[derive(Clone)]
pub(crate) struct Meters {
    new: Arc<Mutex<Vec<New>>>,
    max_inbound: usize,
    reserved: Reserved,
    shaper: Shaper,
}

impl Meters {
    /// Connections may have so many streams that the peer opened.
    pub(crate) fn new(max_inbound: usize, reserved: Reserved, shaper: Shaper) -> Self {
        Meters { new: Arc::default(), max_inbound, reserved, shaper }
    }

    /// How fast bytes go on all of them.
    pub(crate) fn shaper(&self) -> &Shaper {
        &self.shaper
    }

    /// A meter for a new connection.
    pub(crate) fn open(&self, peer: PeerId, address: &Multiaddr, security: &'static str) -> Arc<Meter> {
        let meter = Arc::new(Meter {
            security,
            muxer: OnceLock::new(),
            address: without_peer(address.clone()),
            max_inbound: self.max_inbound,
            reserved: self.reserved.clone(),
            line: self.shaper.connection(peer, Address::from(address.clone()).peer_scope() == Scope::World),
            total: Counter::default(),
            protocols: Mutex::default(),
            inbound: AtomicUsize::new(0),
            outbound: AtomicUsize::new(0),
            gossip_ends: AtomicBool::new(false),
        });
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that was refused takes its meter with it; the last of them are looked for by their address.
        let gone = new.iter().filter(|new| new.meter.strong_count() == 0).count();
        let mut more = gone.saturating_sub(MAX_REFUSED);
        new.retain(|new| {
            let goes = more > 0 && new.meter.strong_count() == 0;
            more -= usize::from(goes);
            !goes
        });
        new.push(New { peer, address: meter.address.clone(), meter: Arc::downgrade(&meter) });
        meter
    }

    /// The meter of a connection that is new. Behind a DNS name the transport has seen another address.
    pub(crate) fn find(&self, peer: &PeerId, address: &Multiaddr) -> Option<Arc<Meter>> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let address = without_peer(address.clone());
        let of_peer = || new.iter().filter(|new| new.peer == *peer).filter_map(|new| new.meter.upgrade());
        of_peer().find(|meter| meter.address == address).or_else(|| of_peer().next())
    }

    /// Who was at the other end of a connection that was secured and then refused.
    pub(crate) fn refused(&self, address: &Multiaddr) -> Option<PeerId> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        let address = without_peer(address.clone());
        new.iter().rev().find(|new| new.address == address).map(|new| new.peer)
    }

    /// The same when the swarm has told of the connection, which then is new no more.
    pub(crate) fn claim(&self, peer: &PeerId, address: &Multiaddr) -> Option<Arc<Meter>> {
        let found = self.find(peer, address)?;
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.retain(|new| !std::ptr::eq(new.meter.as_ptr(), Arc::as_ptr(&found)));
        Some(found)
    }
}

/// A connection whose streams are counted, and end with it.
pub(crate) struct Metered<M> {
    inner: M,
    meter: Arc<Meter>,
    /// Whether a stream that reads its end may have been reset: yamux tells that only to who writes.
    doubtful_end: bool,
    closing: CancellationToken,
    /// When it is closed though the peer takes nothing more.
    close_by: Option<Pin<Box<Sleep>>>,
}

impl<M> Metered<M> {
    pub(crate) fn new(inner: M, meter: Arc<Meter>) -> Self {
        let doubtful_end = meter.muxed_by() == YAMUX;
        Metered { inner, meter, doubtful_end, closing: CancellationToken::new(), close_by: None }
    }

    fn stream<S>(&self, inner: S, inbound: bool) -> MeteredStream<S> {
        self.meter.open(inbound).fetch_add(1, Ordering::Relaxed);
        MeteredStream::new(inner, self.meter.clone(), inbound, self.doubtful_end, self.closing.clone())
    }
}

impl<M> Drop for Metered<M> {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Metered<M>
where
    M::Substream: Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        loop {
            let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
            if self.meter.streams().inbound < self.meter.max_inbound {
                return Poll::Ready(Ok(self.stream(stream, true)));
            }
            tracing::debug!(address = %self.meter.address, "stream reset: this connection has as many as it may");
        }
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.stream(stream, false)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.closing.cancel();
        // A frozen peer would hold it for ever.
        let close_by = self.close_by.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE)));
        if close_by.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
