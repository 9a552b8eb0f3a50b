//! Where the peer is that is connected.

use libp2p::{Multiaddr, core::ConnectedPoint, multiaddr::Protocol};

/// The peer's end of a connection. One who comes through a relay tells only its id there; where the relay is stands at this end.
pub(crate) fn far_end(point: &ConnectedPoint) -> Multiaddr {
    match point {
        ConnectedPoint::Listener { local_addr, .. } if point.is_relayed() => {
            let circuit = |part: &Protocol<'_>| matches!(part, Protocol::P2pCircuit);
            let mut way: Multiaddr = local_addr.iter().take_while(|part| !circuit(part)).collect();
            way.push(Protocol::P2pCircuit);
            way
        }
        _ => point.get_remote_address().clone(),
    }
}
