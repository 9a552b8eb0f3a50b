//! Words and decisions of p2pd: identifiers, addresses, who may connect, what peers say the time is, settings, and
//! how one message reaches many readers.
//!
//! Nothing here opens a socket, touches a disk, reads a clock or spawns a task: time comes in as an argument, effects
//! go out as return values. That is what makes every decision testable without a network.

pub mod address_scope;
pub mod bucket;
pub mod clock;
pub mod connection_rules;
pub mod dht_value;
pub mod id;
pub mod multiaddr;
pub mod pace;
pub mod peer_book;
pub mod pins;
pub mod reachability;
pub mod relays;
pub mod ring;
pub mod setting;
pub mod tally;
pub mod text;
pub mod time;
pub mod topic_settings;
pub mod verdict;
