//! What the daemon can do, in the words of the domain. It joins network, store and pure state; it knows no API type.

mod descriptors;
mod pump;
mod state;
mod storage;
pub(crate) mod unreadable;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::{id::PeerId, multiaddr::Multiaddr, time::UnixMs, topic};
use p2pd_live::Live;
use p2pd_net::{Event, Handle, Identity, queue};
use p2pd_node::{
    clock::{Clock, wall},
    dht::Dht,
    disk::Disk,
    events::Events,
    peers::{Peers, PeersError},
    pubsub::PubSub,
    running,
    streams::Streams,
    tasks::Tasks,
};
use p2pd_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use descriptors::{Descriptors, raise_limit};
pub(crate) use state::State;

use crate::config::Config;

/// The daemon's state behind a cloneable handle.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    config: Config,
    net: Handle,
    disk: Disk,
    tasks: Tasks,
    clock: Clock,
    events: Events,
    peers: Peers,
    dht: Dht,
    pubsub: PubSub,
    live: Live,
    streams: Streams,
    started: UnixMs,
    /// Why the disk, or what is on it, fails, while that is so.
    storage_fault: Mutex<Option<String>>,
    /// How many are in use, while few are left.
    descriptors_short: Mutex<Option<descriptors::Descriptors>>,
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
        let events = Events::restore(disk.clone(), clock)?;
        let (peers, to_remember) = Peers::new(p2pd_node::peers::Setup {
            me: identity.peer_id(),
            net: net.clone(),
            disk: disk.clone(),
            tasks: tasks.clone(),
            clock,
            events: events.clone(),
        });
        let dht = Dht::restore(p2pd_node::dht::Setup {
            me: identity.peer_id(),
            signer,
            net: net.clone(),
            peers: peers.clone(),
            disk: disk.clone(),
            clock,
        })?;
        let network = &config.network.name;
        let (pubsub, to_disk) = PubSub::new(p2pd_node::pubsub::Setup {
            me: identity.peer_id(),
            reserved: vec![topic::directory(network), "/p2pd/".into(), format!("{network}/stream/")],
            net: net.clone(),
            disk: disk.clone(),
            tasks: tasks.clone(),
            clock,
        });
        let live = Live::restore(p2pd_live::Setup {
            me: identity.peer_id(),
            signer,
            network: network.clone(),
            settings: config.streams.clone(),
            net: net.clone(),
            peers: peers.clone(),
            disk: disk.clone(),
            tasks: tasks.clone(),
            clock,
            events: events.clone(),
        })?;
        let streams = Streams::new(p2pd_node::streams::Setup {
            dht_protocol: config.network.dht_protocol.clone(),
            net: net.clone(),
            peers: peers.clone(),
            tasks: tasks.clone(),
        });
        let node = Node(Arc::new(Inner {
            config: config.clone(),
            net,
            disk,
            tasks,
            clock,
            events,
            peers,
            dht,
            pubsub,
            live,
            streams,
            started: wall(),
            storage_fault: Mutex::default(),
            descriptors_short: Mutex::default(),
        }));
        node.0.peers.restore().await?;
        node.0.pubsub.restore().await?;
        let heard = node.0.live.follow_directory().await?;
        node.0.events.happened("started", crate::VERSION);
        let carrying = node.clone();
        let pump = tokio::spawn(async move {
            tokio::select! {
                () = pump::run(carrying.clone(), changes, stop) => {}
                () = carrying.0.live.run(heard) => {}
                () = carrying.0.pubsub.run(to_disk) => {}
                () = carrying.0.events.run() => {}
                () = carrying.0.dht.run() => {}
                () = running::run(&carrying.0.disk, clock) => {}
                () = carrying.0.peers.run(to_remember) => {}
                () = storage::watch(carrying.clone()) => {}
                () = descriptors::watch(carrying.clone()) => {}
            }
        });
        node.0.peers.dial_known_peers()?;
        node.0.streams.keep_tunnels(config.tunnels.clone());
        Ok((node, pump))
    }

    /// What happened.
    pub(crate) fn events(&self) -> &Events {
        &self.0.events
    }

    /// Topics.
    pub(crate) fn pubsub(&self) -> &PubSub {
        &self.0.pubsub
    }

    /// Protocol streams.
    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Audio streams.
    pub(crate) fn live(&self) -> &Live {
        &self.0.live
    }

    /// The distributed hash table.
    pub(crate) fn dht(&self) -> &Dht {
        &self.0.dht
    }

    /// Work beside callers.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Who this daemon is.
    pub(crate) fn me(&self) -> &PeerId {
        self.0.live.me()
    }

    /// Name of the network.
    pub(crate) fn network(&self) -> &str {
        &self.0.config.network.name
    }

    /// When the process began.
    pub(crate) fn started(&self) -> UnixMs {
        self.0.started
    }

    /// Peers.
    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// Own multiaddrs once every listener stands, or those that do after two seconds.
    pub(crate) async fn listening(&self) -> Result<Vec<Multiaddr>, PeersError> {
        self.0.peers.listening(self.0.config.network.listen.len()).await
    }

    /// Ends every publication, lets peers hear of it, and writes what is kept.
    pub(crate) async fn finish(&self) {
        self.0.tasks.say_farewell().await;
        tokio::join!(self.0.peers.hear_everyone(), self.0.pubsub.flush_logs());
        self.0.tasks.finish_changes().await;
        let written: [anyhow::Result<()>; 4] = [
            self.0.events.write().await.map_err(Into::into),
            self.0.dht.write().await.map_err(Into::into),
            self.0.live.write().await.map_err(Into::into),
            running::write(&self.0.disk, self.0.clock).await.map_err(Into::into),
        ];
        for error in written.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "the last state was not written");
        }
    }
}
