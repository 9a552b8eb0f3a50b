//! Dialling: on request with an answer, and for ever toward peers that are wanted: bootstrap and pinned ones.

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, Swarm,
    multiaddr::Protocol,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use p2pd_core::{id::PeerId, time::MonoMs};
use tokio::sync::oneshot;

use crate::{NetError, behaviour::Behaviour, peers};

/// Most dials on request that wait for their answer.
const MAX_PENDING: usize = 128;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

pub(crate) type Reply<T> = oneshot::Sender<Result<T, NetError>>;

/// How a peer is to be reached.
pub(crate) enum Ways {
    /// As the caller said, and no other way.
    Only(Multiaddr),
    /// At any of these, or wherever else it is known to be.
    Any(Vec<Multiaddr>),
}

/// A peer to stay connected to.
struct Wanted {
    peer: libp2p::PeerId,
    addresses: Vec<Multiaddr>,
    /// Of the configuration; the others were pinned while the daemon ran.
    bootstrap: bool,
    next: MonoMs,
    wait: Duration,
}

/// Pending dials by connection, since two callers may dial one peer.
#[derive(Default)]
pub(crate) struct Dial {
    pending: HashMap<ConnectionId, (String, Reply<PeerId>)>,
    /// Callers whose peer is being dialled already, for whatever reason.
    joined: Vec<(libp2p::PeerId, Reply<PeerId>)>,
    wanted: Vec<Wanted>,
}

/// Splits `/.../p2p/<id>`; the peer id is required, so that nobody else can answer in its place.
pub(crate) fn parse(address: &str) -> Result<(libp2p::PeerId, Multiaddr), NetError> {
    let fail = |fault: &str| NetError::Address { address: p2pd_core::text::clean(address, 256), fault: fault.into() };
    let parsed: Multiaddr = address.parse().map_err(|e: libp2p::multiaddr::Error| fail(&e.to_string()))?;
    match parsed.iter().last() {
        Some(Protocol::P2p(peer)) if parsed.iter().count() > 1 => Ok((peer, parsed)),
        Some(Protocol::P2p(_)) => Err(fail("it names a peer but no way to it")),
        _ => Err(fail("it has no /p2p/<peer id> at its end")),
    }
}

/// Whether this is an address of a peer: a multiaddr that ends in `/p2p/<peer id>`.
pub fn check_peer(address: &str) -> Result<(), NetError> {
    parse(address).map(|_| ())
}

/// The peer that an address names.
pub fn peer_of(address: &str) -> Result<PeerId, NetError> {
    parse(address).map(|(peer, _)| peers::from_libp2p(&peer))
}

/// Whether this is an address to listen on.
pub fn check_listen(address: &str) -> Result<(), NetError> {
    let fail = |fault: String| NetError::Address { address: p2pd_core::text::clean(address, 256), fault };
    address.parse::<Multiaddr>().map(|_| ()).map_err(|e| fail(e.to_string()))
}

impl Wanted {
    fn new(peer: libp2p::PeerId, addresses: Vec<Multiaddr>, bootstrap: bool) -> Self {
        Wanted { peer, addresses, bootstrap, next: MonoMs(0), wait: RETRY_FIRST }
    }
}

impl Dial {
    pub(crate) fn new(bootstrap: &[String]) -> Result<Self, NetError> {
        let parse = |address: &String| {
            let (peer, address) = parse(address)?;
            Ok(Wanted::new(peer, vec![address], true))
        };
        Ok(Dial { wanted: bootstrap.iter().map(parse).collect::<Result<_, NetError>>()?, ..Dial::default() })
    }

    /// Stays connected to these peers, beside those of the configuration, in place of those before.
    pub(crate) fn pin(&mut self, pins: Vec<(libp2p::PeerId, Vec<Multiaddr>)>) {
        self.wanted.retain(|wanted| wanted.bootstrap);
        self.wanted.extend(pins.into_iter().map(|(peer, addresses)| Wanted::new(peer, addresses, false)));
    }

