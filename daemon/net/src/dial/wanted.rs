//! Peers that this daemon stays connected to.

use std::time::Duration;

use libp2p::{Multiaddr, swarm::ConnectionId};
use p2pd_core::time::MonoMs;

use super::{RETRY_FIRST, fault::Fault};
use crate::ids;

/// A peer to stay connected to.
pub(super) struct Wanted {
    pub(super) peer: libp2p::PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// Addresses at which somebody else answered: one of them would end the dial of all. Tried again once no other is left.
    pub(super) misleading: Vec<Multiaddr>,
    /// Its addresses of `network.bootstrap`.
    pub(super) bootstrap: Vec<Configured>,
    pub(super) why: Why,
    /// It is kept when it comes, and not dialled.
    pub(super) passive: bool,
    pub(super) next: MonoMs,
    pub(super) wait: Duration,
    /// The dial that is under way, or was last.
    pub(super) dial: Option<ConnectionId>,
    /// Why that failed.
    pub(super) fault: Option<Fault>,
}

/// Why this daemon stays connected to a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Bootstrap,
    Relay,
    /// While the daemon runs.
    Pinned,
}

impl Why {
    pub(super) fn name(self) -> &'static str {
        match self {
            Why::Bootstrap => "bootstrap",
            Why::Relay => "relay",
            Why::Pinned => "pinned",
        }
    }
}

/// A bootstrap address.
pub(super) struct Configured {
    pub(super) text: String,
    pub(super) address: Multiaddr,
}

impl Wanted {
    pub(super) fn new(peer: libp2p::PeerId, addresses: Vec<Multiaddr>, why: Why) -> Self {
        Wanted {
            peer,
            addresses,
            misleading: Vec::new(),
            bootstrap: Vec::new(),
            why,
            passive: false,
            next: MonoMs(0),
            wait: RETRY_FIRST,
            dial: None,
            fault: None,
        }
    }

    /// Where to dial it now.
    pub(super) fn next_addresses(&mut self) -> Vec<Multiaddr> {
        let misleads = |address: &&Multiaddr| self.misleading.contains(&ids::without_peer((*address).clone()));
        let left: Vec<_> = self.addresses.iter().filter(|address| !misleads(address)).cloned().collect();
        if left.is_empty() {
            self.misleading.clear();
            return self.addresses.clone();
        }
        left
    }
}
