//! What the daemon can do, in the words of the domain. It joins network, store and pure state; it knows no API type.

mod access;
mod clock;
mod descriptors;
mod dht;
mod directory;
mod error;
mod moved;
mod numbers;
mod peer_book;
mod persist;
mod ping;
mod pins;
mod protocols;
mod publication;
mod pump;
mod regain;
mod running;
mod state;
mod storage;
mod streams;
mod tunnels;
pub(crate) mod unreadable;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use p2pd_core::{
    id::{PeerId, StreamId},
    multiaddr::Multiaddr,
    time::{MonoMs, UnixMs},
    topic,
};
use p2pd_live::{Clocks, Publishers, native};
use p2pd_net::{Event, Handle, Identity, NetError, PeerInfo, queue};
use p2pd_node::{
    clock::{Clock, wall},
    disk::Disk,
    events::Events,
    pubsub::PubSub,
    tasks::Tasks,
};
use p2pd_store::Store;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) use descriptors::{Descriptors, raise_limit};
pub(crate) use directory::{Listed, StreamChange};
pub(crate) use error::NodeError;
pub(crate) use protocols::{Answered, Arrived, Claim, Lease, MAX_CALL, Served, Serving, check_protocol};
pub(crate) use publication::{Opening, Publication, Wire};
pub(crate) use state::State;
pub(crate) use streams::StreamItem;

use crate::config::Config;

/// Changes that a watcher may be behind before it is cut off.
const WATCH: usize = 256;

/// The daemon's state behind a cloneable handle.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    config: Config,
    me: PeerId,
    signer: [u8; 32],
    net: Handle,
    disk: Disk,
    tasks: Tasks,
    clock: Clock,
    events: Events,
    pubsub: PubSub,
    started: UnixMs,
    directory: Mutex<directory::State>,
    streams: Mutex<streams::Streams>,
    publications: Mutex<HashMap<StreamId, Arc<publication::Shared>>>,
    numbers: Mutex<numbers::State>,
    /// Peers on their way into the peer book.
    to_remember: mpsc::Sender<PeerId>,
    /// Held while a reader joins and while topics without readers are left, so that none is left that was just joined; not
    /// while waiting for the disk.
    following: tokio::sync::Mutex<()>,
    rules: Mutex<p2pd_core::access::Rules>,
    pins: Mutex<p2pd_core::keep::Pins>,
    /// Held while the rules or pins change.
    ruling: tokio::sync::Mutex<()>,
    protocols: Arc<protocols::State>,
    lost: Mutex<regain::Lost>,
    moved: Mutex<moved::Moved>,
    /// Tunnels of the configuration that do not stand, and why.
    fallen: Mutex<BTreeMap<String, String>>,
    /// The streams whose groups peers may ask for.
    groups: native::Server,
    /// Who publishes what is followed here, for the directory's judge.
    followed_publishers: Publishers,
    /// What peers say the time is.
    heard_clocks: Clocks,
    /// As they were told last.
    clocks: Mutex<p2pd_core::clock::Judgement>,
    /// Topics of which the log says that messages were too large.
    said_too_large: Mutex<HashSet<String>>,
    /// Why the disk, or what is on it, fails, while that is so.
    storage_fault: Mutex<Option<String>>,
    /// How many are in use, while few are left.
    descriptors_short: Mutex<Option<descriptors::Descriptors>>,
    /// `None`: which ones is not known.
    peers_changed: broadcast::Sender<Option<PeerId>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    groups_in: AtomicU64,
    groups_out: AtomicU64,
    dropped: AtomicU64,
    too_large: AtomicU64,
    gossip_ended: AtomicU64,
}

