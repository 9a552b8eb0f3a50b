//! Where this daemon listens, and addresses that the machine does not have yet.

use libp2p::{Multiaddr, Swarm, multiaddr::Protocol};
use p2pd_core::time::MonoMs;

use super::{behaviour::Behaviour, build};

/// How often addresses are looked for that the machine did not have, in milliseconds.
const AGAIN_MS: u64 = 2_000;
/// How often it is logged that a listener fails, in milliseconds.
const LOG_MS: u64 = 10_000;

pub(crate) struct Listeners {
    missing: Vec<Multiaddr>,
    looked: MonoMs,
    /// When it was last logged that one failed.
    failed: Option<MonoMs>,
}

impl Listeners {
    pub(crate) fn new(missing: Vec<Multiaddr>) -> Self {
        Listeners { missing, looked: MonoMs(0), failed: None }
    }

    pub(crate) fn on_tick(&mut self, swarm: &mut Swarm<Behaviour>, now: MonoMs) {
        if !self.missing.is_empty() && now.since(self.looked) >= AGAIN_MS {
            self.looked = now;
            build::listen_again(swarm, &mut self.missing);
        }
    }

    /// A listener that accepts nothing, mostly since no file descriptor is left, tries again ten times a second.
    pub(crate) fn on_failed(&mut self, error: &std::io::Error, now: MonoMs) {
        if self.failed.is_none_or(|at| now.since(at) >= LOG_MS) {
            self.failed = Some(now);
            tracing::warn!(%error, "a listener failed");
        }
    }
}

/// Where this daemon listens, each with `/p2p/<own id>` at its end.
pub(crate) fn addresses(swarm: &Swarm<Behaviour>) -> Vec<String> {
    let own = Protocol::P2p(*swarm.local_peer_id());
    // Those of one link are dialled with the name of an interface, which is another on each machine.
    let is_of_link =
        |address: &Multiaddr| matches!(address.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local());
    let mut addresses: Vec<_> = swarm.listeners().filter(|address| !is_of_link(address)).cloned().collect();
    // The swarm's order is another one each time.
    addresses.sort_by_cached_key(|address| (rank(address), address.to_string()));
    addresses.into_iter().map(|address| address.with(own.clone()).to_string()).collect()
}

/// TCP before WebSocket before QUIC.
fn rank(address: &Multiaddr) -> u8 {
    let rank = |part| match part {
        Protocol::Udp(_) => 2,
        Protocol::Ws(_) => 1,
        _ => 0,
    };
    address.iter().map(rank).max().unwrap_or_default()
}
