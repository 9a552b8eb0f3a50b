//! The owner of streams: its state, and its loop.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use p2pd_core::{
    clock::Judgement,
    id::{PeerId, StreamId},
    time::MonoMs,
};
use p2pd_net::{Event, Handle, Inbound, queue};
use p2pd_node::{clock::Clock, disk::Disk, events::Events, oversized::Oversized, peers::Peers, tasks::Tasks};
use p2pd_store::StoreError;
use tokio::time::MissedTickBehavior;

use crate::{
    Clocks, LiveError, StreamSettings,
    directory::{self, Heard, ToDisk, message::Filter},
    epoch,
    listen::Streams,
    lock, native, publish,
};

/// How often it is seen to what is due, and what changed is written.
const TICK: Duration = Duration::from_secs(1);

/// What the owner of streams is given.
#[derive(Clone)]
pub struct Setup {
    /// Who this daemon is.
    pub me: PeerId,
    /// The secret key of its identity.
    pub signer: [u8; 32],
    /// Name of the network.
    pub network: String,
    /// Bounds, and how streams are followed.
    pub settings: StreamSettings,
    /// The network.
    pub net: Handle,
    /// Peers.
    pub peers: Peers,
    /// The store.
    pub disk: Disk,
    /// Work beside callers.
    pub tasks: Tasks,
    /// Time.
    pub clock: Clock,
    /// What happens.
    pub events: Events,
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups_in: AtomicU64,
    pub(crate) groups_out: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) too_large: Oversized,
}

/// The clocks of this machine and of peers.
#[derive(Default)]
pub(crate) struct ClockCheck {
    pub(crate) heard: Clocks,
    /// As it was told last.
    pub(crate) told: Mutex<Judgement>,
}

pub(crate) struct Shared {
    pub(crate) with: Setup,
    pub(crate) directory: Mutex<directory::State>,
    pub(crate) streams: Mutex<Streams>,
    pub(crate) publications: Mutex<HashMap<StreamId, Arc<publish::Shared>>>,
    pub(crate) epoch: Mutex<epoch::State>,
    /// Held while a stream begins or ends to be followed; not while waiting for the disk.
    pub(crate) following: tokio::sync::Mutex<()>,
    /// The streams whose groups peers may ask for.
    pub(crate) groups: native::Server,
    pub(crate) clocks: ClockCheck,
    pub(crate) counters: Counters,
}

/// The owner of streams, behind a cloneable handle.
#[derive(Clone)]
pub struct Live(pub(crate) Arc<Shared>);

/// Numbers of streams.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// In the directory.
    pub streams: usize,
    /// Published here.
    pub publications: usize,
    /// Programs of this daemon that listen.
    pub listeners: usize,
    /// Groups that came.
    pub groups_in: u64,
    /// Groups that were published here.
    pub groups_out: u64,
    /// Messages that this daemon was too slow for.
    pub dropped: u64,
    /// Messages that were refused for their size.
    pub too_large: u64,
}

impl Live {
    /// Takes up the directory that was kept.
    pub fn restore(with: Setup) -> Result<Self, StoreError> {
        let shared = Shared {
            directory: Mutex::new(directory::State::restore(with.disk.store(), MonoMs(0))?),
            streams: Mutex::default(),
            publications: Mutex::default(),
            epoch: Mutex::new(epoch::State::restore(with.disk.store())?),
            following: tokio::sync::Mutex::default(),
            groups: native::Server::default(),
            clocks: ClockCheck::default(),
            counters: Counters::default(),
            with,
        };
        Ok(Live(Arc::new(shared)))
    }

    /// Reserves the protocol of requests for groups. Called before the network runs, so that no peer is told of protocols without it.
    pub async fn reserve_protocol(&self) -> Result<Inbound, LiveError> {
        Ok(self.0.with.net.streams.reserve(native::RESERVATION).await?)
    }

    /// Applies what the directory brings, answers peers that ask for groups, sees to what is due and writes what changed, until the daemon
    /// ends. `heard` is what `follow_directory` returned.
    pub async fn run(&self, heard: queue::Reader<Heard>, requests: Inbound) {
        tokio::select! {
            () = self.hear_directory(heard) => {}
            () = self.0.groups.clone().run(requests) => {}
            () = self.keep_time() => {}
            () = self.keep_on_disk() => {}
        }
    }

    async fn keep_time(&self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            self.on_second().await;
        }
    }

    async fn keep_on_disk(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.write().await {
                tracing::debug!(%error, "streams not written; trying again");
            }
        }
    }

    /// Writes what changed. Nothing live waits for the disk.
    pub async fn write(&self) -> Result<(), LiveError> {
        let (unwritten, directory) = self.directory_changes();
        let epoch = self.unwritten_epoch();
        let written = self.0.with.disk.run(move |store| {
            if let Some(epoch) = epoch {
                store.set_setting(epoch::EPOCH, &epoch.to_string())?;
            }
            match directory {
                ToDisk::Changes(changes) => store.change_directory(&changes),
                ToDisk::All(entries) => store.replace_directory(&entries),
            }
        });
        match written.await {
            Ok(()) => self.epoch_is_written(epoch),
            // Both are tried again.
            Err(error) => {
                self.directory_not_written(unwritten);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Takes up what the network tells.
    pub async fn on_event(&self, event: &Event) {
        match event {
            // A newcomer asks at once instead of waiting for the next heartbeat, and is told likewise.
            Event::Joined { peer, topic } if *topic == self.directory_topic() => {
                self.announce_to(peer.clone()).await;
                self.ask(Filter::default()).await;
            }
            Event::Joined { peer, topic } => {
                self.on_joined(peer, topic);
                self.count_old_listeners(Some(topic)).await;
            }
            Event::Left { topic, .. } => self.count_old_listeners(Some(topic)).await,
            _ => {}
        }
    }

    async fn on_second(&self) {
        self.count_old_listeners(None).await;
        self.heartbeats().await;
        self.look_at_clocks().await;
        self.tell_addresses().await;
        self.ask_pending().await;
        self.announce_pending().await;
        self.answer_pending().await;
        self.favour_publishers().await;
        self.sweep_directory();
        self.reach_publishers();
        self.leave_unread().await;
    }

    /// Follows no more what nobody here reads.
    async fn leave_unread(&self) {
        let _following = self.0.following.lock().await;
        for topic in self.sweep_streams() {
            let _ = self.0.with.net.pubsub.unsubscribe(&topic).await;
        }
    }

    /// Who this daemon is.
    pub fn me(&self) -> &PeerId {
        &self.0.with.me
    }

    /// How streams fare.
    pub fn statistics(&self) -> Statistics {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            streams: self.streams_listed(),
            publications: lock(&self.0.publications).len(),
            listeners: self.local_readers(),
            groups_in: load(&self.0.counters.groups_in),
            groups_out: load(&self.0.counters.groups_out),
            dropped: load(&self.0.counters.dropped),
            too_large: self.0.counters.too_large.count(),
        }
    }

    /// Counts what was lost before it came here.
    pub(crate) fn note_dropped(&self, from: u64, to: u64) {
        self.0.counters.dropped.fetch_add(to.saturating_sub(from).saturating_add(1), Ordering::Relaxed);
    }
}
