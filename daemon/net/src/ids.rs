//! Peer ids and addresses of this daemon and of libp2p.

use libp2p::Multiaddr;
use p2pd_core::{id::PeerId, multiaddr::Multiaddr as Address};

pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> PeerId {
    // A libp2p id is a multihash, so this cannot fail; an impossible one becomes an id that matches nobody.
    PeerId::from_bytes(&peer.to_bytes()).unwrap_or_else(|_| PeerId::from_ed25519(&[0; 32]))
}

pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    libp2p::PeerId::from_bytes(peer.as_bytes()).ok()
}

/// An address as it is shown and compared: the peer's id stands beside it.
pub(crate) fn without_peer(address: Multiaddr) -> Multiaddr {
    Address::from(address).without_peer().into()
}
