//! Peers that were lost without being sent away are dialled again.

use std::{collections::HashMap, time::Duration};

use p2pd_core::{id::PeerId, multiaddr::Multiaddr, time::MonoMs};

use super::{Peers, PeersError, book::readable};
use crate::lock;

/// Lost peers that are remembered.
const MAX_LOST: usize = 256;
/// How long after its loss, and after each attempt, a peer is dialled; twice as long with each loss after the first.
const WIN_BACK: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// Longest that this grows.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a loss counts, in milliseconds.
const FORGIVEN_MS: u64 = 1_800_000;

/// Who was lost lately, and how often.
#[derive(Default)]
pub(super) struct Lost(HashMap<PeerId, Loss>);

struct Loss {
    times: u32,
    last: MonoMs,
    /// It is being won back.
    dialled: bool,
}

impl Lost {
    /// How much longer than after a first loss the peer is to be left alone; `None` when it is not to be dialled, or is
    /// already.
    fn note(&mut self, peer: &PeerId, now: MonoMs) -> Option<u32> {
        self.0.retain(|_, loss| loss.dialled || now.since(loss.last) < FORGIVEN_MS);
        if self.0.len() >= MAX_LOST && !self.0.contains_key(peer) {
            return None;
        }
        let loss = self.0.entry(peer.clone()).or_insert(Loss { times: 0, last: now, dialled: false });
        if loss.dialled {
            return None;
        }
        (loss.last, loss.dialled) = (now, true);
        loss.times = loss.times.saturating_add(1);
        Some(1 << (loss.times - 1).min(10))
    }

    fn done(&mut self, peer: &PeerId) {
        if let Some(loss) = self.0.get_mut(peer) {
            loss.dialled = false;
        }
    }

    fn is_dialled(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_some_and(|loss| loss.dialled)
    }
}

impl Peers {
    /// Dials a peer no more that was sent away.
    pub(super) fn give_up(&self, peer: &PeerId) {
        lock(&self.0.lost).done(peer);
    }

    /// Dials a peer that was lost, a few times and more patiently each time that it is lost again: it may have sent us away.
    pub(super) fn win_back(&self, peer: PeerId) {
        let Some(longer) = lock(&self.0.lost).note(&peer, self.0.with.clock.now()) else { return };
        let owner = self.clone();
        self.0.with.tasks.until_stop(async move {
            owner.dial_again(&peer, longer).await;
            lock(&owner.0.lost).done(&peer);
        });
    }

    async fn dial_again(&self, peer: &PeerId, longer: u32) {
        for wait in WIN_BACK {
            let wait = wait.saturating_mul(longer).min(PATIENCE);
            // Not both sides at once.
            let later = if self.0.with.me < *peer { Duration::ZERO } else { wait / 2 };
            tokio::time::sleep(wait + later).await;
            if !lock(&self.0.lost).is_dialled(peer) || self.dial_known(peer).await.is_ok() {
                return;
            }
        }
    }

    /// Dials a peer at the addresses of the peer book, and those that the network knows.
    pub async fn dial_known(&self, peer: &PeerId) -> Result<(), PeersError> {
        let addresses = self.kept_addresses(peer).await?;
        self.0.with.net.dial.connect_peer(peer, addresses).await?;
        Ok(())
    }

    /// The addresses of a peer in the peer book.
    pub async fn kept_addresses(&self, peer: &PeerId) -> Result<Vec<Multiaddr>, PeersError> {
        let key = peer.as_bytes().to_vec();
        let record = self.0.with.disk.run(move |store| store.peer(&key)).await?.unwrap_or_default();
        Ok(readable(&record.addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_again_and_again_is_left_alone_ever_longer() {
        let (mut lost, peer) = (Lost::default(), PeerId::from_ed25519(&[1; 32]));
        assert_eq!(lost.note(&peer, MonoMs(0)), Some(1));
        assert_eq!(lost.note(&peer, MonoMs(1)), None, "dialled already");
        lost.done(&peer);
        assert_eq!(lost.note(&peer, MonoMs(1_000)), Some(2));
        lost.done(&peer);
        assert_eq!(lost.note(&peer, MonoMs(2_000)), Some(4));
        lost.done(&peer);
        assert_eq!(lost.note(&peer, MonoMs(2_000 + FORGIVEN_MS)), Some(1));
        for n in 0..=255 {
            lost.note(&PeerId::from_ed25519(&[n; 32]), MonoMs(2_000 + FORGIVEN_MS));
        }
        assert!(lost.0.len() <= MAX_LOST);
    }
}