/// Locks state. A panic elsewhere cannot leave it half-changed in a way that matters, so poison is not passed on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// Restores what was kept, follows the directory, and spawns the task that carries messages in.
    pub(crate) async fn start(
        config: &Config,
        identity: &Identity,
        store: Store,
        net: Handle,
        changes: queue::Reader<Event>,
        stop: CancellationToken,
    ) -> anyhow::Result<(Self, JoinHandle<()>)> {
        let Some(signer) = identity.secret() else { anyhow::bail!("the identity is not Ed25519") };
        let clock = Clock::start(running::restore(&store)?);
        let (disk, tasks) = (Disk::new(store), Tasks::default());
        let store = disk.store().clone();
        let events = Events::restore(disk.clone(), clock)?;
        let network = &config.network.name;
        let (pubsub, to_disk) = PubSub::new(p2pd_node::pubsub::Setup {
            me: identity.peer_id(),
            reserved: vec![topic::directory(network), "/p2pd/".into(), format!("{network}/stream/")],
            net: net.clone(),
            disk: disk.clone(),
            tasks: tasks.clone(),
            clock,
        });
        let (to_remember, told) = mpsc::channel(persist::WAITING);
        let node = Node(Arc::new(Inner {
            config: config.clone(),
            me: identity.peer_id(),
            signer,
            net,
            disk,
            tasks,
            clock,
            events,
            pubsub,
            started: wall(),
            directory: Mutex::new(directory::State::restore(&store, MonoMs(0))?),
            streams: Mutex::default(),
            publications: Mutex::default(),
            numbers: Mutex::new(numbers::State::restore(&store)?),
            to_remember,
            following: tokio::sync::Mutex::default(),
            rules: Mutex::default(),
            pins: Mutex::default(),
            ruling: tokio::sync::Mutex::default(),
            protocols: Arc::default(),
            lost: Mutex::default(),
            moved: Mutex::default(),
            fallen: Mutex::default(),
            groups: native::Server::default(),
            followed_publishers: Publishers::default(),
            heard_clocks: Clocks::default(),
            clocks: Mutex::default(),
            said_too_large: Mutex::default(),
            storage_fault: Mutex::default(),
            descriptors_short: Mutex::default(),
            peers_changed: broadcast::Sender::new(WATCH),
            counters: Counters::default(),
        }));
        node.restore_rules().await?;
        node.restore_pins().await?;
        node.0.pubsub.restore().await?;
        let heard = node.follow_directory().await?;
        node.0.events.happened("started", crate::VERSION);
        let known = node.known_peers()?;
        let carrying = node.clone();
        let pump = tokio::spawn(async move {
            tokio::select! {
                () = pump::run(carrying.clone(), changes, stop) => {}
                () = carrying.hear_directory(heard) => {}
                _ = carrying.0.groups.clone().run(carrying.0.net.clone()) => {}
                () = carrying.0.pubsub.run(to_disk) => {}
                () = carrying.0.events.run() => {}
                () = persist::run(carrying.clone(), told) => {}
                () = storage::watch(carrying.clone()) => {}
                () = descriptors::watch(carrying.clone()) => {}
            }
        });
        node.redial(known);
        node.dig();
        Ok((node, pump))
    }

    fn now(&self) -> MonoMs {
        self.0.clock.now()
    }

    /// What happened.
    pub(crate) fn events(&self) -> &Events {
        &self.0.events
    }

    /// Topics.
    pub(crate) fn pubsub(&self) -> &PubSub {
        &self.0.pubsub
    }

    /// Work beside callers.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Who this daemon is.
    pub(crate) fn me(&self) -> &PeerId {
        &self.0.me
    }

    /// Name of the network.
    pub(crate) fn network(&self) -> &str {
        &self.0.config.network.name
    }

    /// When the process began.
    pub(crate) fn started(&self) -> UnixMs {
        self.0.started
    }

    /// Own addresses.
    pub(crate) async fn addresses(&self) -> Result<Vec<Multiaddr>, NodeError> {
        Ok(self.0.net.addresses().await?)
    }

    /// Own addresses once every listener stands, or those that do after two seconds.
    pub(crate) async fn listening(&self) -> Result<Vec<Multiaddr>, NodeError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let addresses = self.addresses().await?;
            if addresses.len() >= self.0.config.network.listen.len() || Instant::now() >= deadline {
                return Ok(addresses);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The connected peers, ordered by id.
    pub(crate) async fn peers(&self) -> Result<Vec<PeerInfo>, NodeError> {
        let mut peers = self.0.net.peers.list().await?;
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        Ok(peers)
    }

    /// One connected peer.
    pub(crate) async fn peer(&self, peer: &PeerId) -> Result<PeerInfo, NodeError> {
        let found = self.peers().await?.into_iter().find(|p| p.peer == *peer);
        found.ok_or_else(|| NetError::NotConnected(peer.to_string()).into())
    }

    /// Which peers come, change and go, from now on.
    pub(crate) fn watch_peers(&self) -> broadcast::Receiver<Option<PeerId>> {
        self.0.peers_changed.subscribe()
    }

    /// Makes a change whole, also when whoever asked for it goes away in the middle of it.
    pub(crate) async fn whole<T, F>(&self, change: impl FnOnce(Node) -> F) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        self.0.tasks.whole(change(self.clone())).await?
    }

    /// Closes every connection to a peer.
    pub(crate) async fn disconnect(&self, peer: &PeerId) -> Result<(), NodeError> {
        Ok(self.0.net.peers.disconnect(peer).await?)
    }

    /// Ends every publication, lets peers hear of it, and writes what is kept.
    pub(crate) async fn finish(&self) {
        self.0.tasks.say_farewell().await;
        tokio::join!(self.hear_everyone(), self.0.pubsub.flush_logs());
        self.0.tasks.finish_changes().await;
        if let Err(error) = self.0.events.write().await {
            tracing::error!(%error, "the last events were not written");
        }
        if let Err(error) = self.persist(true).await {
            tracing::error!(%error, "the last state was not written");
        }
    }
}
