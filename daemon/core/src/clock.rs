//! Compares our clock with those of connected peers, by the times of messages that they sent us themselves. One peer that differs
//! has a wrong clock; if several agree, ours is wrong. Messages dated more than five minutes away are refused, so that a wrong
//! clock makes streams vanish.

use std::collections::HashMap;

use crate::{
    id::PeerId,
    time::{MonoMs, UnixMs},
};

/// A clock counts as wrong from this difference on, in milliseconds: messages are on their way for seconds at most.
const WRONG_MS: u64 = 30_000;
/// A wrong clock counts as right again below this difference, so that one at the bound is not reported each second.
const RIGHT_MS: u64 = 20_000;
/// Peers that agree on the time are so far apart at most, in milliseconds.
const AGREE_MS: u64 = 30_000;
/// How long a message may be on its way, in milliseconds: an older time within it is a late or repeated message's.
const LATE_MS: u64 = 120_000;
/// Most peers that are remembered.
const MAX_PEERS: usize = 1024;

struct Heard {
    /// The time that the peer's clock showed at the origin of ours that is monotonic. Independent of our wall clock, which may be
    /// set meanwhile.
    origin: i64,
    at: MonoMs,
    wrong: bool,
}

/// What peers say the time is.
#[derive(Default)]
pub struct Clocks(HashMap<PeerId, Heard>);

/// What follows from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// How far our own clock is ahead, in milliseconds, or behind where it is less than 0; at least two peers and most of all
    /// agree on that.
    pub ours: Option<i64>,
    /// How far the clocks of others are ahead of ours; those that are wrong, or, where ours is, all that say so.
    pub theirs: Vec<(PeerId, i64)>,
    /// How many peers agree on `ours`.
    pub agree: usize,
    /// How many peers were heard.
    pub of: usize,
}

/// A difference for people.
fn difference(ms: i64) -> String {
    let (seconds, way) = (ms.unsigned_abs() / 1000, if ms.is_negative() { "behind" } else { "ahead of" });
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")];
    let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).take(2).map(|(n, unit)| format!("{n} {unit}")).collect();
    format!("{} {way}", parts.join(" "))
}

impl Judgement {
    /// What is wrong with our own clock, for people.
    pub fn ours_for_people(&self) -> Option<String> {
        let Judgement { ours, agree, of, .. } = self;
        Some(format!("{} those of {agree} of {of} peers", difference((*ours)?)))
    }

    /// How far a peer's clock is ahead of ours, where it is wrong.
    pub fn of_peer(&self, peer: &PeerId) -> Option<i64> {
        self.theirs.iter().find(|(other, _)| other == peer).map(|(_, ahead)| *ahead)
    }

