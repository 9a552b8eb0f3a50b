//! Compares clocks each second, logs and records what changes, and answers callers.

use p2pd_core::{clock::Judgement, id::PeerId};

use crate::{Live, LiveError, lock};

/// From this change on a difference is told again, in milliseconds.
const CHANGE_MS: u64 = 60_000;
/// Most peers that are newly logged at once.
const LINES: usize = 4;

impl Live {
    /// Judges the clocks, and tells what is new.
    pub(super) async fn look_at_clocks(&self) {
        let Ok(judged) = self.clocks().await else { return };
        let before = std::mem::replace(&mut *lock(&self.0.clocks.told), judged.clone());
        match (before.ours, judged.ours) {
            (None, None) => {}
            (Some(_), None) => {
                tracing::info!("this machine's clock agrees with those of peers again");
                self.0.with.events.happened("clock-right", "");
            }
            (Some(told), Some(now)) if told.abs_diff(now) < CHANGE_MS => {
                // What was told holds, so that a clock that drifts is told again at last.
                lock(&self.0.clocks.told).ours = Some(told);
            }
            (_, Some(_)) => {
                let by = judged.ours_for_people().unwrap_or_default();
                tracing::warn!("this machine's clock is {by}; messages and streams are refused for that");
                self.0.with.events.happened("clock-wrong", &by);
            }
        }
        let new = judged.theirs_for_people().filter(|(peer, _)| before.of_peer(peer).is_none());
        for (peer, by) in new.take(LINES) {
            tracing::warn!(%peer, "the clock of a peer is {by}; from five minutes on its streams are not taken");
        }
    }

    /// How far a peer's clock is ahead, where it is wrong, in milliseconds.
    pub fn clock_of(&self, peer: &PeerId) -> Option<i64> {
        lock(&self.0.clocks.told).of_peer(peer)
    }

    /// The clocks of this machine and of connected peers, as they are now.
    pub async fn clocks(&self) -> Result<Judgement, LiveError> {
        let connected = self.0.with.net.peers.connected().await?;
        Ok(self.0.clocks.heard.judge(self.0.with.net.pubsub.clock(), &connected))
    }
}
