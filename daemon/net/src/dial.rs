//! Dialling: on request with an answer, and for ever toward peers that are wanted: bootstrap and pinned ones.

mod address;
mod fault;

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, Swarm,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use p2pd_core::{
    id::PeerId,
    keep::{Pin, Pins},
    time::MonoMs,
};
use tokio::sync::oneshot;

pub use address::{check_listen, check_peer, peer_address};
pub(crate) use address::{parse, parse_listen, without_peer};
pub(crate) use fault::innermost;

use self::fault::Fault;
use crate::{NetError, behaviour::Behaviour, peers};

/// Most dials on request that wait for their answer.
const MAX_PENDING: usize = 128;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long after the last dial a peer that is connected counts as steady, in milliseconds. One that hangs up sooner may not
/// want us.
const STEADY_MS: u64 = 60_000;

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
    /// Addresses at which somebody else answered: one of them would end the dial of all. Tried again once no other is left.
    misleading: Vec<Multiaddr>,
    /// Its addresses as the configuration has them; none: it was pinned while the daemon ran.
    bootstrap: Vec<Configured>,
    /// It is kept when it comes, and not dialled.
    passive: bool,
    next: MonoMs,
    wait: Duration,
    /// The dial that is under way, or was last.
    dial: Option<ConnectionId>,
    /// Why that failed.
    fault: Option<Fault>,
}

/// A bootstrap address.
struct Configured {
    text: String,
    address: Multiaddr,
}

/// Why a bootstrap peer was not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapFault {
    /// As the configuration has it.
    pub address: String,
    /// The last fault.
    pub why: String,
}

/// Pending dials by connection, since two callers may dial one peer.
#[derive(Default)]
pub(crate) struct Dial {
    pending: HashMap<ConnectionId, (String, Reply<PeerId>)>,
    /// Callers whose peer is being dialled already, for whatever reason.
    joined: Vec<(libp2p::PeerId, Reply<PeerId>)>,
    wanted: Vec<Wanted>,
}

impl Wanted {
    fn new(peer: libp2p::PeerId, addresses: Vec<Multiaddr>) -> Self {
        Wanted {
            peer,
            addresses,
            misleading: Vec::new(),
            bootstrap: Vec::new(),
            passive: false,
            next: MonoMs(0),
            wait: RETRY_FIRST,
            dial: None,
            fault: None,
        }
    }
}

impl Wanted {
    /// Where to dial it now.
    fn next_addresses(&mut self) -> Vec<Multiaddr> {
        let misleads = |address: &&Multiaddr| self.misleading.contains(&without_peer((*address).clone()));
        let left: Vec<_> = self.addresses.iter().filter(|address| !misleads(address)).cloned().collect();
        if left.is_empty() {
            self.misleading.clear();
            return self.addresses.clone();
        }
        left
    }
}

