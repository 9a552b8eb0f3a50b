//! Words and decisions of p2pd: identifiers, groups of audio frames, the stream directory, what may enter, and how one
//! message reaches many readers.
//!
//! Nothing here opens a socket, touches a disk, reads a clock or spawns a task: time comes in as an argument, effects
//! go out as return values. That is what makes every decision testable without a network.

pub mod access;
pub mod admission;
pub mod announce;
pub mod audio_json;
pub mod clock;
pub mod contract;
pub mod directory;
pub mod group;
pub mod history;
pub mod id;
pub mod keep;
pub mod multiaddr;
pub mod ogg_link;
pub mod peer_book;
pub mod rate;
pub mod repair;
pub mod ring;
pub mod scope;
pub mod setting;
pub mod text;
pub mod time;
pub mod topic;
pub mod value;
