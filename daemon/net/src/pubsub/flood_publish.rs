//! Sends what this daemon publishes to followers outside the mesh, too, while bandwidth allows. Gossipsub alone would offer them each
//! message a second later. Most of a crowd around one publisher would never catch up, since nobody else has the messages.

use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Bytes per second for all of that: 60 followers of 500 small messages a second take 11 MB. A slower network shows by followers
/// that have no room, and those are left out.
const RATE: u64 = 16 << 20;
/// What gossipsub and the connection add to a message, in bytes: sender, number, signature, topic.
const ENVELOPE: usize = 200;
/// What waits until all may have it, in bytes.
const SMALL: usize = 1024;
/// Most followers of a topic that are sent to.
pub(crate) const MOST: usize = 256;

pub(crate) struct FloodPublish {
    /// Bytes that may be sent now.
    left: u64,
    at: Instant,
    /// Where the next choice begins, so that what is left over goes round.
    turn: usize,
}

impl FloodPublish {
    pub(crate) fn new(now: Instant) -> Self {
        FloodPublish { left: RATE, at: now, turn: 0 }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).min(Duration::from_secs(1));
        let gained = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_mul(RATE) / 1_000_000;
        (self.left, self.at) = (self.left.saturating_add(gained).min(RATE), now);
    }

    /// Whether a message of so many bytes is better held back until it may go to all of these followers, which will be soon. Of a large one
    /// some get it by others, and nobody waits for that.
    pub(crate) fn is_worth_waiting(&mut self, followers: usize, bytes: usize, now: Instant) -> bool {
        self.refill(now);
        bytes <= SMALL && self.left < of_each(bytes).saturating_mul(followers.min(MOST) as u64)
    }

    /// Chooses as many of these followers as may be sent a message of so many bytes.
    pub(crate) fn choose(&mut self, mut followers: Vec<PeerId>, bytes: usize, now: Instant) -> Vec<PeerId> {
        self.refill(now);
        let each = of_each(bytes);
        let most = usize::try_from(self.left / each).unwrap_or(usize::MAX).min(MOST);
        if followers.len() > most {
            self.turn = self.turn.wrapping_add(most) % followers.len();
            followers.rotate_left(self.turn);
            followers.truncate(most);
        }
        self.left = self.left.saturating_sub(each.saturating_mul(followers.len() as u64));
        followers
    }
}

/// What a message of so many bytes takes for each follower.
fn of_each(bytes: usize) -> u64 {
    u64::try_from(bytes.saturating_add(ENVELOPE)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_crowd_gets_all_of_little_and_in_turn_its_share_of_much() {
        let (crowd, now): (Vec<PeerId>, _) = ((0..60).map(|_| PeerId::random()).collect(), Instant::now());
        let mut flood = FloodPublish::new(now);
        for n in 0..5_000 {
            let chosen = flood.choose(crowd.clone(), 160, now + Duration::from_millis(2 * n));
            assert_eq!(chosen.len(), 60, "500 a second");
        }
        let mut flood = FloodPublish::new(now);
        let mut reached = HashSet::new();
        let mut sent = 0;
        for n in 0..200 {
            let chosen = flood.choose(crowd.clone(), 64_000, now + Duration::from_millis(50 * n));
            sent += chosen.len() * 64_200;
            reached.extend(chosen);
        }
        assert!(sent as u64 <= RATE * 11, "{sent} bytes in ten seconds");
        assert_eq!(reached.len(), 60);
    }

    /// Followers whom a message of so many bytes, with what is around it, may be sent to.
    fn chosen(flood: &mut FloodPublish, followers: &[PeerId], each: usize, now: Instant) -> Vec<PeerId> {
        flood.choose(followers.to_vec(), each - ENVELOPE, now)
    }

    #[test]
    fn what_is_sent_comes_back_with_time_up_to_a_second_of_it() {
        let (crowd, now): (Vec<PeerId>, _) = ((0..300).map(|_| PeerId::random()).collect(), Instant::now());
        let mut flood = FloodPublish::new(now);
        let mut count = |each, ms| chosen(&mut flood, &crowd, each, now + Duration::from_millis(ms)).len();
        const MIB: usize = 1 << 20;
        assert_eq!([count(MIB, 0), count(MIB, 0), count(MIB, 62), count(MIB, 63)], [16, 0, 0, 1]);
        assert_eq!([count(MIB, 563), count(MIB, 3_600_000), count(MIB, 3_600_000)], [8, 16, 0]);
        assert_eq!(count(1_000, 3_602_000), 256, "not more, however small");
    }

    #[test]
    fn what_is_small_waits_until_all_may_have_it() {
        let (crowd, now): (Vec<PeerId>, _) = ((0..60).map(|_| PeerId::random()).collect(), Instant::now());
        let mut flood = FloodPublish::new(now);
        assert!(!flood.is_worth_waiting(60, 160, now));
        while flood.choose(crowd.clone(), 160, now).len() == 60 {}
        assert!(flood.is_worth_waiting(60, 160, now));
        assert!(!flood.is_worth_waiting(60, 64_000, now), "of what is larger some get it by others");
        assert!(!flood.is_worth_waiting(60, 160, now + Duration::from_millis(2)), "there is room again");
    }

    #[test]
    fn those_who_were_left_out_are_next() {
        let (crowd, now): (Vec<PeerId>, _) = ((0..5).map(|_| PeerId::random()).collect(), Instant::now());
        let mut flood = FloodPublish::new(now);
        for (second, expected) in [[2, 3], [4, 0], [1, 2], [3, 4]].into_iter().enumerate() {
            let two = chosen(&mut flood, &crowd, 8 << 20, now + Duration::from_secs(second as u64));
            assert_eq!(two, expected.map(|n: usize| crowd[n]), "{second}");
        }
        let all = chosen(&mut flood, &crowd[..2], 8 << 20, now + Duration::from_secs(9));
        assert_eq!(
            (all, chosen(&mut flood, &[], 8 << 20, now + Duration::from_secs(9))),
            (crowd[..2].to_vec(), vec![])
        );
    }
}