impl Dial {
    pub(crate) fn new(bootstrap: &[String]) -> Result<Self, NetError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in bootstrap {
            let (peer, address) = parse(text)?;
            let configured = Configured { text: text.clone(), address: address.clone() };
            // All addresses of a peer are dialled together: which of them is reached from here, nobody knows before.
            match wanted.iter_mut().find(|wanted| wanted.peer == peer) {
                Some(wanted) => {
                    wanted.addresses.push(address);
                    wanted.bootstrap.push(configured);
                }
                None => {
                    wanted.push(Wanted { bootstrap: vec![configured], ..Wanted::new(peer, vec![address]) });
                }
            }
        }
        Ok(Dial { wanted, ..Dial::default() })
    }

    /// Stays connected to these peers, beside those of the configuration, in place of those before.
    pub(crate) fn pin(&mut self, pins: &Pins) {
        let addresses = |pin: &Pin| pin.addresses.iter().cloned().map(Multiaddr::from).collect();
        let wanted = |(peer, pin): (&PeerId, &Pin)| {
            Some(Wanted { passive: pin.passive, ..Wanted::new(peers::to_libp2p(peer)?, addresses(pin)) })
        };
        self.wanted.retain(|wanted| !wanted.bootstrap.is_empty());
        self.wanted.extend(pins.0.iter().filter_map(wanted));
    }

    /// Why we stay connected to a peer, where we do.
    pub(crate) fn why(&self, peer: &libp2p::PeerId) -> Vec<&'static str> {
        let of = |wanted: &Wanted| if wanted.bootstrap.is_empty() { "pinned" } else { "bootstrap" };
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
        if peer == *swarm.local_peer_id() {
            let fault = "that is this daemon itself".into();
            let _ = reply.send(Err(NetError::Unreachable { peer: peer.to_string(), fault }));
            return;
        }
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
        self.fell(peer, None);
    }

    /// Notes why a peer that was reached was lost again; `None` when it stands.
    pub(crate) fn fell(&mut self, peer: &libp2p::PeerId, fault: Option<&str>) {
        let of_peer = self.wanted.iter_mut().filter(|wanted| wanted.peer == *peer);
        of_peer.for_each(|wanted| wanted.fault = fault.map(|why| Fault::Peer(why.to_owned())));
    }

    /// Why addresses of bootstrap peers were not reached.
    pub(crate) fn faults(&self) -> Vec<BootstrapFault> {
        let all = self.wanted.iter().flat_map(|wanted| wanted.bootstrap.iter().map(move |address| (wanted, address)));
        let fault = |(wanted, Configured { text, address }): (&Wanted, &Configured)| {
            let why = wanted.fault.as_ref()?.of_address(address)?;
            Some(BootstrapFault { address: text.clone(), why })
        };
        all.filter_map(fault).collect()
    }

    pub(crate) fn failed(&mut self, peer: Option<libp2p::PeerId>, id: ConnectionId, error: &DialError) {
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.dial == Some(id)) {
            wanted.fault = Some(Fault::of(error));
            if let DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } = error {
                wanted.misleading.push(without_peer(address.clone()));
            }
        }
        for reply in peer.into_iter().flat_map(|peer| self.joined(peer).collect::<Vec<_>>()) {
            let _ = reply.send(Err(unreachable(&peer.map(|p| p.to_string()).unwrap_or_default(), error)));
        }
        if let Some((peer, reply)) = self.pending.remove(&id) {
            let _ = reply.send(Err(unreachable(&peer, error)));
        }
    }

    /// Dials the wanted peers that are not connected, each with growing patience.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, now: MonoMs) {
        for wanted in self.wanted.iter_mut().filter(|wanted| !wanted.passive) {
            if swarm.is_connected(&wanted.peer) {
                if now.since(wanted.next) >= STEADY_MS {
                    wanted.wait = RETRY_FIRST;
                }
                continue;
            }
            if now < wanted.next {
                continue;
            }
            wanted.next = MonoMs(now.0.saturating_add(u64::try_from(wanted.wait.as_millis()).unwrap_or(u64::MAX)));
            wanted.wait = (wanted.wait * 2).min(RETRY_MAX);
            let options = DialOpts::peer_id(wanted.peer).addresses(wanted.next_addresses());
            let options =
                if !wanted.bootstrap.is_empty() { options } else { options.extend_addresses_through_behaviour() };
            let options = options.build();
            wanted.dial = Some(options.connection_id());
            match swarm.dial(options) {
                Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
                Err(error) => wanted.fault = Some(Fault::of(&error)),
            }
        }
    }
}

fn unreachable(peer: &str, error: &DialError) -> NetError {
    NetError::Unreachable { peer: peer.to_owned(), fault: Fault::of(error).to_string() }
}

#[cfg(test)]
mod tests {
    use super::{fault::SEE_PEER, *};

    #[test]
    fn all_addresses_of_a_bootstrap_peer_are_tried_and_each_has_its_fault() {
        let address =
            |n: u8| format!("/ip4/192.0.2.{n}/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
        let mut dial = Dial::new(&[address(1), address(2)]).unwrap();
        assert_eq!(dial.wanted.iter().map(|wanted| wanted.addresses.len()).collect::<Vec<_>>(), [2]);
        let failed = |n| {
            let error = std::io::Error::other(format!("fault {n}"));
            (address(n).parse().unwrap(), libp2p::TransportError::Other(error))
        };
        dial.wanted[0].fault = Some(Fault::of(&DialError::Transport(vec![failed(2), failed(1)])));
        let whys: Vec<_> = dial.faults().into_iter().map(|fault| (fault.address, fault.why)).collect();
        assert_eq!(whys, [1, 2].map(|n| (address(n), format!("fault {n}; {SEE_PEER}"))));
    }
}
