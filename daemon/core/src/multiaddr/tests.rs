use proptest::prelude::*;

use super::*;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const RELAY: &str = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC";
const HASH: &str = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g";

fn at(address: &str) -> Multiaddr {
    address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn id(text: &str) -> PeerId {
    text.parse().unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

#[test]
fn a_direct_address_answers_for_the_peer_that_is_dialled() {
    for (address, own, transport, reach) in [
        ("/ip4/192.0.2.7/tcp/4001", ip("192.0.2.7"), Transport::Tcp, Scope::World),
        ("/ip4/127.0.0.1/udp/4001/quic-v1", ip("127.0.0.1"), Transport::Quic, Scope::Machine),
        ("/ip4/10.0.0.1/tcp/80/ws", ip("10.0.0.1"), Transport::WebSocket, Scope::Network),
        ("/ip4/10.0.0.1/tcp/443/tls/ws", ip("10.0.0.1"), Transport::WebSocket, Scope::Network),
        ("/ip4/10.0.0.1/tcp/443/wss", ip("10.0.0.1"), Transport::WebSocket, Scope::Network),
        ("/ip6/2001:db8::1/tcp/1", ip("2001:db8::1"), Transport::Tcp, Scope::World),
        ("/ip6/::ffff:10.0.0.1/tcp/1", ip("10.0.0.1"), Transport::Tcp, Scope::Network),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", ip("fe80::1"), Transport::Tcp, Scope::Network),
        ("/dns4/radio.example.org/tcp/1", None, Transport::Tcp, Scope::World),
        ("/dnsaddr/example.org", None, Transport::Other, Scope::World),
        ("/ip4/192.0.2.7/udp/9/webrtc-direct", ip("192.0.2.7"), Transport::Other, Scope::World),
        ("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234", None, Transport::Other, Scope::World),
        (
            &format!("/ip4/192.0.2.7/udp/9/quic-v1/webtransport/certhash/{HASH}"),
            ip("192.0.2.7"),
            Transport::Quic,
            Scope::World,
        ),
    ] {
        for (text, peer) in [(address.to_owned(), None), (format!("{address}/p2p/{PEER}"), Some(id(PEER)))] {
            let address = at(&text);
            assert_eq!((address.peer(), address.ip()), (peer, own), "{text}");
            assert_eq!(
                (address.transport(), address.reach(), address.peer_scope()),
                (transport, reach, reach),
                "{text}"
            );
            assert_eq!((address.is_circuit(), address.relay()), (false, None), "{text}");
            assert!(address.is_plain() && address.to_string() == text, "{text}: {address}");
        }
    }
}

#[test]
fn a_circuit_address_never_takes_the_relay_for_the_peer() {
    let relay = at("/ip4/127.0.0.1/udp/4001/quic-v1");
    let circuit = at(&format!("{relay}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"));
    assert_eq!((circuit.peer(), circuit.ip(), circuit.is_circuit()), (Some(id(PEER)), None, true));
    assert_eq!(circuit.relay(), Some(Relay { peer: id(RELAY), address: relay.clone() }));
    // The relay is what is dialled, from this machine alone; the peer behind it may be anywhere.
    assert_eq!((circuit.reach(), circuit.peer_scope()), (Scope::Machine, Scope::World));
    assert_eq!(circuit.dialled_ips().collect::<Vec<_>>(), [ip("127.0.0.1").unwrap()]);
    assert_eq!(circuit.transport(), Transport::Quic);
    let unnamed = circuit.clone().without_peer();
    assert_eq!(unnamed.to_string(), format!("{relay}/p2p/{RELAY}/p2p-circuit"));
    assert_eq!((unnamed.peer(), unnamed.ip(), unnamed.clone().without_peer()), (None, None, unnamed.clone()));
    assert_eq!(unnamed.with_peer(&id(PEER)), circuit);
    // What is written behind the relay is not dialled from here.
    let beyond = at(&format!("/ip4/192.0.2.7/tcp/1/p2p/{RELAY}/p2p-circuit/ip4/127.0.0.1/udp/2/quic-v1/p2p/{PEER}"));
    assert_eq!((beyond.transport(), beyond.reach()), (Transport::Tcp, Scope::World));
    assert_eq!(beyond.dialled_ips().collect::<Vec<_>>(), [ip("192.0.2.7").unwrap()]);
    // As a listener behind a relay sees whoever comes: by the id alone.
    let unknown = at(&format!("/p2p-circuit/p2p/{PEER}"));
    assert_eq!((unknown.peer(), unknown.ip(), unknown.relay()), (Some(id(PEER)), None, None));
    assert_eq!((unknown.reach(), unknown.dialled_host()), (Scope::World, None));
}

#[test]
fn of_two_relays_the_last_is_next_to_the_peer_and_the_first_is_dialled() {
    let twice = at(&format!("/ip4/10.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{RELAY}"));
    assert_eq!((twice.peer(), twice.ip()), (Some(id(RELAY)), None));
    let relay = twice.relay().unwrap();
    assert!(relay.peer == id(PEER) && relay.address.is_circuit(), "{relay:?}");
    assert_eq!(twice.dialled_host(), Some(Host::Ip(ip("10.0.0.1").unwrap())));
}

#[test]
fn of_several_hosts_each_is_judged() {
    // TCP dials the last of these, and WebSocket the first.
    let several = at("/ip4/192.0.2.7/tcp/1/ip4/127.0.0.1/tcp/22");
    assert_eq!(several.reach(), Scope::Machine);
    assert_eq!(several.dialled_ips().count(), 2);
}

#[test]
fn a_peer_stands_at_the_end_once() {
    let bare = at("/ip4/192.0.2.7/tcp/4001");
    let named = bare.clone().with_peer(&id(PEER));
    assert_eq!(named.to_string(), format!("/ip4/192.0.2.7/tcp/4001/p2p/{PEER}"));
    assert_eq!(named.clone().with_peer(&id(PEER)), named);
    assert_eq!(named.clone().with_peer(&id(RELAY)).peer(), Some(id(RELAY)));
    assert_eq!(named.clone().without_peer(), bare);
    // Of a hash that no key has.
    let nobody = PeerId::from_bytes(&[0x16, 2, 1, 1]).unwrap();
    assert_eq!(named.clone().with_peer(&nobody), named);
}

#[test]
fn a_listener_is_known_by_each_of_its_addresses_and_by_no_other() {
    for (wanted, address) in [
        ("/ip4/0.0.0.0/tcp/4001", "/ip4/192.0.2.7/tcp/4001"),
        ("/ip6/::/udp/0/quic-v1", "/ip6/::1/udp/12/quic-v1"),
        ("/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/tcp/77/ws"),
    ] {
        assert!(at(&format!("{address}/p2p/{PEER}")).is_of_listener(&at(wanted)), "{wanted} {address}");
        assert!(at(address).is_of_listener(&at(wanted)), "{wanted} {address}");
    }
    for (wanted, address) in [
        ("/ip4/0.0.0.0/tcp/4001", "/ip6/::1/tcp/4001"),
        ("/ip4/0.0.0.0/tcp/4001", "/ip4/192.0.2.7/tcp/4002"),
        ("/ip4/127.0.0.1/tcp/0", "/ip4/192.0.2.7/tcp/1"),
        ("/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/1"),
        ("/ip4/0.0.0.0/tcp/0/ws", "/ip4/127.0.0.1/tcp/1"),
        ("/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/1/ws"),
        // A place at a relay that happens to have this port is none of our listeners.
        ("/ip4/0.0.0.0/tcp/4001", &format!("/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit")),
    ] {
        assert!(!at(&format!("{address}/p2p/{PEER}")).is_of_listener(&at(wanted)), "{wanted} {address}");
    }
}

#[test]
fn what_is_no_address_is_told_by_its_fault() {
    let long = format!("/dns4/{}/tcp/1", "a".repeat(MAX_TEXT));
    // Each `é` is written with six characters.
    let grows = format!("/ip4/127.0.0.1/tcp/1/x-parity-ws/{}", "é".repeat(100));
    let wordy = "/ip6/0000:0000:0000:0000:0000:0000:0000:0001".repeat(12);
    for (text, words) in [
        ("", "empty"),
        (wordy.as_str(), "longer than 512 bytes"),
        ("/ip4/127.0.0.1/tcp/1/x-parity-ws/\u{1b}", "cannot be shown"),
        (long.as_str(), "longer than 512 bytes"),
        (grows.as_str(), "longer than 512 bytes"),
        ("/dns4/a\u{1b}[31m/tcp/1", "cannot be shown"),
        ("nonsense", "begin with `/`"),
        ("192.0.2.7:4001", "begin with `/`"),
        ("/", "has ``"),
        ("/ip4", "ends where a value belongs"),
        ("/ip4/300.0.0.1/tcp/1", "wrong form"),
        ("/ip4/192.0.2.7/tcp/99999", "wrong form"),
        ("/ip4/192.0.2.7/tpc/4001", "has `tpc`"),
        ("/ip4/192.0.2.7/tcp/4001/", "has ``"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/nobody", "wrong form"),
    ] {
        let error = text.parse::<Multiaddr>().unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn an_address_that_a_peer_made_up_is_shown_safely_and_counts_for_nothing() {
    let name = |name: &str| Multiaddr::from(multiaddr::Multiaddr::empty().with(Protocol::Dns4(name.into())));
    let (terminal, split, long) = (name("a\u{1b}[31mb"), name("a/ip4/127.0.0.1"), name(&"a".repeat(4_000)));
    for made_up in [&terminal, &split, &long, &Multiaddr::from(multiaddr::Multiaddr::empty())] {
        assert!(!made_up.is_plain(), "{made_up}");
    }
    assert_eq!(terminal.to_string(), "/dns4/a[31mb");
    assert_eq!(long.to_string().len(), MAX_TEXT);
    assert_eq!(split.dialled_ips().count(), 0);
}

#[test]
fn an_address_may_have_512_bytes() {
    let named = |bytes: usize| format!("/dns4/{}/tcp/1", "a".repeat(bytes - 12));
    assert!(named(512).parse::<Multiaddr>().is_ok_and(|address| address.is_plain()));
    assert_eq!(named(513).parse::<Multiaddr>(), Err(AddressError::TooLong));
    // Each `é` is written with six characters.
    let grows = |dots: usize| format!("/ip4/127.0.0.1/tcp/1/x-parity-ws/{}{}", "é".repeat(79), "a".repeat(dots));
    let around = "/ip4/127.0.0.1/tcp/1/x-parity-ws/".len() + 79 * 6;
    assert!(grows(512 - around).parse::<Multiaddr>().is_ok());
    assert_eq!(grows(513 - around).parse::<Multiaddr>(), Err(AddressError::TooLong));
}

#[test]
fn a_transport_is_named_as_in_the_api() {
    let names = [Transport::Tcp, Transport::WebSocket, Transport::Quic, Transport::Other].map(|one| one.to_string());
    assert_eq!(names, ["tcp", "ws", "quic", ""]);
}

fn ips() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)]
}

fn direct() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        ips().prop_map(|ip| format!("/{}/{ip}", if ip.is_ipv4() { "ip4" } else { "ip6" })),
        "[a-z]{1,8}\\.org".prop_map(|name| format!("/dns4/{name}")),
    ];
    (host, any::<u16>(), 0..4).prop_map(|(host, port, way)| match way {
        0 => format!("{host}/tcp/{port}"),
        1 => format!("{host}/tcp/{port}/ws"),
        2 => format!("{host}/tcp/{port}/tls/ws"),
        _ => format!("{host}/udp/{port}/quic-v1"),
    })
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_the_same_again(text in "(/(ip4|ip6|dns4|tcp|udp|quic-v1|ws|p2p|p2p-circuit|x-parity-ws|[a-z0-9.%:]{1,12})){1,6}/?|\\PC{0,40}") {
        if let Ok(address) = text.parse::<Multiaddr>() {
            prop_assert_eq!(address.to_string().parse::<Multiaddr>(), Ok(address.clone()));
            prop_assert!(address.is_plain());
        }
    }

    #[test]
    fn no_bytes_of_a_peer_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(raw) = multiaddr::Multiaddr::try_from(bytes) {
            let address = Multiaddr::from(raw);
            prop_assert!(text::is_clean(&address.to_string()));
            let _ = (address.peer(), address.relay(), address.ip(), address.dialled_host(), address.transport());
            if address.is_plain() {
                prop_assert_eq!(address.to_string().parse::<Multiaddr>(), Ok(address));
            }
        }
    }

    #[test]
    fn a_circuit_keeps_relay_and_peer_apart(relay in direct(), key in any::<[u8; 32]>()) {
        let (relay, peer) = (at(&relay), PeerId::from_ed25519(&key));
        let circuit = at(&format!("{relay}/p2p/{RELAY}/p2p-circuit")).with_peer(&peer);
        prop_assert_eq!(circuit.peer(), Some(peer));
        prop_assert_eq!(circuit.relay().map(|found| found.address), Some(relay.clone()));
        prop_assert_eq!((circuit.ip(), circuit.peer_scope()), (None, Scope::World));
        prop_assert_eq!((circuit.reach(), circuit.transport()), (relay.reach(), relay.transport()));
        prop_assert_eq!(circuit.dialled_host(), relay.dialled_host());
        prop_assert!(!circuit.is_of_listener(&relay));
    }

    #[test]
    fn a_direct_address_has_its_own_ip(ip in ips(), port in any::<u16>()) {
        let kind = if ip.is_ipv4() { "ip4" } else { "ip6" };
        let address = at(&format!("/{kind}/{ip}/tcp/{port}"));
        prop_assert_eq!(address.ip(), Some(ip.to_canonical()));
        prop_assert_eq!(address.reach(), address_scope::of_ip(ip));
        prop_assert!(address.is_of_listener(&address));
    }
}

#[test]
fn the_way_through_a_relay_begins_where_the_relay_is() {
    for way in ["/ip4/192.0.2.7/tcp/4001", "/dns4/radio.example.org/udp/1/quic-v1"] {
        let circuit = at(&format!("{way}/p2p/{RELAY}/p2p-circuit"));
        for relay in [at(way), at(&format!("{way}/p2p/{PEER}"))] {
            assert_eq!(relay.first_way(), at(way));
            assert_eq!(relay.through(&id(RELAY)), circuit);
        }
        for longer in [circuit.clone(), circuit.with_peer(&id(PEER)), at(&format!("{way}/p2p-circuit"))] {
            assert_eq!(longer.first_way(), at(way));
        }
    }
}
