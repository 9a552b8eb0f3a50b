//! The swarm of p2pd behind a handle. This crate alone names libp2p; it knows neither the API nor the store.
//!
//! `start` spawns the task that owns the swarm. Commands reach its drivers through `Handle`. What comes from the network leaves through
//! bounded queues: `Event` (state, read anew after a gap), and one for whoever follows a topic or takes the streams of a protocol.

pub mod clock;
mod commands;
pub mod config;
mod context;
mod dht;
mod dial;
pub mod error;
pub mod event;
mod handle;
pub mod identity;
mod ids;
mod peers;
mod pubsub;
pub mod queue;
mod reach;
mod standing;
pub mod streams;
mod swarm;
mod task;

pub use clock::Clock;
pub use config::{Bandwidth, Config, DhtMode, Network, Profile, RelayLimits, Switch};
pub use dht::Found;
pub use dial::{BootstrapFault, check_listen, check_peer, peer_address};
pub use error::NetError;
pub use event::Event;
pub use handle::Handle;
pub use identity::Identity;
pub use peers::{
    incompatible::UNSHARED,
    memory_limit::Held,
    table::{Closed, Connection, PeerInfo},
};
pub use pubsub::{
    Class, Decision, Handle as PubSub, Judge, Message, Sending, Sent, Subscription, Ticket, Time, TopicPeers, Verdict,
};
pub use reach::{Reached, Relay, RelayState};
pub use streams::{ByteStream, Duplex, Inbound, PeerStream, Reservation, StreamClass, is_own, refused};
pub use swarm::{
    bandwidth::{Streams, Traffic},
    listeners::OwnAddresses,
    shaping::Shaper,
};
pub use task::{Prepared, Running, prepare};
