//! Who handles which protocol: one program, or several that share the load; until its call ends, or a while longer under a
//! lease. Nobody takes a protocol from another: `leases.rs` has the rules.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use p2pd_core::{id::PeerId, multiaddr::Multiaddr};
use p2pd_net::{Inbound, NetError, PeerStream};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    MAX_WAITING, State, Streams, StreamsError,
    leases::{Claim, Holders, MAX_SHARING, Refusal},
};
use crate::lock;

/// Who handles what.
#[derive(Default)]
pub(super) struct Registry {
    by_protocol: Mutex<HashMap<String, Registration>>,
    /// One claim at a time, since the network is asked in the middle of it.
    claiming: tokio::sync::Mutex<()>,
}

/// A stream that waits, who opened it, and from where.
#[derive(Clone)]
pub struct Arrived {
    /// By which it is taken.
    pub number: u64,
    /// Who opened it.
    pub peer: PeerId,
    /// From where.
    pub address: Multiaddr,
}

impl Arrived {
    /// Keeps a stream until it is taken; nothing when too many wait.
    fn keep(stream: PeerStream, state: &Arc<State>) -> Option<Self> {
        let (peer, address) = (stream.peer.clone(), stream.address.clone());
        Some(Arrived { number: state.keep(stream)?, peer, address })
    }
}

/// A program that handles a protocol.
struct Member {
    number: u64,
    told: mpsc::Sender<Arrived>,
    /// Streams that it was told of, oldest first; those taken by number are among them.
    announced: VecDeque<u64>,
    /// Calls of it that take the next stream without being told of it.
    takers: VecDeque<oneshot::Sender<PeerStream>>,
}

impl Member {
    /// Hands a stream over, or tells of it; gives it back when the program is too far behind.
    fn offer(&mut self, mut waiting: PeerStream, state: &Arc<State>) -> Result<(), PeerStream> {
        while let Some(taker) = self.takers.pop_front() {
            match taker.send(waiting) {
                Ok(()) => return Ok(()),
                Err(back) => waiting = back,
            }
        }
        let Ok(place) = self.told.try_reserve() else { return Err(waiting) };
        if let Some(arrived) = Arrived::keep(waiting, state) {
            remember(&mut self.announced, arrived.number);
            place.send(arrived);
        }
        Ok(())
    }
}

/// Adds to what waits; what is older than may wait is gone.
fn remember<T>(waiting: &mut VecDeque<T>, next: T) {
    waiting.push_back(next);
    waiting.drain(..waiting.len().saturating_sub(MAX_WAITING));
}

struct Registration {
    holders: Holders,
    /// The next to get a stream is in front.
    members: VecDeque<Member>,
    /// Came while nobody was there.
    missed: VecDeque<Arrived>,
    changed: Arc<Notify>,
    /// The protocol is free again.
    over: CancellationToken,
}

impl Registration {
    /// Hands a stream to the next member that takes it; without one it is reset.
    fn give(&mut self, waiting: PeerStream, state: &Arc<State>) {
        if self.members.is_empty() {
            if let Some(arrived) = Arrived::keep(waiting, state) {
                remember(&mut self.missed, arrived);
            }
            return;
        }
        let mut waiting = Some(waiting);
        let taken = self.members.iter_mut().position(|member| {
            waiting = waiting.take().and_then(|waiting| member.offer(waiting, state).err());
            waiting.is_none()
        });
        if let Some(PeerStream { peer, protocol, .. }) = waiting {
            tracing::warn!(%peer, protocol, "stream reset: its programs are too far behind");
        }
        self.members.rotate_left(taken.map_or(0, |at| at + 1));
    }
}

/// A protocol that a program handles, until dropped.
pub struct Handler {
    state: Arc<State>,
    protocol: String,
    member: u64,
    arrivals: mpsc::Receiver<Arrived>,
}

impl Handler {
    /// What [`Streams::next_stream`] knows it by.
    pub fn number(&self) -> u64 {
        self.member
    }

    /// Waits for the next stream. `None` when the network has stopped.
    pub async fn next(&mut self) -> Option<Arrived> {
        self.arrivals.recv().await
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if let Some(registration) = lock(&self.state.handlers.by_protocol).get_mut(&self.protocol) {
            let place = registration.members.iter().position(|member| member.number == self.member);
            let Some(gone) = place.and_then(|place| registration.members.remove(place)) else { return };
            registration.holders.leave(Instant::now());
            // What it was told of and did not take is another's, or waits for its return.
            if registration.holders.expects_streams() {
                let left = gone.announced.into_iter().filter_map(|number| self.state.take(number));
                left.for_each(|stream| registration.give(stream, &self.state));
            }
            registration.changed.notify_one();
        }
    }
}

