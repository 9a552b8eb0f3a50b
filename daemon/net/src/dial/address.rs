//! Multiaddrs of peers to dial and of this machine to listen on, and what is wrong with others.

use libp2p::{Multiaddr, multiaddr::Protocol};
use p2pd_core::{
    id::PeerId,
    multiaddr::{AddressError, Multiaddr as Address},
};

use crate::{NetError, ids};

/// A multiaddr over a transport that this peer has.
fn parse_any(address: &str, example: &str) -> Result<Address, NetError> {
    let fail = |fault: &str| unusable(address, fault, example);
    let parsed: Address = address.parse().map_err(|e: AddressError| fail(&e.to_string()))?;
    if parsed.is_circuit() {
        return Err(fail("it leads over a relay, which this daemon cannot dial"));
    }
    let way = Multiaddr::from(parsed.clone().without_peer());
    let way: Vec<Protocol<'_>> = way.iter().collect();
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
        _ => Err(fail("after the host it takes /tcp/PORT, /tcp/PORT/ws or /udp/PORT/quic-v1")),
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
    let way = Multiaddr::from(parsed.clone().without_peer());
    match parsed.peer().and_then(|peer| ids::to_libp2p(&peer)) {
        Some(_) if way.is_empty() => fail("it names a peer but no way to it"),
        Some(peer) => Ok((peer, parsed.into())),
        None => fail("it has no /p2p/<peer id> at its end"),
    }
}

/// Whether this is an address of a peer: a multiaddr that ends in `/p2p/<peer id>`.
pub fn check_peer(address: &str) -> Result<(), NetError> {
    parse(address).map(|_| ())
}

/// An address of a peer, and the peer that it names.
pub fn peer_address(address: &str) -> Result<(PeerId, Address), NetError> {
    parse(address).map(|(peer, address)| (ids::from_libp2p(&peer), address.into()))
}

/// Whether this is an address to listen on.
pub fn check_listen(address: &str) -> Result<(), NetError> {
    parse_listen(address).map(|_| ())
}

/// Whether this is an address that others may be told of as this machine's.
pub(crate) fn check_announce(address: &str) -> Result<(), NetError> {
    parse_announce(address).map(|_| ())
}

/// An address at which others reach this machine, without a peer id.
pub(crate) fn parse_announce(address: &str) -> Result<Multiaddr, NetError> {
    const EXAMPLE: &str = "/ip4/192.0.2.7/tcp/4001 or /dns4/radio.example.org/tcp/4001";
    let parsed = parse_any(address, EXAMPLE)?;
    let has_peer = parsed.peer().is_some();
    let is_any = parsed.ip().is_some_and(|ip| ip.is_unspecified());
    let parsed = Multiaddr::from(parsed);
    let has_port = !parsed.iter().any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0)));
    let has_way = parsed.iter().count() > 1;
    let fault = match (has_peer, is_any, has_port && has_way) {
        (true, ..) => "it has a peer id at its end",
        (_, true, _) => "it is every address of this machine, which nobody can dial",
        (.., false) => "it has no port",
        (false, false, true) => return Ok(parsed),
    };
    Err(unusable(address, fault, EXAMPLE))
}

/// An address to listen on: of this machine, without a peer id.
pub(crate) fn parse_listen(address: &str) -> Result<Multiaddr, NetError> {
    const EXAMPLE: &str = "/ip4/0.0.0.0/tcp/4001";
    let parsed = parse_any(address, EXAMPLE)?;
    let has_peer = parsed.peer().is_some();
    let has_ip = parsed.ip().is_some();
    let parsed = Multiaddr::from(parsed);
    let fault = match parsed.iter().last() {
        _ if has_peer => "it has a peer id at its end",
        Some(Protocol::Wss(_)) => "this daemon has no certificate for wss",
        _ if has_ip => return Ok(parsed),
        _ => "it begins with no /ip4 or /ip6 address of this machine",
    };
    Err(unusable(address, fault, EXAMPLE))
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
        let circuit = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}/p2p-circuit/p2p/{peer}");
        let (twice, onion) = (format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}/p2p/{peer}"), format!("/memory/5/p2p/{peer}"));
        let several = format!("/ip4/192.0.2.1/ip4/127.0.0.1/tcp/22/p2p/{peer}");
        let bare = ["", "nonsense", "/ip4/127.0.0.1/tcp/4001", peer];
        for bad in bare.into_iter().chain([&*format!("/p2p/{peer}"), &udp, &circuit, &twice, &onion, &several]) {
            assert!(matches!(parse(bad), Err(NetError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn an_address_to_listen_on_is_one_of_this_machine() {
        for good in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/4002/ws"] {
            assert!(parse_listen(good).is_ok(), "{good}");
        }
        let peer = "/ip4/0.0.0.0/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let relay = format!("{peer}/p2p-circuit");
        let wss = "/ip4/0.0.0.0/tcp/1/wss";
        for bad in ["", "/ip4/0.0.0.0", "/ip4/0.0.0.0/udp/1", "/dns4/a.org/tcp/1", wss, peer, &relay] {
            let NetError::Address { fault, .. } = parse_listen(bad).unwrap_err() else { panic!("{bad}") };
            assert!(fault.ends_with("one looks like /ip4/0.0.0.0/tcp/4001"), "{bad}: {fault}");
        }
    }
}
