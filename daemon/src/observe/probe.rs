//! Tries what nothing else has shown: whether UDP gets through.

use std::time::Duration;

use p2pd_core::multiaddr::{Multiaddr, Transport};
use p2pd_net::{Handle, NetError, PeerInfo};

use super::{findings::Finding, health::Health};

/// Peers that are tried.
const PEERS: usize = 2;
/// How long each may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Health {
    /// What is found where something is tried.
    pub(crate) async fn probe(&self) -> Result<Vec<Finding>, NetError> {
        Ok(vec![udp(&self.of.net).await?])
    }
}

/// Whether QUIC gets through to peers that are connected otherwise.
async fn udp(net: &Handle) -> Result<Finding, NetError> {
    let peers = net.peers.list().await?;
    let over_quic = |info: &&PeerInfo| info.connections.iter().any(|one| one.address.transport() == Transport::Quic);
    if let Some(peer) = peers.iter().find(over_quic) {
        return Ok(Finding::ok("udp", format!("{} is connected over UDP (QUIC)", peer.peer)));
    }
    let mut silent = Vec::new();
    for (info, address) in peers.iter().filter_map(|info| Some((info, quic(info)?))).take(PEERS) {
        if net.reach.is_answered(&info.peer, address, PATIENCE).await? {
            return Ok(Finding::ok("udp", format!("{} answers over UDP (QUIC)", info.peer)));
        }
        silent.push(info.peer.to_string());
    }
    if silent.is_empty() {
        return Ok(Finding::ok("udp", "no connected peer says that it can be reached over UDP (QUIC)"));
    }
    let fact = format!("UDP (QUIC) does not get through to {}, which TCP reaches", silent.join(" and "));
    let mend = "have firewalls and the router let UDP out and its answers in; over TCP all works, and fewer direct connections come about";
    Ok(Finding::warn("udp", fact, mend))
}

/// Where a peer says that it can be reached over QUIC, as far away as it is connected.
fn quic(info: &PeerInfo) -> Option<Multiaddr> {
    let direct = info.connections.iter().find(|one| !one.address.is_circuit())?;
    let mut said = info.addresses.iter().filter(|address| address.is_plain() && !address.is_circuit());
    said.find(|address| address.transport() == Transport::Quic && address.ip() == direct.address.ip()).cloned()
}
