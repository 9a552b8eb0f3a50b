//! Bounds what gossipsub keeps: each message for five seconds, for peers that ask for it again, whatever its size. Without them one
//! program or neighbour with large messages fills this machine's memory.

use std::{collections::HashMap, time::Instant};

use libp2p::PeerId;

use super::budget::Budget;

/// Bytes per second of what programs here publish; beyond, they wait.
const OWN: u64 = 64 << 20;
/// Bytes per second of what is passed on for others, and of one neighbour; what comes beyond is delivered here, and not passed on.
const PASSED: u64 = 24 << 20;
const OF_NEIGHBOUR: u64 = 8 << 20;

pub(super) struct Kept {
    own: Budget,
    passed: Budget,
    /// Bounded by the connections.
    of: HashMap<PeerId, Budget>,
}

impl Kept {
    pub(super) fn new(now: Instant) -> Self {
        Kept { own: Budget::new(OWN, now), passed: Budget::new(PASSED, now), of: HashMap::new() }
    }

    /// Whether a message of a program here may go out now.
    pub(super) fn may_publish(&mut self, bytes: usize, now: Instant) -> bool {
        self.own.left(now) >= bytes as u64
    }

    /// It has gone out.
    pub(super) fn published(&mut self, bytes: usize) {
        self.own.take(bytes as u64);
    }

    /// Whether a message that a neighbour brought may be passed on. It counts.
    pub(super) fn pass_on(&mut self, neighbour: &PeerId, bytes: usize, now: Instant) -> bool {
        let of = self.of.entry(*neighbour).or_insert_with(|| Budget::new(OF_NEIGHBOUR, now));
        let fits = of.left(now).min(self.passed.left(now)) >= bytes as u64;
        if fits {
            of.take(bytes as u64);
            self.passed.take(bytes as u64);
        }
        fits
    }

    /// A neighbour has gone.
    pub(super) fn gone(&mut self, neighbour: &PeerId) {
        self.of.remove(neighbour);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_greedy_neighbour_leaves_room_to_others_and_all_have_a_bound() {
        let (now, neighbours) = (Instant::now(), [(); 5].map(|()| PeerId::random()));
        let mut kept = Kept::new(now);
        let mut passed = |neighbour, now| (0..100).filter(|_| kept.pass_on(neighbour, MIB, now)).count();
        assert_eq!(neighbours.each_ref().map(|one| passed(one, now)), [8, 8, 8, 0, 0], "24 MiB in all");
        let later = now + Duration::from_millis(250);
        assert_eq!((passed(&neighbours[0], later), passed(&neighbours[4], later)), (2, 4));
        kept.gone(&neighbours[0]);
        assert_eq!(kept.of.len(), 4);
    }

    #[test]
    fn programs_publish_so_much_a_second() {
        let now = Instant::now();
        let mut kept = Kept::new(now);
        let mut publish = |now| {
            let fits = kept.may_publish(MIB, now);
            kept.published(if fits { MIB } else { 0 });
            fits
        };
        let mut published = |ms| (0..100).filter(|_| publish(now + Duration::from_millis(ms))).count();
        assert_eq!([published(0), published(500), published(100_000)], [64, 32, 64]);
    }
}
