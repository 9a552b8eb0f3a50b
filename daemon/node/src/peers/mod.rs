//! Peers: who is connected, who may be, who is stayed connected to, and who was.

mod book;
mod error;
mod moved;
mod ping;
mod pins;
mod reconnect;
mod rules;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use p2pd_core::{connection_rules::Rules, id::PeerId, multiaddr::Multiaddr, pins::Pins};
use p2pd_net::{Event, Handle, NetError, OwnAddresses, PeerInfo, Reached, Relay};
use p2pd_store::{Store, StoreError, Unreadable};
use tokio::sync::{broadcast, mpsc};

pub use self::{
    book::{reached_at, readable},
    error::PeersError,
};
use self::{moved::Moved, reconnect::Lost};
use crate::{clock::Clock, disk::Disk, events::Events, tasks::Tasks};

/// Changes that a watcher may be behind before it is cut off.
const WATCH: usize = 256;
/// Peers that wait to be written into the peer book. Others are, when they tell again who they are.
const WAITING: usize = 256;
/// How often it is seen to what is due.
const TICK: Duration = Duration::from_secs(1);
/// How long listeners are waited for at the start, and how often they are looked at.
const LISTENING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// What the owner of peers is given.
#[derive(Clone)]
pub struct Setup {
    /// Who this daemon is.
    pub me: PeerId,
    /// The network.
    pub net: Handle,
    /// The store.
    pub disk: Disk,
    /// Work beside callers.
    pub tasks: Tasks,
    /// Time.
    pub clock: Clock,
    /// What happens.
    pub events: Events,
}

struct Shared {
    with: Setup,
    rules: Mutex<Rules>,
    pins: Mutex<Pins>,
    /// Held while the rules or pins change.
    changing: tokio::sync::Mutex<()>,
    lost: Mutex<Lost>,
    moved: Mutex<Moved>,
    /// `None`: which ones is not known.
    changed: broadcast::Sender<Option<PeerId>>,
    to_remember: mpsc::Sender<PeerId>,
    gossip_ended: AtomicU64,
}

/// The owner of peers, behind a cloneable handle.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

/// Peers on their way into the peer book, for [`Peers::run`].
pub struct ToRemember(mpsc::Receiver<PeerId>);

/// Records of rules and pins that cannot be read.
pub fn unreadable_records(store: &Store) -> Result<Vec<Unreadable>, StoreError> {
    let mut all: Vec<_> = rules::read(store)?.into_iter().filter_map(Result::err).collect();
    all.extend(pins::read(store)?.into_iter().filter_map(Result::err));
    Ok(all)
}

impl Peers {
    /// An owner without rules and pins; `restore` takes up those that were kept.
    pub fn new(with: Setup) -> (Self, ToRemember) {
        let (to_remember, told) = mpsc::channel(WAITING);
        let shared = Shared {
            with,
            rules: Mutex::default(),
            pins: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            lost: Mutex::default(),
            moved: Mutex::default(),
            changed: broadcast::Sender::new(WATCH),
            to_remember,
            gossip_ended: AtomicU64::default(),
        };
        (Peers(Arc::new(shared)), ToRemember(told))
    }

    /// Puts the rules and pins in force that were kept.
    pub async fn restore(&self) -> Result<(), PeersError> {
        self.restore_rules().await?;
        self.restore_pins().await
    }

    /// Who this daemon is.
    pub fn me(&self) -> &PeerId {
        &self.0.with.me
    }

    /// Dials who was connected before, without waiting.
    pub fn dial_known_peers(&self) -> Result<(), PeersError> {
        self.redial(self.known_peers()?);
        Ok(())
    }

