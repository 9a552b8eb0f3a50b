//! The way into the swarm task: for each driver a cloneable handle with one method per request. Every command that has a reply is
//! answered exactly once; a caller who has gone away is normal.

use std::marker::PhantomData;

use p2pd_core::multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::{
    NetError,
    clock::Clock,
    dht, dial,
    peers::{self, memory_limit::Held},
    pubsub,
    streams::{self, reserved::Reserved},
};

/// What waits for the task.
pub(crate) enum Command {
    /// Where this daemon listens.
    Listeners(oneshot::Sender<Vec<Multiaddr>>),
    Peers(peers::Command),
    Dial(dial::Command),
    PubSub(pubsub::Command),
    Dht(dht::Command),
    Streams(streams::Command),
}

macro_rules! commands_of {
    ($($driver:ident: $command:ty),+) => {
        $(impl From<$command> for Command {
            fn from(command: $command) -> Self {
                Command::$driver(command)
            }
        })+
    };
}

commands_of!(Peers: peers::Command, Dial: dial::Command, PubSub: pubsub::Command, Dht: dht::Command, Streams: streams::Command);

/// Asks one driver of the swarm task. Waits while 64 commands of all drivers are queued; put a deadline around it.
pub(crate) struct Commands<C> {
    queue: mpsc::Sender<Command>,
    of: PhantomData<fn(C)>,
}

impl<C> Clone for Commands<C> {
    fn clone(&self) -> Self {
        Commands { queue: self.queue.clone(), of: PhantomData }
    }
}

impl<C: Into<Command>> Commands<C> {
    fn new(queue: &mpsc::Sender<Command>) -> Self {
        Commands { queue: queue.clone(), of: PhantomData }
    }

    /// Says what has no answer.
    pub(crate) async fn say(&self, command: C) -> Result<(), NetError> {
        self.queue.send(command.into()).await.map_err(|_| NetError::Stopped)
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> C) -> Result<T, NetError> {
        self.ask_or(command, || NetError::Stopped).await
    }

    /// Asks what may remain without an answer although the network runs.
    pub(crate) async fn ask_or<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
        unanswered: impl FnOnce() -> NetError,
    ) -> Result<T, NetError> {
        self.ask_ahead(command).await?.await.map_err(|_| unanswered())
    }

    /// Asks, and leaves the answer for later. Questions are taken up in the order in which this was awaited.
    pub(crate) async fn ask_ahead<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<oneshot::Receiver<T>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.say(command(reply)).await?;
        Ok(answer)
    }

    /// One that does not keep the task alive.
    pub(crate) fn downgrade(&self) -> WeakCommands<C> {
        WeakCommands { queue: self.queue.downgrade(), of: PhantomData }
    }
}

/// Commands of what may outlive the network.
pub(crate) struct WeakCommands<C> {
    queue: mpsc::WeakSender<Command>,
    of: PhantomData<fn(C)>,
}

impl<C: Into<Command>> WeakCommands<C> {
    /// Says what has no answer, if there is room for it at once.
    pub(crate) fn try_say(&self, command: C) {
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.try_send(command.into());
        }
    }
}

/// The handles of all drivers.
#[derive(Clone)]
pub struct Handle {
    /// Who is connected, and who may be.
    pub peers: peers::Handle,
    /// Dialling.
    pub dial: dial::Handle,
    /// Topics.
    pub pubsub: pubsub::Handle,
    /// The distributed hash table.
    pub dht: dht::Handle,
    /// Streams on protocols of programs.
    pub streams: streams::Handle,
    queue: mpsc::Sender<Command>,
}

impl Handle {
    pub(crate) fn new(queue: &mpsc::Sender<Command>, held: Held, reserved: Reserved, clock: Clock) -> Self {
        Handle {
            peers: peers::Handle { commands: Commands::new(queue), held },
            dial: dial::Handle(Commands::new(queue)),
            pubsub: pubsub::Handle { commands: Commands::new(queue), clock },
            dht: dht::Handle(Commands::new(queue)),
            streams: streams::Handle { commands: Commands::new(queue), reserved },
            queue: queue.clone(),
        }
    }

    /// Where this peer listens, each with `/p2p/<own id>` at its end.
    pub async fn addresses(&self) -> Result<Vec<Multiaddr>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Listeners(reply)).await.map_err(|_| NetError::Stopped)?;
        answer.await.map_err(|_| NetError::Stopped)
    }
}
