//! The owners: built in order over network and store, run side by side, and written down at the end.

use p2pd_core::ring::Next;
use p2pd_live::{Live, topic};
use p2pd_net::{Event, Identity, Prepared, Shaper, queue};
use p2pd_node::{
    clock::Clock, dht::Dht, disk::Disk, events::Events, peers::Peers, pubsub::PubSub, running, streams::Streams,
    tasks::Tasks,
};
use p2pd_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    VERSION,
    config::Config,
    observe::{self, Health},
};

/// Every owner.
#[derive(Clone)]
pub(crate) struct Owners {
    clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) tasks: Tasks,
    pub(crate) events: Events,
    pub(crate) peers: Peers,
    pub(crate) dht: Dht,
    pub(crate) pubsub: PubSub,
    pub(crate) live: Live,
    pub(crate) streams: Streams,
    pub(crate) health: Health,
    pub(crate) shaper: Shaper,
}

/// Owners that run, and the task of the network below them.
pub(crate) struct Running {
    pub(crate) owners: Owners,
    pub(crate) network: JoinHandle<()>,
    pub(crate) task: JoinHandle<()>,
}

/// Restores what was kept, follows the directory, and spawns the task in which the owners run.
pub(crate) async fn start(
    config: &Config,
    identity: &Identity,
    store: Store,
    prepared: Prepared,
    stop: CancellationToken,
) -> anyhow::Result<Running> {
    let Some(signer) = identity.secret() else { anyhow::bail!("the identity is not Ed25519") };
    let (me, net) = (identity.peer_id(), prepared.handle.clone());
    let clock = Clock::start(running::restore(&store)?);
    let (disk, tasks) = (Disk::new(store), Tasks::default());
    let events = Events::restore(disk.clone(), clock)?;
    let (peers, to_remember) = Peers::new(p2pd_node::peers::Setup {
        me: me.clone(),
        net: net.clone(),
        disk: disk.clone(),
        tasks: tasks.clone(),
        clock,
        events: events.clone(),
    });
    let dht = Dht::restore(p2pd_node::dht::Setup {
        me: me.clone(),
        signer,
        net: net.clone(),
        peers: peers.clone(),
        disk: disk.clone(),
        clock,
    })?;
    let network = &config.network.name;
    let (pubsub, to_disk) = PubSub::new(p2pd_node::pubsub::Setup {
        me: me.clone(),
        max_logs: usize::try_from(config.topics.max_logs).unwrap_or(usize::MAX),
        reserved: vec![topic::directory(network), "/p2pd/".into(), format!("{network}/stream/")],
        net: net.clone(),
        disk: disk.clone(),
        tasks: tasks.clone(),
        clock,
    });
    let live = Live::restore(p2pd_live::Setup {
        me,
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
    let streams =
        Streams::new(p2pd_node::streams::Setup { net: net.clone(), peers: peers.clone(), tasks: tasks.clone() });
    let shaper = net.shaper.clone();
    let health = Health::new(observe::Setup {
        network: config.network.clone(),
        net,
        disk: disk.clone(),
        events: events.clone(),
        peers: peers.clone(),
        pubsub: pubsub.clone(),
        live: live.clone(),
        streams: streams.clone(),
    });
    let owners = Owners { clock, disk, tasks, events, peers, dht, pubsub, live, streams, health, shaper };
    let requests = owners.live.reserve_protocol().await?;
    let counts = owners.pubsub.reserve_protocol().await?;
    let p2pd_net::Running { events: changes, task: network, .. } = prepared.run(stop.clone());
    owners.peers.restore().await?;
    owners.pubsub.restore().await?;
    let heard = owners.live.follow_directory().await?;
    owners.events.happened("started", VERSION);
    let running = owners.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            () = running.carry(changes, stop) => {}
            () = running.live.run(heard, requests) => {}
            () = running.pubsub.run(to_disk, counts) => {}
            () = running.events.run() => {}
            () = running.dht.run() => {}
            () = running::run(&running.disk, clock) => {}
            () = running.peers.run(to_remember) => {}
            () = running.health.run() => {}
        }
    });
    owners.peers.dial_known_peers()?;
    owners.streams.keep_tunnels(config.tunnels.clone());
    Ok(Running { owners, network, task })
}

impl Owners {
    /// Carries what the network tells to those whom it concerns, until `stop` or until the network is gone.
    async fn carry(&self, mut changes: queue::Reader<Event>, stop: CancellationToken) {
        let carry = async {
            while let Some(next) = changes.next().await {
                match next {
                    Next::Item(event) => {
                        self.peers.on_event(&event);
                        self.live.on_event(&event).await;
                        self.pubsub.on_event(&event);
                    }
                    // Which peers came or went, and what they follow, is lost.
                    Next::Gap { .. } => {
                        self.peers.on_gap();
                        self.pubsub.on_gap();
                    }
                }
            }
        };
        stop.run_until_cancelled(carry).await;
    }

    /// Ends every publication, lets peers hear of it, and writes what is kept.
    pub(crate) async fn finish(&self) {
        self.tasks.say_farewell().await;
        tokio::join!(self.peers.hear_everyone(), self.pubsub.flush_logs());
        self.tasks.finish_changes().await;
        let written: [anyhow::Result<()>; 4] = [
            self.events.write().await.map_err(Into::into),
            self.dht.write().await.map_err(Into::into),
            self.live.write().await.map_err(Into::into),
            running::write(&self.disk, self.clock).await.map_err(Into::into),
        ];
        for error in written.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "the last state was not written");
        }
    }
}
