//! Tests addresses of peers, within bounds: a dial costs a stranger nothing, and knocks at somebody's door.

use std::{
    collections::{HashSet, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use libp2p::multiaddr::Protocol::{Ip4, Ip6, QuicV1, Tcp, Udp, Ws};
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use p2pd_core::{address_scope::Scope, id::PeerId, multiaddr::Multiaddr as Address, time::MonoMs};
use tokio::{sync::Mutex, time::timeout};

use super::wire::{
    self, DIAL_BACK, DIAL_REQUEST, DialBack, DialBackResponse, DialDataRequest, DialRequest, DialResponse, Kind,
    dial_status, status,
};
use crate::{
    Handle, NetError,
    reach::delimited,
    streams::{ByteStream, PeerStream, Reservation, StreamClass},
};

/// Tests at once, in a minute, and of one peer or IP address in a minute.
const AT_ONCE: usize = 8;
const IN_A_MINUTE: usize = 60;
const OF_PEER: usize = 12;
const MINUTE_MS: u64 = 60_000;
/// Addresses of a request that are looked at.
const MAX_ADDRESSES: usize = 16;
/// How long a test may take, and a dial.
const TEST: Duration = Duration::from_secs(35);
const DIAL: Duration = Duration::from_secs(10);
/// How long a peer may take to pay: it holds up others meanwhile.
const PAY: Duration = Duration::from_secs(5);
/// What a peer sends before another IP address than its own is dialled for it (30 to 100 kB of the specification), so that it gains nothing
/// by having others knocked at.
const PRICE: u64 = 50_000;

/// The tests of the last minute.
#[derive(Default)]
struct Done(VecDeque<Test>);

struct Test {
    at: MonoMs,
    peer: PeerId,
    /// Where the peer is: names cost nothing.
    ip: Option<IpAddr>,
}

impl Done {
    /// Whether one more is within the bounds; it counts then.
    fn admit(&mut self, at: MonoMs, peer: &PeerId, ip: Option<IpAddr>) -> bool {
        while self.0.front().is_some_and(|test| at.since(test.at) >= MINUTE_MS) {
            self.0.pop_front();
        }
        let of_one = self.0.iter().filter(|test| test.peer == *peer || test.ip == ip).count();
        let admits = self.0.len() < IN_A_MINUTE && of_one < OF_PEER;
        if admits {
            self.0.push_back(Test { at, peer: peer.clone(), ip });
        }
        admits
    }
}

/// Tests addresses of peers, until the network has stopped.
pub(crate) async fn run(net: Handle) {
    let reservation = Reservation { protocol: DIAL_REQUEST, class: StreamClass::Bulk, most: AT_ONCE, of_peer: 1 };
    let Ok(asks) = net.streams.reserve(reservation).await else { return };
    let done = Arc::new(Mutex::new(Done::default()));
    let serve = |asked: PeerStream| {
        let (net, done) = (net.clone(), done.clone());
        async move {
            let peer = asked.peer.clone();
            let tested = timeout(TEST, test(&net, &done, asked)).await.map_err(io::Error::from).flatten();
            if let Err(error) = tested {
                tracing::debug!(%peer, %error, "an address of a peer was not tested");
            }
        }
    };
    asks.serve(serve).await;
}

async fn test(net: &Handle, done: &Mutex<Done>, asked: PeerStream) -> io::Result<()> {
    let PeerStream { peer, address: seen, mut stream, .. } = asked;
    let Kind::Request(DialRequest { addresses, nonce }) = wire::receive(&mut stream).await? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message out of turn"));
    };
    let answer = |status, address, dial_status| Kind::Response(DialResponse { status, address, dial_status });
    if !done.lock().await.admit(net.pubsub.clock().now(), &peer, seen.ip()) {
        return wire::send(&mut stream, answer(status::REQUEST_REJECTED, 0, dial_status::UNUSED)).await;
    }
    let has_v6 = net.addresses().await.is_ok_and(|own| own.listening.iter().any(is_v6_of_world));
    let Some((number, address)) = own_ips().and_then(|own| choose(&addresses, has_v6, &own)) else {
        return wire::send(&mut stream, answer(status::DIAL_REFUSED, 0, dial_status::UNUSED)).await;
    };
    if address.ip() != seen.ip() {
        timeout(PAY, collect(&mut stream, number)).await??;
    }
    let dialled = timeout(DIAL, net.reach.dial_back(&peer, address)).await;
    let told = match dialled {
        Ok(Ok(Some(id))) => {
            let said = timeout(DIAL, say(net, &peer, id, nonce)).await.map_err(io::Error::from).flatten();
            let _ = net.reach.hang_up(id).await;
            if said.is_ok() { dial_status::OK } else { dial_status::DIAL_BACK_ERROR }
        }
        Ok(Ok(None)) | Err(_) => dial_status::DIAL_ERROR,
        Ok(Err(_)) => {
            return wire::send(&mut stream, answer(status::INTERNAL_ERROR, number, dial_status::UNUSED)).await;
        }
    };
    wire::send(&mut stream, answer(status::OK, number, told)).await
}

fn is_v6_of_world(address: &Address) -> bool {
    address.reach() == Scope::World && address.ip().is_some_and(|ip| ip.is_ipv6())
}

/// The IP addresses of this machine, and those of all machines of its networks at once; `None` where the system does not say.
fn own_ips() -> Option<HashSet<IpAddr>> {
    let ip = |address: Option<SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or(address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    let of_interfaces = getifaddrs().ok()?.flat_map(|interface| [ip(interface.address), ip(interface.broadcast)]);
    Some(of_interfaces.flatten().collect())
}

/// Whether an IP address is given to machines out in the world: not for examples, measurements, or what networks do among themselves.
fn is_of_machines(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let for_protocols = (a, b, c) == (192, 0, 0) || (a, b, c) == (192, 88, 99);
            let for_measurements = a == 198 && (18..20).contains(&b);
            !(ip.is_documentation() || for_protocols || for_measurements)
        }
        // All that is given to machines is 2000::/3; of that 2001:0:: (Teredo), 2001:db8:: (examples) and 2002:: (6to4) are not.
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b == 0 || b == 0xdb8))
        }
    }
}

