//! Sees that every peer of our network has told which topics it follows. Gossipsub tells that once, and what it tells over
//! a connection that is just being given up is lost for good: `pubsub/resubscribe.rs` avoids most of that, and this finds the rest. A
//! peer that has told nothing for a while is let go, and dialled anew by whoever finds out.

use std::collections::HashMap;

use libp2p::PeerId;
use p2pd_core::time::MonoMs;

/// How long a peer may take at first, in milliseconds; twice as long after each time that it was let go.
const PATIENCE_MS: u64 = 2_000;
const MAX_TRIES: u32 = 6;
/// How long the tries of a peer are remembered that is not connected, in milliseconds.
const REMEMBER_MS: u64 = 300_000;

struct Silent {
    since: MonoMs,
    seen: MonoMs,
    tries: u32,
}

/// Peers that have told nothing yet; bounded by the connection limits and what came in the last minutes.
#[derive(Default)]
pub(crate) struct SilentPeers {
    silent: HashMap<PeerId, Silent>,
    /// Whether the tries of a peer count on after it has spoken.
    lasting: bool,
}

impl SilentPeers {
    /// Of peers that speak for a while each time they are connected anew.
    pub(crate) fn lasting() -> Self {
        SilentPeers { lasting: true, ..Self::default() }
    }

    /// The peers to let go: those of `silent` that have had their time.
    pub(crate) fn overdue(
        &mut self,
        now: MonoMs,
        silent: Vec<PeerId>,
        connected: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        // Whoever is connected and not silent has told.
        let counts = |peer: &PeerId| self.lasting || silent.contains(peer) || !connected(peer);
        self.silent.retain(|peer, entry| counts(peer) && now.since(entry.seen) < REMEMBER_MS);
        let mut overdue = Vec::new();
        for peer in silent {
            let entry = self.silent.entry(peer).or_insert(Silent { since: now, seen: now, tries: 0 });
            // It was away in between.
            if now.since(entry.seen) > 1_000 {
                entry.since = now;
            }
            entry.seen = now;
            if now.since(entry.since) >= PATIENCE_MS << entry.tries {
                entry.tries = entry.tries.saturating_add(1).min(MAX_TRIES);
                entry.since = now;
                overdue.push(peer);
            }
        }
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_silent_is_let_go_ever_later_and_who_speaks_is_forgiven() {
        let mut peers = SilentPeers::default();
        let peer = PeerId::random();
        let mut let_go = Vec::new();
        for ms in (0..20_000).step_by(250) {
            if !peers.overdue(MonoMs(ms), vec![peer], |_| true).is_empty() {
                let_go.push(ms);
            }
        }
        assert_eq!(let_go, [2_000, 6_000, 14_000]);
        assert!(peers.overdue(MonoMs(20_000), Vec::new(), |_| true).is_empty());
        assert!(peers.silent.is_empty());
    }

    #[test]
    fn time_away_does_not_count_and_tries_are_remembered() {
        let mut peers = SilentPeers::default();
        let peer = PeerId::random();
        peers.overdue(MonoMs(0), vec![peer], |_| true);
        assert_eq!(peers.overdue(MonoMs(2_000), vec![peer], |_| true), []);
        for ms in (2_250..4_000).step_by(250) {
            assert_eq!(peers.overdue(MonoMs(ms), vec![peer], |_| true), []);
        }
        assert_eq!(peers.overdue(MonoMs(4_000), vec![peer], |_| true), [peer]);
        assert_eq!(peers.overdue(MonoMs(60_000), Vec::new(), |_| false), []);
        assert_eq!(peers.silent.get(&peer).map(|s| s.tries), Some(1));
    }

    #[test]
    fn one_that_speaks_and_falls_silent_again_gets_longer_each_time() {
        let (mut mute, peer) = (SilentPeers::lasting(), PeerId::random());
        let mut now = 0;
        let mut until_overdue = || {
            let began = now;
            while mute.overdue(MonoMs(now), vec![peer], |_| true).is_empty() {
                now += 250;
            }
            // It speaks for ten seconds.
            let took = now - began;
            (0..40).for_each(|_| {
                now += 250;
                assert!(mute.overdue(MonoMs(now), Vec::new(), |_| true).is_empty());
            });
            now += 250;
            took
        };
        assert_eq!([until_overdue(), until_overdue(), until_overdue()], [2_000, 4_000, 8_000]);
    }

    #[test]
    fn looks_a_second_apart_are_of_one_silence() {
        let peer = PeerId::random();
        let let_go = |step: usize| {
            let mut peers = SilentPeers::default();
            (0..8_000u64).step_by(step).find(|ms| !peers.overdue(MonoMs(*ms), vec![peer], |_| true).is_empty())
        };
        assert_eq!([let_go(999), let_go(1_000), let_go(1_001)], [Some(2_997), Some(2_000), None]);
    }

    #[test]
    fn the_tries_of_a_peer_that_is_away_are_forgotten_after_five_minutes() {
        for (away, tries) in [(299_999, Some(1)), (300_000, None)] {
            for mut peers in [SilentPeers::default(), SilentPeers::lasting()] {
                let peer = PeerId::random();
                [0, 1_000, 2_000].into_iter().for_each(|ms| drop(peers.overdue(MonoMs(ms), vec![peer], |_| true)));
                peers.overdue(MonoMs(2_000 + away), Vec::new(), |_| false);
                assert_eq!(peers.silent.get(&peer).map(|silent| silent.tries), tries, "{away}");
            }
        }
    }

    #[test]
    fn patience_grows_to_two_minutes_and_no_further() {
        let (mut peers, peer) = (SilentPeers::default(), PeerId::random());
        let let_go: Vec<u64> = (0..520_000u64)
            .step_by(1_000)
            .filter(|ms| !peers.overdue(MonoMs(*ms), vec![peer], |_| true).is_empty())
            .collect();
        let pauses: Vec<u64> = let_go.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses, [4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 128_000, 128_000]);
    }
}
