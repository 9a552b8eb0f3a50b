//! Builds the swarm: transports, their bounds, and what listens where.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, Transport as _,
    core::{muxing::StreamMuxerBox, upgrade::Version},
    dns,
    multiaddr::Protocol,
    noise, tcp, tls, websocket, yamux,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};

use crate::{
    Config, NetError,
    behaviour::{self, Behaviour},
    identity::Identity,
    message_id::ByContent,
};

/// Most bytes in one WebSocket frame. The library's default lets 14 unauthenticated bytes reserve 256 MiB.
const MAX_WEBSOCKET_FRAME: usize = 128 * 1024;

/// Yamux with receive windows pinned at 256 KiB: with windows that grow, js-libp2p sends frames over 1 MiB, which
/// rust-yamux refuses together with the connection. The number of streams is what the setter is named for; the pinned
/// window is what it is called for.
fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(4096);
    config
}

/// An error with all its causes; the library's own words leave out the system's, or say them once a layer.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut causes: Vec<String> = causes.filter(|cause| !cause.is_empty()).collect();
    causes.dedup();
    causes.join(": ")
}

/// Fails where another program listens on this TCP port. The library's listeners share theirs (SO_REUSEPORT): a second
/// daemon of the same user would start in peace, and each would get half of the other's connections.
fn check_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let (family, ip) = match parts.next() {
        Some(Protocol::Ip4(ip)) => (AddressFamily::Inet, IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => (AddressFamily::Inet6, IpAddr::V6(ip)),
        _ => return Ok(()),
    };
    let Some(Protocol::Tcp(port)) = parts.next() else { return Ok(()) };
    let probe = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&probe, sockopt::ReuseAddr, &true)?;
    if ip.is_ipv6() {
        setsockopt(&probe, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(bind(probe.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, port)))?)
}

pub(crate) fn build(config: &Config, identity: &Identity, by_content: ByContent) -> Result<Swarm<Behaviour>, NetError> {
    let setup = |e: &dyn std::fmt::Display| NetError::Setup(e.to_string());
    let behaviour = behaviour::build(config, identity, by_content)?;
    let mut swarm = SwarmBuilder::with_existing_identity(identity.0.clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), (tls::Config::new, noise::Config::new), yamux)
        .map_err(|e| setup(&e))?
        .with_quic()
        .with_other_transport(|keys| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
            let mut websocket = websocket::Config::new(dns::tokio::Transport::system(tcp)?);
            websocket.set_max_data_size(MAX_WEBSOCKET_FRAME);
            Ok(websocket
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(keys)?)
                .multiplex(yamux())
                .timeout(Duration::from_secs(10))
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
        })
        .map_err(|e| setup(&e))?
        .with_dns()
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
    for address in &config.listen {
        let parsed: Multiaddr = address.parse().map_err(|e: libp2p::multiaddr::Error| NetError::Address {
            address: address.clone(),
            fault: e.to_string(),
        })?;
        let failed = |e: &dyn std::error::Error| NetError::Setup(format!("cannot listen on {address}: {}", causes(e)));
        check_free(&parsed).map_err(|e| failed(&e))?;
        swarm.listen_on(parsed).map_err(|e| failed(&e))?;
    }
    Ok(swarm)
}
