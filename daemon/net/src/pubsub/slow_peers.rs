//! Peers that take messages too slowly: what they missed, and which of them have been slow for so long that they are hung up on.

use std::{collections::HashMap, time::Duration};

use libp2p::PeerId;
use p2pd_core::time::MonoMs;

/// How long a peer may read slowly.
pub(crate) const SLOW: Duration = Duration::from_secs(60);
/// Whoever is sent so many bytes between two looks at full queues, a second or more apart, does not read slowly.
const READS: u64 = 64 << 10;

/// After so long without a full queue a peer counts as slow from anew, in milliseconds.
const FORGIVEN_MS: u64 = 10_000;

#[derive(Default)]
struct Peer {
    slow: Option<Slow>,
    /// Messages that it missed, being slow.
    lost: u64,
    /// Messages for which it had no room, and nobody else: they were sent again, or refused.
    refused: u64,
}

/// A peer whose queues were too full.
struct Slow {
    since: MonoMs,
    last: MonoMs,
    /// What it had been sent then, in bytes.
    sent: u64,
}

/// Bounded by the connection limits: who goes is forgotten.
#[derive(Default)]
pub(crate) struct SlowPeers(HashMap<PeerId, Peer>);

impl SlowPeers {
    pub(crate) fn gone(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Messages that a peer missed.
    pub(crate) fn lost(&self, peer: &PeerId) -> u64 {
        self.0.get(peer).map_or(0, |entry| entry.lost)
    }

    /// Notes that a peer, which was sent so many bytes in all, has missed so many messages, since its queues are full. True when they
    /// were for a minute, and it has read slowly: otherwise programs here are fast.
    pub(crate) fn slow(&mut self, peer: &PeerId, lost: usize, sent: u64, now: MonoMs) -> bool {
        let entry = self.0.entry(*peer).or_default();
        let refused = std::mem::take(&mut entry.refused);
        entry.lost = entry.lost.saturating_add(u64::try_from(lost).unwrap_or(u64::MAX).saturating_sub(refused));
        let goes_on = |slow: &&Slow| now.since(slow.last) < FORGIVEN_MS && sent.saturating_sub(slow.sent) < READS;
        let since = entry.slow.as_ref().filter(goes_on).map_or(now, |slow| slow.since);
        entry.slow = Some(Slow { since, last: now, sent });
        Duration::from_millis(now.since(since)) >= SLOW
    }

    /// Notes a message that was not sent to these peers, who had no room for it, while others had.
    pub(crate) fn missed(&mut self, by: &[PeerId]) {
        for id in by {
            let lost = &mut self.0.entry(*id).or_default().lost;
            *lost = lost.saturating_add(1);
        }
    }

    /// Notes a message that none of these peers had room for.
    pub(crate) fn refused(&mut self, by: &[PeerId]) {
        for id in by {
            let refused = &mut self.0.entry(*id).or_default().refused;
            *refused = refused.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_reads_little_for_a_minute_is_slow_and_one_that_reads_is_not() {
        let (mut peers, slow, busy) = (SlowPeers::default(), PeerId::random(), PeerId::random());
        let looks = (0..=60).map(|second: u64| {
            let now = MonoMs(second * 1_000);
            assert!(!peers.slow(&busy, 1, second * READS, now), "it reads");
            peers.slow(&slow, 1, second, now)
        });
        let found: Vec<bool> = looks.collect();
        assert_eq!(found.iter().position(|slow| *slow), Some(60));
        assert!(!peers.slow(&slow, 1, 60, MonoMs(60_000 + FORGIVEN_MS)), "its queues were not full in between");
    }

    #[test]
    fn what_nobody_had_room_for_is_not_missed() {
        let (mut peers, peer) = (SlowPeers::default(), PeerId::random());
        peers.refused(&[peer]);
        peers.slow(&peer, 3, 0, MonoMs(0));
        peers.missed(&[peer]);
        assert_eq!(peers.lost(&peer), 3);
        peers.gone(&peer);
        assert_eq!(peers.lost(&peer), 0);
    }

    #[test]
    fn full_queues_less_than_ten_seconds_apart_are_of_one_slowness() {
        let slow_at = |gap: u64| {
            let (mut peers, peer) = (SlowPeers::default(), PeerId::random());
            (0..20).map(|n| n * gap).find(|ms| peers.slow(&peer, 0, 0, MonoMs(*ms)))
        };
        assert_eq!([slow_at(9_999), slow_at(10_000)], [Some(7 * 9_999), None]);
        assert_eq!([slow_at(7_500), slow_at(7_499)], [Some(60_000), Some(9 * 7_499)], "a minute is enough");
    }

    #[test]
    fn a_peer_reads_that_takes_64_kibibytes_between_two_looks() {
        let is_slow = |bytes: u64| {
            let (mut peers, peer) = (SlowPeers::default(), PeerId::random());
            (0..=60).any(|n| peers.slow(&peer, 0, n * bytes, MonoMs(n * 1_000)))
        };
        assert_eq!([is_slow(65_535), is_slow(65_536)], [true, false]);
    }

    #[test]
    fn what_each_peer_missed_is_counted_alone() {
        let (mut peers, one, other) = (SlowPeers::default(), PeerId::random(), PeerId::random());
        peers.missed(&[one, other]);
        peers.missed(&[one]);
        assert_eq!([peers.lost(&one), peers.lost(&other), peers.lost(&PeerId::random())], [2, 1, 0]);
        // More was refused than it lost.
        peers.refused(&[one]);
        peers.refused(&[one]);
        peers.slow(&one, 1, 0, MonoMs(0));
        peers.slow(&one, 1, 0, MonoMs(0));
        assert_eq!(peers.lost(&one), 3, "what was refused is forgotten then");
        peers.gone(&one);
        assert_eq!([peers.lost(&one), peers.lost(&other)], [0, 1]);
    }
}
