//! The way into the swarm task: for each driver a cloneable handle with one method per request, and the queues behind them.

use tokio::sync::mpsc;

use crate::{
    NetError,
    clock::Clock,
    commands::{Commands, commands},
    dht, dial,
    peers::{self, memory_limit::Held},
    pubsub, reach,
    streams::{self, behaviour::Acceptors},
    swarm::{
        listeners::{self, OwnAddresses},
        shaping::Shaper,
    },
};

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
    /// From where this daemon is reached.
    pub reach: reach::Handle,
    /// Streams on protocols of programs, and of parts of this daemon.
    pub streams: streams::Handle,
    /// How fast bytes go.
    pub shaper: Shaper,
    listeners: Commands<listeners::Command>,
}

impl Handle {
    /// The addresses of this peer.
    pub async fn addresses(&self) -> Result<OwnAddresses, NetError> {
        self.listeners.ask(listeners::Command).await
    }
}

/// A command, and whose it is.
pub(crate) enum Command {
    Listeners(listeners::Command),
    Peers(peers::Command),
    Dial(dial::Command),
    PubSub(pubsub::Command),
    Dht(dht::Command),
    Reach(reach::Command),
    Streams(streams::Command),
}

/// What waits for the task: a queue for each driver and for the listeners, so that many commands of one do not hold up those of another.
pub(crate) struct Queues {
    listeners: mpsc::Receiver<listeners::Command>,
    peers: mpsc::Receiver<peers::Command>,
    dial: mpsc::Receiver<dial::Command>,
    pubsub: mpsc::Receiver<pubsub::Command>,
    dht: mpsc::Receiver<dht::Command>,
    reach: mpsc::Receiver<reach::Command>,
    streams: mpsc::Receiver<streams::Command>,
}

impl Queues {
    /// The next command, of any driver that has one; `None` when nobody is left who could ask.
    pub(crate) async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            Some(command) = self.listeners.recv() => Some(Command::Listeners(command)),
            Some(command) = self.peers.recv() => Some(Command::Peers(command)),
            Some(command) = self.dial.recv() => Some(Command::Dial(command)),
            Some(command) = self.pubsub.recv() => Some(Command::PubSub(command)),
            Some(command) = self.dht.recv() => Some(Command::Dht(command)),
            Some(command) = self.reach.recv() => Some(Command::Reach(command)),
            Some(command) = self.streams.recv() => Some(Command::Streams(command)),
            else => None,
        }
    }
}

/// The handles, and the queues that they fill.
pub(crate) fn new(held: Held, acceptors: Acceptors, shaper: Shaper, clock: Clock) -> (Handle, Queues) {
    let (to_listeners, listeners) = commands();
    let (to_peers, peers) = commands();
    let (to_dial, dial) = commands();
    let (to_pubsub, pubsub) = commands();
    let (to_dht, dht) = commands();
    let (to_reach, reach) = commands();
    let (to_streams, streams) = commands();
    let handle = Handle {
        peers: peers::Handle { commands: to_peers, held },
        dial: dial::Handle(to_dial),
        pubsub: pubsub::Handle { commands: to_pubsub, clock },
        dht: dht::Handle(to_dht),
        reach: reach::Handle(to_reach),
        streams: streams::Handle { commands: to_streams, acceptors },
        shaper,
        listeners: to_listeners,
    };
    (handle, Queues { listeners, peers, dial, pubsub, dht, reach, streams })
}