    /// Writes the peer book, and sees to what is due, until the daemon ends.
    pub async fn run(&self, mut told: ToRemember) {
        let write = async {
            while let Some(peer) = told.0.recv().await {
                if let Err(error) = self.remember(&peer).await {
                    tracing::debug!(%error, "peer not written to the peer book");
                }
            }
        };
        // Beside it: connections do not wait for a disk that hangs.
        let look = async {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                self.on_moved();
            }
        };
        tokio::join!(write, look);
    }

    /// Takes up what the network tells.
    pub fn on_event(&self, event: &Event) {
        let events = &self.0.with.events;
        match event {
            Event::Connected(peer) => {
                events.happened_to(Some(peer), "peer-connected", &peer.to_string());
                self.tell(Some(peer));
            }
            Event::Disconnected { peer, for_good } => {
                events.happened_to(Some(peer), "peer-disconnected", &peer.to_string());
                self.tell(Some(peer));
                self.look_for_pinned(peer);
                if *for_good {
                    self.give_up(peer);
                } else {
                    self.win_back(peer.clone());
                }
            }
            Event::Identified(peer) => {
                self.tell(Some(peer));
                let _ = self.0.to_remember.try_send(peer.clone());
            }
            Event::Incompatible { who, why } => {
                tracing::info!(who, why, "a peer cannot be connected");
                events.happened_to(None, "peer-incompatible", &format!("{who}: {why}"));
            }
            Event::Listening(address) => tracing::info!(%address, "listening"),
            Event::ListeningNoMore(address) => {
                tracing::info!(%address, "listening no more");
                self.note_lost_address();
            }
            Event::Reached { address, by } => {
                events.happened_to(Some(by), "address-public", &format!("{address}: {by}"));
            }
            Event::NotReached { address, by } => {
                events.happened_to(Some(by), "address-private", &format!("{address}: {by}"));
            }
            Event::RelayReserved(relay) => {
                tracing::info!(%relay, "a relay passes on connections to this daemon");
                events.happened_to(Some(relay), "relay-reserved", &relay.to_string());
            }
            Event::RelayLost { relay, why } => {
                tracing::info!(%relay, why, "a relay passes on connections to this daemon no more");
                events.happened_to(Some(relay), "relay-lost", &format!("{relay}: {why}"));
            }
            Event::Upgraded(peer) => events.happened_to(Some(peer), "peer-direct", &peer.to_string()),
            Event::CircuitCut { from, to, why } => {
                tracing::info!(%from, %to, "{why} cut a connection that was passed on");
                events.happened_to(Some(from), "circuit-cut", &format!("{from} to {to}: {why}"));
            }
            Event::GossipEnded(peer) => {
                self.0.gossip_ended.fetch_add(1, Ordering::Relaxed);
                events.happened_to(Some(peer), "gossip-ended", &peer.to_string());
            }
            Event::Joined { .. } | Event::Left { .. } => {}
        }
    }

    /// What the network told was lost.
    pub fn on_gap(&self) {
        self.tell(None);
    }

    fn tell(&self, peer: Option<&PeerId>) {
        let _ = self.0.changed.send(peer.cloned());
    }

    /// Which peers come, change and go, from now on; `None`: not known which.
    pub fn watch(&self) -> broadcast::Receiver<Option<PeerId>> {
        self.0.changed.subscribe()
    }

    /// The connected peers, ordered by id.
    pub async fn list(&self) -> Result<Vec<PeerInfo>, PeersError> {
        let mut peers = self.0.with.net.peers.list().await?;
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        Ok(peers)
    }

    /// Who is connected, without more about them.
    pub async fn connected(&self) -> Result<Vec<PeerId>, PeersError> {
        Ok(self.0.with.net.peers.connected().await?)
    }

    /// One connected peer.
    pub async fn get(&self, peer: &PeerId) -> Result<PeerInfo, PeersError> {
        let found = self.0.with.net.peers.get(peer).await?;
        found.ok_or_else(|| NetError::NotConnected(peer.to_string()).into())
    }

    /// Closes every connection to a peer.
    pub async fn disconnect(&self, peer: &PeerId) -> Result<(), PeersError> {
        Ok(self.0.with.net.peers.disconnect(peer).await?)
    }

    /// Own multiaddrs, those first that others are told first.
    pub async fn addresses(&self) -> Result<Vec<Multiaddr>, PeersError> {
        let OwnAddresses { announced, listening } = self.0.with.net.addresses().await?;
        Ok(announced.into_iter().chain(listening).collect())
    }

    /// The relays that were asked to pass on connections to this daemon.
    pub async fn relays(&self) -> Result<Vec<Relay>, PeersError> {
        Ok(self.0.with.net.reach.relays().await?)
    }

    /// From where this daemon is reached.
    pub async fn reached(&self) -> Result<Reached, PeersError> {
        Ok(self.0.with.net.reach.reached().await?)
    }

    /// Those on which this machine listens.
    pub async fn listeners(&self) -> Result<Vec<Multiaddr>, PeersError> {
        Ok(self.0.with.net.addresses().await?.listening)
    }

    /// Own multiaddrs once so many listeners stand, or those that do after two seconds.
    pub async fn listening(&self, wanted: usize) -> Result<Vec<Multiaddr>, PeersError> {
        let deadline = Instant::now() + LISTENING;
        loop {
            let addresses = self.listeners().await?;
            if addresses.len() >= wanted || Instant::now() >= deadline {
                return Ok(addresses);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How often gossip with a peer has ended.
    pub fn gossip_ended(&self) -> u64 {
        self.0.gossip_ended.load(Ordering::Relaxed)
    }
}