impl Streams {
    /// Handles a protocol.
    pub async fn handle_protocol(&self, claim: Claim) -> Result<Handler, StreamsError> {
        self.check(&claim.protocol)?;
        claim.check().map_err(|(field, fault)| StreamsError::Field { field, fault: fault.into() })?;
        let state = &self.0.state;
        let _one = state.handlers.claiming.lock().await;
        loop {
            let over = match state.join(&claim)? {
                Joined::As(handler) => return Ok(handler),
                Joined::Free => break,
                Joined::Ending(over) => over,
            };
            over.cancelled().await;
        }
        let inbound = self.0.with.net.streams.accept(&claim.protocol).await?;
        Ok(state.register(claim, inbound))
    }

    /// Takes the oldest stream that a handler was told of, or the next that comes.
    pub async fn next_stream(&self, handler: u64) -> Result<PeerStream, StreamsError> {
        let taker = match self.0.state.queue_up(handler)? {
            Turn::Now(waiting) => return Ok(waiting),
            Turn::Later(taker) => taker,
        };
        taker.await.map_err(|_| StreamsError::HandlerGone(handler))
    }
}

enum Turn {
    Now(PeerStream),
    Later(oneshot::Receiver<PeerStream>),
}

enum Joined {
    As(Handler),
    Free,
    /// Free in a moment.
    Ending(CancellationToken),
}

impl State {
    fn join(self: &Arc<Self>, claim: &Claim) -> Result<Joined, StreamsError> {
        let mut all = lock(&self.handlers.by_protocol);
        let Some(registration) = all.get_mut(&claim.protocol) else { return Ok(Joined::Free) };
        let protocol = || claim.protocol.clone();
        match registration.holders.join(claim, Instant::now()) {
            Ok(()) => Ok(Joined::As(self.add(protocol(), registration))),
            Err(Refusal::Ending) => Ok(Joined::Ending(registration.over.clone())),
            Err(Refusal::Full) => {
                Err(StreamsError::Limit(format!("{MAX_SHARING} programs share {} already", protocol())))
            }
            Err(Refusal::Taken) => Err(NetError::Taken(protocol()).into()),
            Err(Refusal::Leased(left)) => {
                Err(StreamsError::Leased { protocol: protocol(), seconds: left.as_secs().saturating_add(1) })
            }
        }
    }

    fn queue_up(&self, handler: u64) -> Result<Turn, StreamsError> {
        let mut all = lock(&self.handlers.by_protocol);
        let mut members = all.values_mut().flat_map(|registration| registration.members.iter_mut());
        let member = members.find(|member| member.number == handler).ok_or(StreamsError::HandlerGone(handler))?;
        while let Some(number) = member.announced.pop_front() {
            if let Some(waiting) = self.take(number) {
                return Ok(Turn::Now(waiting));
            }
        }
        member.takers.retain(|taker| !taker.is_closed());
        if member.takers.len() >= MAX_WAITING {
            return Err(StreamsError::Limit(format!("{MAX_WAITING} calls of this handler wait for a stream already")));
        }
        let (taker, waits) = oneshot::channel();
        member.takers.push_back(taker);
        Ok(Turn::Later(waits))
    }

    fn add(self: &Arc<Self>, protocol: String, registration: &mut Registration) -> Handler {
        let (told, arrivals) = mpsc::channel(MAX_WAITING);
        let member = self.number();
        let missed = std::mem::take(&mut registration.missed);
        let announced = missed.iter().map(|arrived| arrived.number).collect();
        for arrived in missed {
            let _ = told.try_send(arrived);
        }
        registration.members.push_back(Member { number: member, told, announced, takers: VecDeque::new() });
        registration.changed.notify_one();
        Handler { state: self.clone(), protocol, member, arrivals }
    }

    fn register(self: &Arc<Self>, claim: Claim, inbound: Inbound) -> Handler {
        let mut registration = Registration {
            holders: Holders::first(&claim),
            members: VecDeque::new(),
            missed: VecDeque::new(),
            changed: Arc::default(),
            over: CancellationToken::new(),
        };
        let protocol = claim.protocol;
        let handler = self.add(protocol.clone(), &mut registration);
        let changed = registration.changed.clone();
        lock(&self.handlers.by_protocol).insert(protocol.clone(), registration);
        tokio::spawn(dispatch(self.clone(), protocol, inbound, changed));
        handler
    }
}

/// Hands inbound streams to the programs that handle their protocol, until it is nobody's any more.
async fn dispatch(state: Arc<State>, protocol: String, mut inbound: Inbound, changed: Arc<Notify>) {
    let held_until = || lock(&state.handlers.by_protocol).get(&protocol).and_then(|own| own.holders.held_until());
    loop {
        let until = held_until();
        if until.is_some_and(|until| until <= Instant::now()) {
            break;
        }
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrived = inbound.next() => {
                let Some(waiting) = arrived else { break };
                if let Some(registration) = lock(&state.handlers.by_protocol).get_mut(&protocol) {
                    registration.give(waiting, &state);
                }
            }
            () = changed.notified() => {}
            () = over => {}
        }
    }
    // Free for the network before it is free here.
    drop(inbound);
    if let Some(registration) = lock(&state.handlers.by_protocol).remove(&protocol) {
        registration.over.cancel();
    }
}
