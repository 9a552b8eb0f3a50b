//! Where a peer can be reached: a multiaddr, and the questions that the daemon asks of one. No other code takes an address apart.
//!
//! A circuit address, `/ip4/192.0.2.7/tcp/4001/p2p/RELAY/p2p-circuit/p2p/PEER`, names two machines. The relay is the one that is
//! dialled; where the peer behind it is, nobody here knows. So what is asked about the peer (`peer`, `ip`, `peer_scope`) never
//! answers with the relay's address, and what is asked about the dial (`dialled_ips`, `dialled_host`, `reach`, `transport`) does.

use std::{fmt, net::IpAddr, str::FromStr};

use multiaddr::Protocol;

use crate::{
    address_scope::{self, Scope},
    id::PeerId,
    text,
};

/// Longest address as text, in bytes. A circuit address over WebTransport with two certificate hashes takes about 400.
pub const MAX_TEXT: usize = 512;

/// The address of a peer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiaddr(multiaddr::Multiaddr);

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No part at all.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_TEXT`].
    #[error("it is longer than {MAX_TEXT} bytes")]
    TooLong,
    /// Characters that could drive a terminal.
    #[error("it has characters that cannot be shown")]
    Unprintable,
    /// Addresses begin with `/`.
    #[error("it does not begin with `/`")]
    NoSlash,
    /// A word that names no protocol.
    #[error("it has `{0}` where the name of a protocol such as ip4, tcp or p2p belongs")]
    Protocol(String),
    /// A protocol without the value behind it.
    #[error("it ends where a value belongs, or a value in it has the wrong form")]
    Value,
    /// A value that its protocol does not take.
    #[error("a value in it has the wrong form: {0}")]
    Form(String),
}

/// What carries the bytes to the machine that is dialled, in the order in which this daemon names its own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// WebSocket, with or without TLS.
    WebSocket,
    /// QUIC.
    Quic,
    /// None that this daemon has, or none that the address names.
    Other,
}

impl fmt::Display for Transport {
    /// As the API names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::WebSocket => "ws",
            Transport::Quic => "quic",
            Transport::Other => "",
        })
    }
}

/// The machine that an address leads to first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By IP address; an IPv4 one also where it is written as IPv6.
    Ip(IpAddr),
    /// By a name that a resolver looks up.
    Name(String),
}

/// Who passes on what is sent over a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Its id.
    pub peer: PeerId,
    /// Where it is, without its id; empty where the address leaves that out.
    pub address: Multiaddr,
}

fn core_id(id: &multiaddr::PeerId) -> Option<PeerId> {
    PeerId::from_bytes(&id.to_bytes()).ok()
}

fn ip_of(part: Protocol<'_>) -> Option<IpAddr> {
    match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        // One machine is one place, however its address is written.
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

impl Multiaddr {
    /// The parts up to the relay's id, or all where there is no relay.
    fn first_hop(&self) -> impl Iterator<Item = Protocol<'_>> {
        self.0.iter().take_while(|part| !matches!(part, Protocol::P2pCircuit))
    }

    /// The peer that is reached there: of a circuit address the one behind the relay. `None` where none is named.
    pub fn peer(&self) -> Option<PeerId> {
        match self.0.iter().last()? {
            Protocol::P2p(peer) => core_id(&peer),
            _ => None,
        }
    }

    /// Whether it leads over a relay.
    pub fn is_circuit(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Protocol::P2pCircuit))
    }

    /// The relay next to the peer. `None` where there is none, or where it is not named.
    pub fn relay(&self) -> Option<Relay> {
        let parts: Vec<_> = self.0.iter().collect();
        let circuit = parts.iter().rposition(|part| matches!(part, Protocol::P2pCircuit))?;
        match parts.get(..circuit)? {
            [before @ .., Protocol::P2p(peer)] => {
                let address = before.iter().cloned().collect::<multiaddr::Multiaddr>().into();
                Some(Relay { peer: core_id(peer)?, address })
            }
            _ => None,
        }
    }

    /// Where the peer itself is, as rules and counts by IP address need it. `None` behind a relay or a name.
    pub fn ip(&self) -> Option<IpAddr> {
        if self.is_circuit() { None } else { self.dialled_ips().next() }
    }

    /// The IP address of the machine that is dialled. An address that somebody made up may have several, of which each transport
    /// takes another: whoever judges it has to judge all.
    pub fn dialled_ips(&self) -> impl Iterator<Item = IpAddr> {
        self.first_hop().filter_map(ip_of)
    }

    /// The machine that is dialled.
    pub fn dialled_host(&self) -> Option<Host> {
        self.first_hop().find_map(|part| match part {
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
                Some(Host::Name(name.into_owned()))
            }
            part => ip_of(part).map(Host::Ip),
        })
    }

    /// From where it can be dialled: of a circuit address, from where the relay can. A name counts as known everywhere.
    pub fn reach(&self) -> Scope {
        self.dialled_ips().map(address_scope::of_ip).min().unwrap_or(Scope::World)
    }

    /// How near the peer is that is connected at this address. One behind a relay may be anywhere.
    pub fn peer_scope(&self) -> Scope {
        if self.is_circuit() { Scope::World } else { self.reach() }
    }

    /// What carries it to the machine that is dialled.
    pub fn transport(&self) -> Transport {
        let transport = |part| match part {
            Protocol::QuicV1 => Some(Transport::Quic),
            Protocol::Ws(_) | Protocol::Wss(_) => Some(Transport::WebSocket),
            Protocol::Tcp(_) => Some(Transport::Tcp),
            _ => None,
        };
        self.first_hop().filter_map(transport).max().unwrap_or(Transport::Other)
    }

    /// Without the peer at its end, as it is shown and compared beside the peer's id.
    pub fn without_peer(mut self) -> Self {
        if let Some(Protocol::P2p(_)) = self.0.iter().last() {
            self.0.pop();
        }
        self
    }

    /// With this peer at its end, in place of another, as dialling takes it. Unchanged where no key has such an id.
    pub fn with_peer(self, peer: &PeerId) -> Self {
        match multiaddr::PeerId::from_bytes(peer.as_bytes()) {
            Ok(peer) => Multiaddr(self.without_peer().0.with(Protocol::P2p(peer))),
            Err(_) => self,
        }
    }

    /// The machine that is dialled, without its id; of a circuit address the relay.
    pub fn first_way(&self) -> Self {
        Multiaddr(self.first_hop().collect()).without_peer()
    }

    /// The way through this relay, which is at this address. Unchanged where no key has such an id.
    pub fn through(self, relay: &PeerId) -> Self {
        match multiaddr::PeerId::from_bytes(relay.as_bytes()) {
            Ok(id) => Multiaddr(self.without_peer().0.with(Protocol::P2p(id)).with(Protocol::P2pCircuit)),
            Err(_) => self,
        }
    }

    /// Whether this is an address of the listener that was told to listen at `wanted`: any address of this machine for an
    /// unspecified one, any port for 0.
    pub fn is_of_listener(&self, wanted: &Multiaddr) -> bool {
        let same = |wanted: &Protocol<'_>, own: &Protocol<'_>| match (wanted, own) {
            (Protocol::Ip4(wanted), Protocol::Ip4(_)) if wanted.is_unspecified() => true,
            (Protocol::Ip6(wanted), Protocol::Ip6(_)) if wanted.is_unspecified() => true,
            (Protocol::Tcp(0), Protocol::Tcp(_)) | (Protocol::Udp(0), Protocol::Udp(_)) => true,
            (wanted, own) => wanted == own,
        };
        let own = self.clone().without_peer();
        let (wanted, own): (Vec<_>, Vec<_>) = (wanted.0.iter().collect(), own.0.iter().collect());
        wanted.len() == own.len() && wanted.iter().zip(&own).all(|(wanted, own)| same(wanted, own))
    }

    /// Whether its text is short, safe to show, and reads back as the same address. What a peer tells in binary may be neither;
    /// such an address is of no use.
    pub fn is_plain(&self) -> bool {
        self.0.to_string().parse().as_ref() == Ok(self)
    }
}

impl From<multiaddr::Multiaddr> for Multiaddr {
    /// Takes any. One that a stranger has told is to be asked first whether it [is plain](Multiaddr::is_plain).
    fn from(address: multiaddr::Multiaddr) -> Self {
        Multiaddr(address)
    }
}

impl From<Multiaddr> for multiaddr::Multiaddr {
    fn from(address: Multiaddr) -> Self {
        address.0
    }
}

impl FromStr for Multiaddr {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        if address.is_empty() {
            return Err(AddressError::Empty);
        }
        if address.len() > MAX_TEXT {
            return Err(AddressError::TooLong);
        }
        if !text::is_clean(address) {
            return Err(AddressError::Unprintable);
        }
        let parsed = address.parse::<multiaddr::Multiaddr>().map_err(|error| match error {
            multiaddr::Error::InvalidMultiaddr => AddressError::NoSlash,
            multiaddr::Error::UnknownProtocolString(word) => AddressError::Protocol(text::clean(&word, 64)),
            multiaddr::Error::ParsingError(fault) => AddressError::Form(text::clean(&fault.to_string(), 128)),
            _ => AddressError::Value,
        })?;
        // Some values are written longer than they were read.
        if parsed.to_string().len() > MAX_TEXT { Err(AddressError::TooLong) } else { Ok(Multiaddr(parsed)) }
    }
}

impl fmt::Display for Multiaddr {
    /// Safe to show, whoever made it up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::clean(&self.0.to_string(), MAX_TEXT))
    }
}

impl fmt::Debug for Multiaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
