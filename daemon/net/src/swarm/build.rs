//! Builds the swarm: transports, their bounds, and what listens where.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use libp2p::{Multiaddr, Swarm, SwarmBuilder, core::upgrade::Version, multiaddr::Protocol, relay};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt},
};

use crate::{
    Config, NetError,
    dial::parse_announce,
    identity::Identity,
    peers::connection_gater::SharedRules,
    pubsub::message_id::Settings,
    streams::behaviour::Acceptors,
    swarm::{
        bandwidth::Meters,
        behaviour::{self, Behaviour},
        transport,
    },
};

/// An error with all its causes; the library's own words leave out the system's, or say them once a layer.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut causes: Vec<String> = causes.filter(|cause| !cause.is_empty()).collect();
    causes.dedup();
    causes.join(": ")
}

/// Fails where another program listens on this port. The library's TCP listeners share theirs (SO_REUSEPORT): a second
/// daemon of the same user would start in peace, and each would get half of the other's connections.
fn check_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let (family, ip) = match parts.next() {
        Some(Protocol::Ip4(ip)) => (AddressFamily::Inet, IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => (AddressFamily::Inet6, IpAddr::V6(ip)),
        _ => return Ok(()),
    };
    let (kind, port) = match parts.next() {
        Some(Protocol::Tcp(port)) => (SockType::Stream, port),
        Some(Protocol::Udp(port)) => (SockType::Datagram, port),
        _ => return Ok(()),
    };
    let probe = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if kind == SockType::Stream {
        setsockopt(&probe, sockopt::ReuseAddr, &true)?;
    }
    if ip.is_ipv6() {
        setsockopt(&probe, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(bind(probe.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, port)))?)
}

pub(crate) fn build(
    config: &Config,
    identity: &Identity,
    settings: Settings,
    meters: &Meters,
    acceptors: &Acceptors,
) -> Result<(Swarm<Behaviour>, Vec<Multiaddr>), NetError> {
    let setup = |e: &dyn std::fmt::Display| NetError::Setup(e.to_string());
    let rules = SharedRules::default();
    let (circuits, client) = relay::client::new(identity.0.public().to_peer_id());
    let behaviour = behaviour::build(config, identity, settings, meters, acceptors, rules.clone(), client)?;
    let mut swarm = SwarmBuilder::with_existing_identity(identity.0.clone())
        .with_tokio()
        .with_other_transport(|keys| {
            transport::build(keys, meters, &rules, circuits, config.network.mplex)
                .map_err(Box::<dyn std::error::Error + Send + Sync>::from)
        })
        .map_err(|e| setup(&e))?
        .with_behaviour(|_| behaviour)
        .map_err(|e| setup(&e))?
        .with_swarm_config(|swarm| {
            swarm
                // One round trip to open a stream instead of two.
                .with_substream_upgrade_protocol_override(Version::V1Lazy)
                .with_max_negotiating_inbound_streams(16)
                // Quiet peers are still wanted: gossipsub meshes live on them. The connection limits bound their number.
                .with_idle_connection_timeout(Duration::from_secs(3600))
        })
        .build();
    let missing = listen(&mut swarm, &config.network.listen)?;
    for address in &config.network.announce {
        swarm.add_external_address(parse_announce(address)?);
    }
    Ok((swarm, missing))
}

/// Listens on those of these addresses that the machine has got meanwhile; the others remain.
pub(crate) fn listen_again(swarm: &mut Swarm<Behaviour>, missing: &mut Vec<Multiaddr>) {
    missing.retain(|address| {
        let listens = check_free(address).is_ok() && swarm.listen_on(address.clone()).is_ok();
        !listens
    });
}

/// Listens on each address. A machine without IPv6, or without IPv4, does without the addresses of that kind. Those that it may get
/// later, as of an interface that is not up yet, are returned.
fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[String]) -> Result<Vec<Multiaddr>, NetError> {
    let mut missing = Vec::new();
    let mut unsupported = None;
    let mut listens = false;
    for address in addresses {
        let parsed = crate::dial::parse_listen(address)?;
        let failed = |e: &dyn std::error::Error| NetError::Setup(format!("cannot listen on {address}: {}", causes(e)));
        match check_free(&parsed) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
                tracing::info!(address, "this machine has no such addresses, so nothing listens there");
                unsupported = Some(failed(&error));
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::warn!(address, "this machine has no such address now; listening there once it has");
                missing.push(parsed);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(NetError::InUse(address.clone())),
            Err(error) => return Err(failed(&error)),
        }
        swarm.listen_on(parsed).map_err(|e| failed(&e))?;
        listens = true;
    }
    unsupported.filter(|_| !listens && missing.is_empty()).map_or(Ok(missing), Err)
}