    /// Why we stay connected to a peer, where we do.
    pub(crate) fn why(&self, peer: &libp2p::PeerId) -> Vec<&'static str> {
        let of = |wanted: &Wanted| if wanted.bootstrap { "bootstrap" } else { "pinned" };
        let mut why: Vec<_> = self.wanted.iter().filter(|wanted| wanted.peer == *peer).map(of).collect();
        why.dedup();
        why
    }

    pub(crate) fn connect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: libp2p::PeerId,
        ways: Ways,
        reply: Reply<PeerId>,
    ) {
        if swarm.is_connected(&peer) {
            let _ = reply.send(Ok(peers::from_libp2p(&peer)));
            return;
        }
        self.pending.retain(|_, (_, reply)| !reply.is_closed());
        self.joined.retain(|(_, reply)| !reply.is_closed());
        if self.pending.len().saturating_add(self.joined.len()) >= MAX_PENDING {
            let _ = reply.send(Err(NetError::Limit("128 dials are under way; try again")));
            return;
        }
        let options = match ways {
            Ways::Only(address) => DialOpts::peer_id(peer).addresses(vec![without_peer(address)]).build(),
            Ways::Any(addresses) => {
                // Each way once, however it was written: the other side tells a new dial from an old one by that.
                let mut ways: Vec<Multiaddr> = Vec::new();
                for way in addresses.into_iter().map(without_peer) {
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                }
                DialOpts::peer_id(peer).addresses(ways).extend_addresses_through_behaviour().build()
            }
        };
        let id = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => {
                self.pending.insert(id, (peer.to_string(), reply));
            }
            Err(DialError::DialPeerConditionFalse(_)) => self.joined.push((peer, reply)),
            Err(error) => {
                let _ = reply.send(Err(unreachable(&peer.to_string(), &error)));
            }
        }
    }

    /// The callers that joined a dial of this peer.
    fn joined(&mut self, peer: libp2p::PeerId) -> impl Iterator<Item = Reply<PeerId>> {
        self.joined.extract_if(.., move |(dialled, _)| *dialled == peer).map(|(_, reply)| reply)
    }

    pub(crate) fn connected(&mut self, peer: &libp2p::PeerId, id: ConnectionId) {
        if let Some((_, reply)) = self.pending.remove(&id) {
            let _ = reply.send(Ok(peers::from_libp2p(peer)));
        }
        for reply in self.joined(*peer) {
            let _ = reply.send(Ok(peers::from_libp2p(peer)));
        }
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.peer == *peer) {
            wanted.wait = RETRY_FIRST;
        }
    }

    pub(crate) fn failed(&mut self, peer: Option<libp2p::PeerId>, id: ConnectionId, error: &DialError) {
        for reply in peer.into_iter().flat_map(|peer| self.joined(peer).collect::<Vec<_>>()) {
            let _ = reply.send(Err(unreachable(&peer.map(|p| p.to_string()).unwrap_or_default(), error)));
        }
        if let Some((peer, reply)) = self.pending.remove(&id) {
            let _ = reply.send(Err(unreachable(&peer, error)));
        }
    }

    /// Dials the wanted peers that are not connected, each with growing patience.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, now: MonoMs) {
        for wanted in &mut self.wanted {
            if swarm.is_connected(&wanted.peer) || now < wanted.next {
                continue;
            }
            wanted.next = MonoMs(now.0.saturating_add(u64::try_from(wanted.wait.as_millis()).unwrap_or(u64::MAX)));
            wanted.wait = (wanted.wait * 2).min(RETRY_MAX);
            let options = DialOpts::peer_id(wanted.peer).addresses(wanted.addresses.clone());
            let options = if wanted.bootstrap { options } else { options.extend_addresses_through_behaviour() };
            if let Err(error) = swarm.dial(options.build()) {
                tracing::debug!(peer = %wanted.peer, %error, "wanted peer not dialled");
            }
        }
    }
}

/// An address as it is shown and compared: the peer's id stands beside it.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

fn unreachable(peer: &str, error: &DialError) -> NetError {
    let fault = match error {
        DialError::WrongPeerId { obtained, .. } => {
            format!("{obtained} answered there; use that id if it is the one you want")
        }
        DialError::NoAddresses => "no address of it is known; give one with /p2p/<peer id> at its end".into(),
        DialError::LocalPeerId { .. } => "that is this peer itself".into(),
        DialError::Denied { cause } => innermost(cause),
        DialError::Transport(faults) => {
            let each = faults.iter().take(4).map(|(address, fault)| format!("{address}: {}", innermost(fault)));
            each.collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    };
    NetError::Unreachable { peer: peer.to_owned(), fault }
}

/// The last cause of an error; the ones above it only say that something below failed.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_way_and_a_peer() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        assert!(parse(&format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}")).is_ok());
        for bad in ["", "nonsense", "/ip4/127.0.0.1/tcp/4001", &format!("/p2p/{peer}")] {
            assert!(matches!(parse(bad), Err(NetError::Address { .. })), "{bad}");
        }
    }
}
