//! Where this daemon listens, and addresses that the machine does not have yet.

use std::{cmp::Reverse, net::IpAddr};

use libp2p::{Multiaddr, Swarm};
use p2pd_core::{multiaddr::Multiaddr as Address, time::MonoMs};
use tokio::sync::oneshot;

use super::{behaviour::Behaviour, build};
use crate::ids;

/// How often addresses are looked for that the machine did not have, in milliseconds.
const AGAIN_MS: u64 = 2_000;
/// How often it is logged that a listener fails, in milliseconds.
const LOG_MS: u64 = 10_000;

/// Asks for the addresses of this daemon.
pub(crate) struct Command(pub(crate) oneshot::Sender<OwnAddresses>);

/// The addresses of this daemon, each with `/p2p/<own id>` at its end.
#[derive(Clone, Debug)]
pub struct OwnAddresses {
    /// At which others reach it, as its operator says, and those over relays.
    pub announced: Vec<Address>,
    /// On which it listens.
    pub listening: Vec<Address>,
}

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

/// The addresses of this daemon.
pub(crate) fn addresses(swarm: &Swarm<Behaviour>) -> OwnAddresses {
    let own = ids::from_libp2p(swarm.local_peer_id());
    let mut announced: Vec<_> = swarm.external_addresses().cloned().map(Address::from).collect();
    // Those of one link are dialled with the name of an interface, which is another on each machine.
    let is_of_link = |ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    // Of those at relays, the announced ones are told.
    let listeners = swarm.listeners().cloned().map(Address::from).filter(|address| !address.is_circuit());
    let mut addresses: Vec<_> = listeners.filter(|address| !address.ip().is_some_and(is_of_link)).collect();
    // The swarm's order is another one each time.
    for list in [&mut announced, &mut addresses] {
        // Those first that reach farthest: of many, peers are told of some.
        list.sort_by_cached_key(|address| (Reverse(address.reach()), address.transport(), address.to_string()));
    }
    let whole = |list: Vec<Address>| list.into_iter().map(|address| address.with_peer(&own)).collect();
    OwnAddresses { announced: whole(announced), listening: whole(addresses) }
}
