//! Multiaddrs of peers to dial and of this machine to listen on, and what is wrong with others.

use libp2p::{Multiaddr, multiaddr::Protocol};
use p2pd_core::{
    id::PeerId,
    multiaddr::{AddressError, Multiaddr as Address},
};

use crate::{NetError, ids};

/// What addresses look like.
const PEER: &str = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...";
const CIRCUIT: &str = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW.../p2p-circuit/p2p/12D3KooW...";

/// A multiaddr over a transport that this peer has, and not through a relay.
fn parse_any(address: &str, example: &str) -> Result<Address, NetError> {
    let fail = |fault: &str| unusable(address, fault, example);
    let parsed: Address = address.parse().map_err(|e: AddressError| fail(&e.to_string()))?;
    if parsed.is_circuit() {
        return Err(fail("it leads through a relay"));
    }
    check_way(&parsed).map_err(fail)?;
    Ok(parsed)
}

/// Whether this peer has the transport of an address.
fn check_way(address: &Address) -> Result<(), &'static str> {
    let way = Multiaddr::from(address.clone().without_peer());
    let way: Vec<Protocol<'_>> = way.iter().collect();
    let transports = match &way[..] {
        // Over `/dnsaddr` the name says which; without any there is another fault to tell of.
        [] | [Protocol::Dnsaddr(_)] => return Ok(()),
        [_, transports @ ..] => transports,
    };
    match transports {
        [Protocol::Tcp(_)]
        | [Protocol::Tcp(_), Protocol::Ws(_) | Protocol::Wss(_)]
        | [Protocol::Tcp(_), Protocol::Tls, .., Protocol::Ws(_)]
        | [Protocol::Udp(_), Protocol::QuicV1] => Ok(()),
        _ => Err("after the host it takes /tcp/PORT, /tcp/PORT/ws or /udp/PORT/quic-v1"),
    }
}

fn unusable(address: &str, fault: &str, example: &str) -> NetError {
    let fault = format!("{fault}; one looks like {example}");
    NetError::Address { address: p2pd_core::text::clean(address, 256), fault }
}

/// A multiaddr over a transport that this peer has, or through a relay that it reaches so.
fn parse_way(address: &str, example: &str) -> Result<Address, NetError> {
    let parsed: Address = address.parse().map_err(|e: AddressError| unusable(address, &e.to_string(), example))?;
    if !parsed.is_circuit() {
        return parse_any(address, example);
    }
    let fail = |fault: &str| Err(unusable(address, fault, CIRCUIT));
    let Some(relay) = parsed.relay() else { return fail("it does not name the relay before /p2p-circuit") };
    let circuit = Multiaddr::from(relay.address.clone().with_peer(&relay.peer)).with(Protocol::P2pCircuit);
    if Multiaddr::from(parsed.clone().without_peer()) != circuit || relay.address.is_circuit() {
        return fail("it has more than a relay, /p2p-circuit and a peer");
    }
    match check_way(&relay.address) {
        _ if Multiaddr::from(relay.address.clone()).is_empty() => fail("it names a relay but no way to it"),
        _ if parsed.peer().as_ref() == Some(&relay.peer) => fail("the relay and the peer behind it are the same"),
        Err(fault) => fail(fault),
        Ok(()) => Ok(parsed),
    }
}

/// Splits `/.../p2p/<id>`; the peer id is required, so that nobody else can answer in its place.
pub(crate) fn parse(address: &str) -> Result<(libp2p::PeerId, Multiaddr), NetError> {
    let fail = |fault: &str| Err(unusable(address, fault, PEER));
    if address.parse::<PeerId>().is_ok() {
        return fail("it is a peer id without a way to it");
    }
    let parsed = parse_way(address, PEER)?;
    let way = Multiaddr::from(parsed.clone().without_peer());
    if way.iter().any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0))) {
        return fail("it has port 0, at which nobody listens");
    }
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

/// Whether this is an address of a peer that leads through no relay.
pub(crate) fn check_direct(address: &str) -> Result<(), NetError> {
    let (_, parsed) = parse(address)?;
    match Address::from(parsed).is_circuit() {
        true => Err(unusable(address, "it leads through a relay itself", PEER)),
        false => Ok(()),
    }
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
        let (twice, onion) = (format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}/p2p/{peer}"), format!("/memory/5/p2p/{peer}"));
        let several = format!("/ip4/192.0.2.1/ip4/127.0.0.1/tcp/22/p2p/{peer}");
        let bare = ["", "nonsense", "/ip4/127.0.0.1/tcp/4001", peer];
        let no_port = format!("/ip4/127.0.0.1/tcp/0/p2p/{peer}");
        for bad in bare.into_iter().chain([&*format!("/p2p/{peer}"), &no_port, &udp, &twice, &onion, &several]) {
            assert!(matches!(parse(bad), Err(NetError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn a_way_through_a_relay_names_the_relay_and_the_peer() {
        let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let relay = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC";
        let relay = &format!("/ip4/127.0.0.1/tcp/4001/p2p/{relay}");
        let (found, way) = parse(&format!("{relay}/p2p-circuit/p2p/{peer}")).unwrap();
        assert_eq!((found.to_string().as_str(), way.to_string().contains(relay)), (peer, true), "{way}");
        for (bad, fault) in [
            (format!("/p2p-circuit/p2p/{peer}"), "does not name the relay"),
            (format!("/ip4/127.0.0.1/tcp/4001/p2p-circuit/p2p/{peer}"), "does not name the relay"),
            (format!("{relay}/p2p-circuit"), "no /p2p/<peer id>"),
            (format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"), "are the same"),
            (format!("{relay}/p2p-circuit/p2p/{peer}/p2p-circuit/p2p/{peer}"), "more than a relay"),
            (format!("{relay}/p2p-circuit/ip4/192.0.2.1/tcp/1/p2p/{peer}"), "more than a relay"),
            (format!("/p2p/{peer}/p2p-circuit/p2p/{peer}"), "no way to it"),
            (format!("/ip4/127.0.0.1/udp/1/p2p/{peer}/p2p-circuit/p2p/{peer}"), "are the same"),
        ] {
            let NetError::Address { fault: said, .. } = parse(&bad).unwrap_err() else { panic!("{bad}") };
            assert!(said.contains(fault), "{bad}: {said}");
        }
        assert!(check_direct(&format!("{relay}/p2p-circuit/p2p/{peer}")).is_err() && check_direct(relay).is_ok());
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
