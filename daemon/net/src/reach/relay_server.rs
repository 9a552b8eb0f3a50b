//! Passing on connections for peers that others do not reach. The library has it; here is where it tells that it can be reached, and for
//! whom it keeps a place.
//!
//! - The library offers the service as soon as any address of this peer is confirmed, also one that leads through another relay, and then
//!   names that address to others: circuits through circuits. So it is switched on by the setting alone, and told only of addresses
//!   on which this machine listens, or which its operator announces.
//! - The library refuses to renew a reservation while all places are taken, one of them by the same peer. So the places are counted here.
//! - Its bounds for a peer let one more through.

use std::{
    collections::HashSet,
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, relay,
    swarm::{
        ConnectionClosed, ExternalAddrExpired, FromSwarm, NetworkBehaviour, ToSwarm,
        behaviour::{ExternalAddrConfirmed, toggle::Toggle},
    },
};
use p2pd_core::multiaddr::Multiaddr as Address;

use crate::{
    Event, RelayLimits,
    context::Context,
    ids,
    swarm::filtered::{Filter, Filtered, Wish},
};

/// For how long the library grants a reservation; clients ask again before that.
const RESERVATION: Duration = Duration::from_secs(3600);
/// Requests of one peer, and of one address, in a minute. A client asks once or twice an hour; one that lost its connection asks again.
const REQUESTS: NonZeroU32 = NonZeroU32::new(10).expect("above 0");
const REQUESTS_OF_ADDRESS: NonZeroU32 = NonZeroU32::new(60).expect("above 0");
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) type RelayServer = Toggle<Filtered<relay::Behaviour, Places>>;

/// Who has a place.
#[derive(Clone)]
struct Holders {
    peers: Arc<Mutex<HashSet<PeerId>>>,
    most: usize,
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashSet<PeerId>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a peer a place, if it has none and there is one.
    fn admit(&self, peer: PeerId) -> bool {
        let mut peers = self.lock();
        let has_place = peers.contains(&peer) || peers.len() < self.most;
        if has_place {
            peers.insert(peer);
        }
        has_place
    }
}

/// What the library is told, and who gives up a place.
pub(crate) struct Places(Holders);

/// Whether an address is of this machine, and not of a relay.
fn is_own(address: &Multiaddr) -> bool {
    !Address::from(address.clone()).is_circuit()
}

impl Filter<relay::Behaviour> for Places {
    fn tell(&mut self, server: &mut relay::Behaviour, event: FromSwarm<'_>) {
        let event = match event {
            FromSwarm::NewListenAddr(new) if is_own(new.addr) => {
                FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr: new.addr })
            }
            FromSwarm::ExpiredListenAddr(old) if is_own(old.addr) => {
                FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr: old.addr })
            }
            FromSwarm::ExternalAddrConfirmed(new) if !is_own(new.addr) => return,
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, remaining_established: 0, .. }) => {
                self.0.lock().remove(&peer_id);
                event
            }
            other => other,
        };
        server.on_swarm_event(event);
    }

    fn passes(&mut self, wish: &Wish<relay::Behaviour>) -> bool {
        if let ToSwarm::GenerateEvent(relay::Event::ReservationTimedOut { src_peer_id }) = wish {
            self.0.lock().remove(src_peer_id);
        }
        true
    }
}

/// Tells of a connection that was passed on up to the limit.
pub(crate) fn on_event(context: &mut Context, event: relay::Event) {
    let relay::Event::CircuitClosed { src_peer_id, dst_peer_id, error: Some(error) } = event else { return };
    let why = match error.kind() {
        io::ErrorKind::TimedOut => "relay.circuit_time",
        // The library has no other error of its own here.
        io::ErrorKind::Other => "relay.circuit_bytes",
        _ => return,
    };
    context.tell(Event::CircuitCut { from: ids::from_libp2p(&src_peer_id), to: ids::from_libp2p(&dst_peer_id), why });
}

/// The service within these limits, which is off where there are none.
pub(crate) fn build(own: PeerId, limits: Option<&RelayLimits>) -> RelayServer {
    let server = limits.map(|limits| {
        let of_one = limits.circuits_per_peer as usize;
        let config = relay::Config {
            // Counted by `Holders`.
            max_reservations: usize::MAX,
            max_reservations_per_peer: usize::MAX,
            reservation_duration: RESERVATION,
            reservation_rate_limiters: Vec::new(),
            max_circuits: limits.circuits as usize,
            // One more passes.
            max_circuits_per_peer: of_one.saturating_sub(1),
            max_circuit_duration: limits.circuit_time.0,
            max_circuit_bytes: limits.circuit_bytes.0,
            circuit_src_rate_limiters: Vec::new(),
        };
        let mut config = config
            .reservation_rate_per_peer(REQUESTS, MINUTE / REQUESTS.get())
            .reservation_rate_per_ip(REQUESTS_OF_ADDRESS, MINUTE / REQUESTS_OF_ADDRESS.get())
            .circuit_src_per_peer(REQUESTS_OF_ADDRESS, MINUTE / REQUESTS_OF_ADDRESS.get());
        let holders = Holders { peers: Arc::default(), most: limits.reservations as usize };
        // Last, since who is refused for another reason takes no place.
        let admits = holders.clone();
        config.reservation_rate_limiters.push(Box::new(move |peer, _: &Multiaddr, _| admits.admit(peer)));
        let mut server = relay::Behaviour::new(own, config);
        server.set_status(Some(relay::Status::Enable));
        Filtered::new(server, Places(holders))
    });
    server.into()
}