/// The first of these addresses that is dialled from here: of the world and not of this machine, and by a transport that this daemon has.
fn choose(addresses: &[Vec<u8>], has_v6: bool, own: &HashSet<IpAddr>) -> Option<(u32, Address)> {
    let dialled = |bytes: &Vec<u8>| {
        let address = libp2p::Multiaddr::try_from(bytes.clone()).ok()?;
        let known = matches!(
            address.iter().collect::<Vec<_>>()[..],
            [Ip4(_) | Ip6(_), Tcp(1..)] | [Ip4(_) | Ip6(_), Tcp(1..), Ws(_)] | [Ip4(_) | Ip6(_), Udp(1..), QuicV1]
        );
        let address = Address::from(address);
        let may_dial = |ip: IpAddr| (ip.is_ipv4() || has_v6) && is_of_machines(ip) && !own.contains(&ip);
        let there = address.reach() == Scope::World && address.ip().is_some_and(may_dial);
        (known && there).then_some(address)
    };
    let mut each = (0..).zip(addresses.iter().take(MAX_ADDRESSES));
    each.find_map(|(number, bytes)| Some((number, dialled(bytes)?)))
}

/// Takes the price of a dial to another IP address than the peer's own.
async fn collect(stream: &mut ByteStream, address: u32) -> io::Result<()> {
    wire::send(stream, Kind::DataRequest(DialDataRequest { address, bytes: PRICE })).await?;
    let mut got = 0;
    while got < PRICE {
        match wire::receive(stream).await? {
            // Of empty ones there would be no end.
            Kind::DataResponse(part) if !part.data.is_empty() => {
                got = got.saturating_add(u64::try_from(part.data.len()).unwrap_or(u64::MAX));
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a message out of turn")),
        }
    }
    Ok(())
}

/// Says on the connection that was dialled why it was.
async fn say(net: &Handle, peer: &PeerId, on: libp2p::swarm::ConnectionId, nonce: u64) -> io::Result<()> {
    let opened = net.streams.open_on(peer, Some(on), &[DIAL_BACK.to_owned()]).await;
    let PeerStream { mut stream, .. } = opened.map_err(|error: NetError| io::Error::other(error))?;
    delimited::write(&mut stream, &DialBack { nonce }).await?;
    delimited::read::<DialBackResponse>(&mut stream, wire::MAX_MESSAGE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::reach::autonat::wire::DialDataResponse;

    #[test]
    fn so_many_addresses_are_tested_in_a_minute() {
        let mut done = Done::default();
        let mut admitted = |now, who: u8, from: u8| {
            let (peer, ip) = (PeerId::from_ed25519(&[who; 32]), Some(IpAddr::from([45, 0, 0, from])));
            (0..100).filter(|_| done.admit(MonoMs(now), &peer, ip)).count()
        };
        assert_eq!(
            [admitted(0, 0, 0), admitted(0, 0, 1), admitted(0, 1, 0)],
            [12, 0, 0],
            "of a peer, and of an address"
        );
        let of_each: Vec<_> = (2..8).map(|who| admitted(0, who, who)).collect();
        assert_eq!(of_each, [12, 12, 12, 12, 0, 0]);
        assert_eq!(admitted(MINUTE_MS - 1, 7, 7), 0);
        assert_eq!(admitted(MINUTE_MS, 7, 7), 12);
    }

    #[test]
    fn what_is_dialled_is_a_machine_of_the_world_and_not_this_one() {
        let own = HashSet::from([IpAddr::from([45, 10, 20, 9])]);
        let relayed = format!("/ip4/45.10.20.1/tcp/1/p2p/{}/p2p-circuit", libp2p::PeerId::random());
        let choose = |addresses: &[&str], has_v6| {
            let bytes: Vec<_> =
                addresses.iter().map(|a| a.parse::<libp2p::Multiaddr>().unwrap().to_vec()).chain([vec![255]]).collect();
            choose(&bytes, has_v6, &own).map(|(number, address)| (number, address.to_string()))
        };
        for refused in [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/10.0.0.1/tcp/22",
            "/ip4/0.1.2.3/tcp/22",
            "/ip4/224.0.0.1/udp/4001/quic-v1",
            "/ip4/240.0.0.1/tcp/22",
            "/ip4/255.255.255.255/udp/4001/quic-v1",
            "/ip4/192.0.0.9/tcp/22",
            "/ip4/192.0.2.1/tcp/22",
            "/ip4/192.88.99.1/tcp/22",
            "/ip4/198.18.0.1/tcp/22",
            "/ip4/45.10.20.9/tcp/22",
            "/ip4/45.10.20.1/tcp/0",
            "/ip6/fd00::1/tcp/22",
            "/ip6/ff02::1/udp/4001/quic-v1",
            "/ip6/2001:db8::1/tcp/22",
            "/ip6/2002:7f00:1::1/tcp/22",
            "/ip6/64:ff9b::7f00:1/tcp/22",
            "/dns4/home.example/tcp/22",
            "/ip4/45.10.20.1/tcp/1/http",
            &relayed,
        ] {
            assert_eq!(choose(&[refused], true), None, "{refused}");
        }
        let v6 = "/ip6/2a00:1450::1/tcp/1";
        let quic = "/ip4/45.10.20.1/udp/1/quic-v1";
        assert_eq!(choose(&["/ip4/10.0.0.1/tcp/1", v6, quic], false), Some((2, quic.into())));
        assert_eq!(choose(&[v6, quic], true), Some((0, v6.into())));
        let many = vec!["/ip4/10.0.0.1/tcp/1"; MAX_ADDRESSES];
        assert_eq!(choose(&[&many[..], &[quic]].concat(), true), None, "nobody looks at more");
        assert!(own_ips().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[tokio::test]
    async fn who_does_not_pay_is_not_served() {
        for (parts, paid) in [(vec![4096; 13], true), (vec![4096; 12], false), (vec![4096, 0], false)] {
            let (one, other) = duplex(1 << 17);
            let (mut one, mut other): (ByteStream, ByteStream) = (Box::new(one), Box::new(other));
            let pay = async {
                assert!(matches!(wire::receive(&mut other).await.unwrap(), Kind::DataRequest(_)));
                for part in parts {
                    let data = DialDataResponse { data: vec![0; part] };
                    wire::send(&mut other, Kind::DataResponse(data)).await.unwrap();
                }
                drop(other);
            };
            let (collected, ()) = tokio::join!(collect(&mut one, 0), pay);
            assert_eq!(collected.is_ok(), paid);
        }
    }
}