    /// What is wrong with the clocks of others while ours is right or not to be judged, for people.
    pub fn theirs_for_people(&self) -> impl Iterator<Item = (&PeerId, String)> {
        let theirs = self.theirs.iter().filter(|_| self.ours.is_none());
        theirs.map(|(peer, ahead)| (peer, format!("{} this machine's", difference(*ahead))))
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Clocks {
    /// Notes the time of a message that a peer has signed and sent us itself: others may relay old ones, or invent signers.
    pub fn heard(&mut self, now: MonoMs, peer: &PeerId, said: UnixMs) {
        let origin = signed(said.0).saturating_sub(signed(now.0));
        let last = self.0.get(peer);
        if last.is_some_and(|last| origin < last.origin && now.since(last.at) < LATE_MS) {
            return;
        }
        let wrong = last.is_some_and(|last| last.wrong);
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(peer) {
            let oldest = self.0.iter().min_by_key(|(_, heard)| heard.at).map(|(peer, _)| peer.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(peer.clone(), Heard { origin, at: now, wrong });
    }

    /// Judges the clocks of those peers that are connected, and forgets the others.
    pub fn judge(&mut self, now: MonoMs, wall: UnixMs, is_connected: impl Fn(&PeerId) -> bool) -> Judgement {
        self.0.retain(|peer, _| is_connected(peer));
        let ours = signed(wall.0).saturating_sub(signed(now.0));
        let of = self.0.len();
        let mut theirs = Vec::new();
        for (peer, heard) in &mut self.0 {
            let ahead = heard.origin.saturating_sub(ours);
            heard.wrong = ahead.unsigned_abs() >= if heard.wrong { RIGHT_MS } else { WRONG_MS };
            if heard.wrong {
                theirs.push((peer.clone(), ahead));
            }
        }
        theirs.sort_by(|one, other| one.1.cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        let middle = theirs.get(theirs.len() / 2).map_or(0, |(_, ahead)| *ahead);
        let agree = theirs.iter().filter(|(_, ahead)| ahead.abs_diff(middle) <= AGREE_MS).count();
        let wrong = agree >= 2 && agree.saturating_mul(2) > of;
        Judgement { ours: wrong.then(|| middle.saturating_neg()), theirs, agree: if wrong { agree } else { 0 }, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMs = UnixMs(1_800_000_000_000);

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    fn said(ahead: i64) -> UnixMs {
        UnixMs(WALL.0.saturating_add_signed(ahead))
    }

    #[test]
    fn one_that_differs_is_wrong_and_when_most_agree_we_are() {
        let mut clocks = Clocks::default();
        let judge = |clocks: &mut Clocks| clocks.judge(MonoMs(0), WALL, |_| true);
        clocks.heard(MonoMs(0), &peer(1), said(600_000));
        let judged = judge(&mut clocks);
        assert_eq!((judged.ours, judged.theirs), (None, vec![(peer(1), 600_000)]), "one alone may be wrong itself");
        clocks.heard(MonoMs(0), &peer(2), said(601_000));
        let judged = judge(&mut clocks);
        assert_eq!((judged.ours, judged.agree, judged.of), (Some(-601_000), 2, 2));
        assert_eq!(judged.ours_for_people().as_deref(), Some("10 min 1 s behind those of 2 of 2 peers"));
        clocks.heard(MonoMs(0), &peer(3), said(-2_000));
        assert_eq!(judge(&mut clocks).ours, Some(-601_000));
        clocks.heard(MonoMs(0), &peer(4), said(10));
        assert_eq!(judge(&mut clocks).ours, None, "half of them is not most");
        // Our clock is set.
        let judged = clocks.judge(MonoMs(0), said(600_000), |_| true);
        assert_eq!(judged.theirs.iter().map(|(peer, _)| peer.clone()).collect::<Vec<_>>(), [peer(3), peer(4)]);
    }

    #[test]
    fn a_clock_at_the_bound_is_told_once() {
        let mut clocks = Clocks::default();
        let mut wrong = |ahead| {
            clocks.heard(MonoMs(0), &peer(1), said(ahead));
            !clocks.judge(MonoMs(0), WALL, |_| true).theirs.is_empty()
        };
        assert_eq!([29_900, 30_100].map(&mut wrong), [false, true]);
        // The peer stays wrong while our own clock moves a little.
        let judged =
            |clocks: &mut Clocks, moved: u64| clocks.judge(MonoMs(0), UnixMs(WALL.0 + moved), |_| true).theirs.len();
        assert_eq!([judged(&mut clocks, 200), judged(&mut clocks, 10_200), judged(&mut clocks, 1_000)], [1, 0, 0]);
    }

    #[test]
    fn late_messages_and_peers_that_are_gone_do_not_count() {
        let mut clocks = Clocks::default();
        clocks.heard(MonoMs(1_000), &peer(1), UnixMs(WALL.0 + 1_000));
        clocks.heard(MonoMs(2_000), &peer(1), said(-86_400_000));
        assert_eq!(clocks.judge(MonoMs(2_000), UnixMs(WALL.0 + 2_000), |_| true).theirs, []);
        // A clock that was set back is believed after a while.
        clocks.heard(MonoMs(1_000 + LATE_MS), &peer(1), said(-86_400_000));
        let later = MonoMs(1_000 + 2 * LATE_MS);
        assert_eq!(clocks.judge(later, WALL, |_| true).theirs.len(), 1);
        assert_eq!(clocks.judge(later, WALL, |_| false).of, 0);
        (0..=255).for_each(|n| {
            (0..5)
                .for_each(|m| clocks.heard(later, &PeerId::from_ed25519(&[n, m].repeat(16).try_into().unwrap()), WALL))
        });
        assert!(clocks.0.len() <= MAX_PEERS);
    }

    #[test]
    fn a_difference_is_told_in_its_two_largest_units() {
        for (ms, words) in [
            (30_999, "30 s ahead of"),
            (-30_999, "30 s behind"),
            (60_000, "1 min ahead of"),
            (-3_599_000, "59 min 59 s behind"),
            (3_600_000, "1 h ahead of"),
            (86_399_000, "23 h 59 min ahead of"),
            (-(2 * 86_400_000 + 5_000), "2 d 5 s behind"),
            (3 * 86_400_000 + 90_061_000, "4 d 1 h ahead of"),
        ] {
            assert_eq!(difference(ms), words, "{ms}");
        }
    }

    #[test]
    fn whose_clock_is_wrong_is_told() {
        let far = |n| (peer(n), 60_000);
        let ours = Judgement { ours: Some(-60_000), theirs: vec![far(1), far(2)], agree: 2, of: 3 };
        assert_eq!(ours.ours_for_people().as_deref(), Some("1 min behind those of 2 of 3 peers"));
        assert_eq!(ours.theirs_for_people().count(), 0, "theirs are right then");
        let theirs = Judgement { theirs: (1..=6).map(far).collect(), of: 20, ..Judgement::default() };
        assert_eq!((theirs.ours_for_people(), theirs.theirs_for_people().count()), (None, 6));
        assert_eq!(theirs.theirs_for_people().next(), Some((&peer(1), "1 min ahead of this machine's".to_owned())));
        assert_eq!((theirs.of_peer(&peer(2)), theirs.of_peer(&peer(9))), (Some(60_000), None));
    }

    #[test]
    fn a_clock_is_wrong_from_its_bound_on_and_right_below_the_lower_one() {
        let mut clocks = Clocks::default();
        let mut wrong = |wall| !clocks_with(&mut clocks, wall).theirs.is_empty();
        assert_eq!([29_999, 30_000, 20_000, 19_999, 20_000].map(&mut wrong), [false, true, true, false, false]);

        fn clocks_with(clocks: &mut Clocks, ahead: i64) -> Judgement {
            // What a peer says anew does not make it right.
            clocks.heard(MonoMs(0), &peer(1), said(0));
            clocks.judge(MonoMs(0), said(-ahead), |_| true)
        }
    }

    #[test]
    fn peers_agree_that_are_no_farther_apart_than_messages_take() {
        for (second, ours) in [(90_000, Some(-90_000)), (90_001, None)] {
            let mut clocks = Clocks::default();
            clocks.heard(MonoMs(0), &peer(1), said(60_000));
            clocks.heard(MonoMs(0), &peer(2), said(second));
            let judged = clocks.judge(MonoMs(0), WALL, |_| true);
            assert_eq!((judged.ours, judged.agree), (ours, if ours.is_some() { 2 } else { 0 }), "{second}");
        }
    }

    #[test]
    fn an_older_time_counts_as_late_for_two_minutes_after_the_last_one() {
        let mut clocks = Clocks::default();
        clocks.heard(MonoMs(0), &peer(1), said(0));
        clocks.heard(MonoMs(60_000), &peer(1), said(60_000));
        // Late by an hour, and less than two minutes after the last one.
        clocks.heard(MonoMs(130_000), &peer(1), said(130_000 - 3_600_000));
        assert_eq!(clocks.judge(MonoMs(130_000), said(130_000), |_| true).theirs, []);
        // Two minutes after it a clock may have been set back.
        clocks.heard(MonoMs(180_000), &peer(1), said(180_000 - 3_600_000));
        assert_eq!(clocks.judge(MonoMs(180_000), said(180_000), |_| true).theirs, [(peer(1), -3_600_000)]);
    }

    #[test]
    fn the_peer_that_was_silent_longest_is_forgotten_when_there_are_too_many() {
        let nth = |n: usize| PeerId::from_ed25519(&[&n.to_le_bytes()[..], &[0; 24]].concat().try_into().unwrap());
        let mut clocks = Clocks::default();
        let heard = |clocks: &mut Clocks, n| clocks.heard(MonoMs(n as u64), &nth(n), said(0));
        (0..MAX_PEERS).for_each(|n| heard(&mut clocks, n));
        heard(&mut clocks, 7);
        assert_eq!(clocks.0.len(), MAX_PEERS, "it was known");
        heard(&mut clocks, MAX_PEERS);
        assert_eq!(clocks.0.len(), MAX_PEERS);
        assert!(!clocks.0.contains_key(&nth(0)) && [1, 7, MAX_PEERS].iter().all(|n| clocks.0.contains_key(&nth(*n))));
    }
}
