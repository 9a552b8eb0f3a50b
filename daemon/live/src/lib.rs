//! Audio streams and their directory: how their messages are judged, the last seconds of each stream that is followed, and how groups
//! that gossip did not bring are fetched. It knows the network through its handles, and neither the API nor the store.

mod directory;
mod json_audio;
pub mod native;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pd_core::{clock, id::PeerId};
use p2pd_net::Clock;

pub use directory::{DirectoryJudge, Heard, Publishers};
pub use json_audio::{JsonItem, JsonJudge, JsonTopic};

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
