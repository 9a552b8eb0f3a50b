//! Audio streams and their directory: how their messages are judged, the last seconds of each stream that is followed, how groups
//! that gossip did not bring are fetched, and what is published. It knows no API type.

mod clocks;
mod config;
pub mod directory;
pub mod epoch;
mod error;
pub mod group;
mod json_audio;
mod json_format;
mod listen;
mod live;
pub mod native;
mod publish;
pub mod topic;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::{clock, id::PeerId};
use p2pd_net::Clock;

pub use config::StreamSettings;
pub use directory::{DirectoryJudge, Heard, Listed, Publishers, StreamChange};
pub use error::LiveError;
pub use json_audio::{JsonItem, JsonJudge, JsonTopic};
pub use json_format::AudioMessage;
pub use listen::{StreamItem, StreamReader, Waiting};
pub use live::{Live, Setup, Statistics};
pub use publish::{Opening, Progress, Publication, Wire};

/// A message that was refused because it is larger than its topic takes.
#[derive(Clone, Debug)]
pub struct TooLarge {
    /// Who signed it, if anybody.
    pub sender: Option<PeerId>,
    /// How large it is, in bytes.
    pub bytes: usize,
    /// How large it may be.
    pub most: usize,
}

/// What peers say the time is, by the dated messages of all topics.
#[derive(Clone, Default)]
pub struct Clocks(Arc<Mutex<clock::Clocks>>);

impl Clocks {
    /// Judges the clocks of those peers that are connected, and ours.
    pub fn judge(&self, clock: Clock, connected: &[PeerId]) -> clock::Judgement {
        lock(&self.0).judge(clock.now(), clock.wall(), |peer| connected.contains(peer))
    }
}

/// Locks state. A panic elsewhere cannot leave it half-changed in a way that matters, so poison is not passed on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
