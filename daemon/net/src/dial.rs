//! Dialling: on request with an answer, and for ever toward peers that are wanted: bootstrap and pinned ones.

use std::{collections::HashMap, fmt, time::Duration};

use libp2p::{
    Multiaddr, Swarm,
    multiaddr::Protocol,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use p2pd_core::{
    id::PeerId,
    keep::{Pin, Pins},
    time::MonoMs,
};
use tokio::sync::oneshot;

use crate::{NetError, behaviour::Behaviour, names::Unresolved, peers, unshared::Unshared};

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

/// Why a peer was not reached.
enum Fault {
    Peer(String),
    Addresses(Vec<AddressFault>),
}

/// What became of an address, and what to do about it.
struct AddressFault {
    address: Multiaddr,
    why: String,
    advice: Option<&'static str>,
}

const SEE_PEER: &str = "see that it runs there and that no firewall is between";
const SEE_NAME: &str = "see that the name is right and that a nameserver answers";

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

/// A multiaddr over a transport that this peer has.
fn parse_any(address: &str, example: &str) -> Result<Multiaddr, NetError> {
    let parsed: Multiaddr =
        address.parse().map_err(|e: libp2p::multiaddr::Error| unusable(address, &e.to_string(), example))?;
    let way: Vec<Protocol<'_>> = parsed.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
    let transports = match &way[..] {
        // Over `/dnsaddr` the name says which; without any there is another fault to tell of.
        [] | [Protocol::Dnsaddr(_)] => return Ok(parsed),
        [_, transports @ ..] => transports,
    };
    match transports {
        [Protocol::Tcp(_)]
        | [Protocol::Tcp(_), Protocol::Ws(_) | Protocol::Wss(_)]
        | [Protocol::Tcp(_), Protocol::Tls, .., Protocol::Ws(_)]
        | [Protocol::Udp(_), Protocol::QuicV1] => Ok(parsed),
        _ => Err(unusable(address, "after the host it takes /tcp/PORT, /tcp/PORT/ws or /udp/PORT/quic-v1", example)),
    }
}

fn unusable(address: &str, fault: &str, example: &str) -> NetError {
    let fault = format!("{fault}; one looks like {example}");
    NetError::Address { address: p2pd_core::text::clean(address, 256), fault }
}

/// Splits `/.../p2p/<id>`; the peer id is required, so that nobody else can answer in its place.
pub(crate) fn parse(address: &str) -> Result<(libp2p::PeerId, Multiaddr), NetError> {
    const EXAMPLE: &str = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...";
    let fail = |fault: &str| Err(unusable(address, fault, EXAMPLE));
    if address.parse::<PeerId>().is_ok() {
        return fail("it is a peer id without a way to it");
    }
    let parsed = parse_any(address, EXAMPLE)?;
    match parsed.iter().last() {
        Some(Protocol::P2p(peer)) if parsed.iter().count() > 1 => Ok((peer, parsed)),
        Some(Protocol::P2p(_)) => fail("it names a peer but no way to it"),
        _ => fail("it has no /p2p/<peer id> at its end"),
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
    parse_listen(address).map(|_| ())
}

/// An address to listen on: of this machine, without a peer id.
pub(crate) fn parse_listen(address: &str) -> Result<Multiaddr, NetError> {
    const EXAMPLE: &str = "/ip4/0.0.0.0/tcp/4001";
    let parsed = parse_any(address, EXAMPLE)?;
    let fault = match (parsed.iter().next(), parsed.iter().last()) {
        (_, Some(Protocol::P2p(_))) => "it has a peer id at its end",
        (_, Some(Protocol::Wss(_))) => "this daemon has no certificate for wss",
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), _) => return Ok(parsed),
        _ => "it begins with no /ip4 or /ip6 address of this machine",
    };
    Err(unusable(address, fault, EXAMPLE))
}

impl Wanted {
    fn new(peer: libp2p::PeerId, addresses: Vec<Multiaddr>) -> Self {
        Wanted {
            peer,
            addresses,
            bootstrap: Vec::new(),
            passive: false,
            next: MonoMs(0),
            wait: RETRY_FIRST,
            dial: None,
            fault: None,
        }
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
        let addresses = |pin: &Pin| pin.addresses.iter().filter_map(|address| address.parse().ok()).collect();
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
            let options = DialOpts::peer_id(wanted.peer).addresses(wanted.addresses.clone());
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

/// An address as it is shown and compared: the peer's id stands beside it.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

fn unreachable(peer: &str, error: &DialError) -> NetError {
    NetError::Unreachable { peer: peer.to_owned(), fault: Fault::of(error).to_string() }
}

impl Fault {
    /// Why a dial failed, and what to do about it.
    fn of(error: &DialError) -> Self {
        Fault::Peer(match error {
            DialError::WrongPeerId { obtained, .. } => {
                format!("{obtained} answered there; use that id if it is the one you want")
            }
            DialError::NoAddresses => {
                "no address of it is known; `p2pctl peers connect` takes one that ends in /p2p/ and the peer id".into()
            }
            DialError::Denied { cause } => innermost(cause),
            DialError::Transport(faults) => {
                let each = faults.iter().map(|(address, fault)| {
                    let unshared = Unshared::of_transport(fault);
                    let advice = match unshared {
                        Some(_) => None,
                        None if Unresolved::is_cause(fault) => Some(SEE_NAME),
                        None => Some(SEE_PEER),
                    };
                    let why = unshared.map_or_else(|| innermost(fault), |unshared| unshared.to_string());
                    AddressFault { address: address.clone(), why, advice }
                });
                return Fault::Addresses(each.collect());
            }
            other => other.to_string(),
        })
    }

    /// The same of one address.
    fn of_address(&self, address: &Multiaddr) -> Option<String> {
        match self {
            Fault::Peer(why) => Some(why.clone()),
            Fault::Addresses(each) => {
                let AddressFault { why, advice, .. } = each.iter().find(|fault| fault.address == *address)?;
                Some(advice.map_or_else(|| why.clone(), |advice| format!("{why}; {advice}")))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Peer(why) => f.write_str(why),
            Fault::Addresses(each) => {
                let told = each.iter().take(4).map(|AddressFault { address, why, .. }| format!("{address}: {why}"));
                let advice = each.iter().find_map(|fault| fault.advice).map(str::to_owned);
                f.write_str(&told.chain(advice).collect::<Vec<_>>().join("; "))
            }
        }
    }
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

    #[test]
    fn an_address_needs_a_way_and_a_peer() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        assert!(parse(&format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}")).is_ok());
        assert!(parse(&format!("/dnsaddr/example.org/p2p/{peer}")).is_ok());
        let udp = format!("/ip4/127.0.0.1/udp/4001/p2p/{peer}");
        for bad in ["", "nonsense", "/ip4/127.0.0.1/tcp/4001", &format!("/p2p/{peer}"), peer, &udp] {
            assert!(matches!(parse(bad), Err(NetError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn an_address_to_listen_on_is_one_of_this_machine() {
        for good in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/4002/ws"] {
            assert!(parse_listen(good).is_ok(), "{good}");
        }
        let peer = "/ip4/0.0.0.0/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for bad in ["", "/ip4/0.0.0.0", "/ip4/0.0.0.0/udp/1", "/dns4/a.org/tcp/1", "/ip4/0.0.0.0/tcp/1/wss", peer] {
            let NetError::Address { fault, .. } = parse_listen(bad).unwrap_err() else { panic!("{bad}") };
            assert!(fault.ends_with("one looks like /ip4/0.0.0.0/tcp/4001"), "{bad}: {fault}");
        }
    }
}
