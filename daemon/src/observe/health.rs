//! How the daemon fares.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::statvfs::statvfs;
use p2pd_core::{clock::Judgement, id::PeerId, multiaddr::Multiaddr, time::UnixMs};
use p2pd_live::{Live, LiveError};
use p2pd_net::{BootstrapFault, Handle, NetError, Network, Reached, Relay, Switch};
use p2pd_node::{clock::wall, disk::Disk, events::Events, peers::Peers, pubsub::PubSub, streams::Streams};

use tokio::time::timeout;

use super::{
    descriptors::{Descriptors, InUse},
    storage::Storage,
};

/// How long a look at the disk and at file descriptors may take.
const LOOK: Duration = Duration::from_secs(1);

/// Numbers of the daemon.
pub(crate) struct Statistics {
    pub(crate) peers: usize,
    pub(crate) streams: usize,
    pub(crate) publications: usize,
    pub(crate) listeners: usize,
    pub(crate) groups_in: u64,
    pub(crate) groups_out: u64,
    pub(crate) dropped: u64,
    pub(crate) too_large: u64,
    pub(crate) gossip_ended: u64,
}

/// What the daemon is able to do.
pub(crate) struct State {
    pub(crate) peers: usize,
    /// An own address that a rule denies.
    pub(crate) cut_off: Option<IpAddr>,
    /// Tunnels that do not stand, and why.
    pub(crate) fallen: Vec<(String, String)>,
    /// Addresses on which it listens.
    pub(crate) listening: Vec<Multiaddr>,
    pub(crate) listeners_missing: usize,
    /// Bootstrap peers that are not connected; why is empty until it is known.
    pub(crate) bootstrap_missing: Vec<BootstrapFault>,
    pub(crate) clocks: Judgement,
    /// Who has brought most to a directory that is full.
    pub(crate) flooded_by: Option<PeerId>,
    /// Peers with which the stream of gossip has ended.
    pub(crate) gossip_ended: Vec<PeerId>,
    pub(crate) machine: Machine,
    /// Messages of topics that found no room within the bounds of bandwidth, where that still happens.
    pub(crate) left_out: Option<u64>,
    pub(crate) reached: Reached,
    pub(crate) relays: Vec<Relay>,
    /// It passes on connections for others.
    pub(crate) is_relay: bool,
}

/// What the machine has left.
pub(crate) struct Machine {
    /// Why the disk, or what is on it, fails.
    pub(crate) storage_fault: Option<String>,
    /// Room on the disk of the database, where that is known.
    pub(crate) disk: Option<Room>,
    /// Where few are left.
    pub(crate) descriptors_short: Option<InUse>,
    /// File descriptors in use, where that is known.
    pub(crate) descriptors: Option<InUse>,
}

/// Room on a disk, in bytes.
pub(crate) struct Room {
    pub(crate) path: PathBuf,
    pub(crate) free: u64,
    pub(crate) size: u64,
}

impl Room {
    fn of(path: &Path) -> Option<Self> {
        let disk = statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
        Some(Room { path: path.to_owned(), free: bytes(disk.blocks_available()), size: bytes(disk.blocks()) })
    }
}

/// Of whom it is asked how the daemon fares.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) network: Network,
    pub(crate) net: Handle,
    pub(crate) disk: Disk,
    pub(crate) events: Events,
    pub(crate) peers: Peers,
    pub(crate) pubsub: PubSub,
    pub(crate) live: Live,
    pub(crate) streams: Streams,
}

/// Asks every part how it fares.
#[derive(Clone)]
pub(crate) struct Health {
    pub(super) of: Setup,
    storage: Storage,
    descriptors: Descriptors,
    /// When the daemon began.
    pub(crate) started: UnixMs,
}

impl Health {
    pub(crate) fn new(of: Setup) -> Self {
        let storage = Storage::new(of.disk.clone(), of.events.clone());
        let descriptors = Descriptors::new(of.events.clone());
        Health { of, storage, descriptors, started: wall() }
    }

    /// Looks at what nobody else looks at, until the daemon ends.
    pub(crate) async fn run(&self) {
        tokio::join!(self.storage.watch(), self.descriptors.watch());
    }

    /// Name of the network.
    pub(crate) fn network(&self) -> &str {
        &self.of.network.name
    }

    /// What the daemon is able to do now.
    pub(crate) async fn state(&self) -> Result<State, LiveError> {
        let peers = self.of.net.peers.list().await?;
        let config = &self.of.network;
        let listening = self.of.peers.listeners().await?;
        let missing = |address: &&String| {
            let peer = address.parse().ok().and_then(|address: Multiaddr| address.peer());
            !peers.iter().any(|info| Some(&info.peer) == peer.as_ref())
        };
        let faults = self.of.net.dial.bootstrap_faults().await?;
        let why = |address: &String| {
            let known = faults.iter().find(|fault| fault.address == *address).cloned();
            known.unwrap_or_else(|| BootstrapFault { address: address.clone(), why: String::new() })
        };
        let database = self.of.disk.store().path().to_owned();
        let machine = tokio::task::spawn_blocking(move || (Room::of(&database), InUse::count()));
        // A disk that hangs holds nobody up; what is wrong with it is told apart.
        let (disk, descriptors) = timeout(LOOK, machine).await.ok().and_then(Result::ok).unwrap_or_default();
        Ok(State {
            reached: self.of.peers.reached().await?,
            relays: self.of.peers.relays().await?,
            is_relay: config.relay == Switch::On,
            machine: Machine {
                storage_fault: self.storage.fault(),
                disk,
                descriptors_short: self.descriptors.short(),
                descriptors,
            },
            left_out: self.of.net.shaper.lately_left_out(),
            peers: peers.len(),
            cut_off: self.of.peers.cut_off(&listening),
            fallen: self.of.streams.fallen(),
            listeners_missing: config
                .listen
                .iter()
                .filter_map(|wanted| wanted.parse().ok())
                .filter(|wanted| has_family(wanted) && !listening.iter().any(|own| own.is_of_listener(wanted)))
                .count(),
            bootstrap_missing: config.bootstrap.iter().filter(missing).map(why).collect(),
            clocks: self.of.live.clocks().await?,
            listening,
            flooded_by: self.of.live.flooded_by(),
            gossip_ended: peers.iter().filter(|peer| peer.gossip_ended).map(|peer| peer.peer.clone()).collect(),
        })
    }

    /// How the daemon fares.
    pub(crate) async fn statistics(&self) -> Result<Statistics, NetError> {
        let live = self.of.live.statistics();
        Ok(Statistics {
            peers: self.of.net.peers.connected().await?.len(),
            streams: live.streams,
            publications: live.publications,
            listeners: live.listeners,
            groups_in: live.groups_in,
            groups_out: live.groups_out,
            dropped: live.dropped.saturating_add(self.of.pubsub.dropped()),
            too_large: live.too_large.saturating_add(self.of.pubsub.too_large()),
            gossip_ended: self.of.peers.gossip_ended(),
        })
    }
}

/// Whether this machine has addresses of the kind of `wanted`; without any, nothing listens there, which is no fault.
fn has_family(wanted: &Multiaddr) -> bool {
    let is_v6 = wanted.ip().is_some_and(|ip| ip.is_ipv6());
    let own = if is_v6 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { Ipv4Addr::LOCALHOST.into() };
    UdpSocket::bind((own, 0)).is_ok()
}
