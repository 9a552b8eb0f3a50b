//! Multiaddrs of peers to dial and of this machine to listen on, and what is wrong with others.

use libp2p::{Multiaddr, multiaddr::Protocol};
use p2pd_core::id::PeerId;

use crate::{NetError, ids};

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
    parse(address).map(|(peer, _)| ids::from_libp2p(&peer))
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

/// An address as it is shown and compared: the peer's id stands beside it.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// An address that a peer has told, as text for people: a name in it may hold anything.
pub(crate) fn shown(address: &Multiaddr) -> String {
    p2pd_core::text::clean(&address.to_string(), 512)
}

#[cfg(test)]
mod tests {
    use super::*;

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
