//! The swarm of p2pd behind a handle. This crate alone names libp2p; it knows neither the API nor the store.
//!
//! `start` spawns the task that owns the swarm. Commands reach it through `Handle`, what comes from the network leaves
//! through two bounded queues: `Incoming` (messages, drop oldest) and `Event` (state, re-read after a lag).

mod behaviour;
mod command;
pub mod config;
mod dht;
mod dial;
mod early;
pub mod error;
pub mod event;
mod fetch;
mod flood;
mod gate;
mod gossip;
mod greeting;
mod guard;
mod handle;
pub mod identity;
mod kept;
mod look_around;
mod lookup;
mod memory;
mod meter;
mod names;
mod pace;
mod peers;
mod prompt;
mod protocols;
pub mod queue;
mod renew;
mod settings;
mod sniff;
mod stream;
mod substreams;
mod swarm;
mod task;
mod transport;
mod unshared;
mod validators;
mod worth;

pub use command::{Sent, TopicPeers};
pub use config::{Config, DhtMode, WaterMarks};
pub use dial::{BootstrapFault, check_listen, check_peer, peer_address};
pub use error::NetError;
pub use event::{Event, Incoming, TooLarge};
pub use gossip::TopicRule;
pub use handle::{Handle, Sending};
pub use identity::Identity;
pub use lookup::Found;
pub use memory::Held;
pub use meter::Traffic;
pub use peers::{Closed, Connection, PeerInfo};
pub use protocols::{ByteStream, Duplex, Inbound, PeerStream, is_own, refused};
pub use task::{Running, start};
pub use unshared::UNSHARED;
pub use validators::{Ruling, ToJudge, ValidatorEvent};
