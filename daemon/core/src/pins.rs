//! Which peers are kept: what an operator pinned, and whom to let go of when there are more connections than wanted.

use std::collections::BTreeMap;

use crate::{id::PeerId, multiaddr::Multiaddr, text};

/// Most pinned peers.
pub const MAX_PINS: usize = 256;
/// Most addresses and tags of one.
pub const MAX_OF_ONE: usize = 8;
/// Longest tag, in characters.
const MAX_TAG: usize = 64;

/// A peer that is never let go of, and dialled until it is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Where to reach it, beside what is known otherwise.
    pub addresses: Vec<Multiaddr>,
    /// Why, in words of whoever pinned it.
    pub tags: Vec<String>,
    /// It was pinned without a tag, too.
    pub untagged: bool,
    /// The pin does not have it dialled.
    pub passive: bool,
}

/// The pinned peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(pub BTreeMap<PeerId, Pin>);

/// Checks a tag; what it takes, when this is none.
pub fn check_tag(tag: &str) -> Result<(), String> {
    let plain = !tag.is_empty() && tag.chars().count() <= MAX_TAG && text::is_clean(tag);
    if plain && !tag.contains([' ', ',']) {
        Ok(())
    } else {
        Err(format!("a tag has 1 to {MAX_TAG} characters without space and comma"))
    }
}

/// What speaks for a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worth {
    /// It must not be let go of: pinned, or of the configuration.
    pub kept: bool,
    /// It has only just connected, and had no time to show what it is worth.
    pub young: bool,
    /// A program here has a stream open with it.
    pub busy: bool,
    /// Topics of ours that it follows; those in whose mesh it is count twice.
    pub topics: u32,
    /// Gossipsub's score.
    pub score: f64,
    /// Since when it is connected, milliseconds.
    pub age_ms: u64,
}

/// Whom to let go of when more than `high` peers are connected, so that `low` remain: first those that behave badly, then
/// those without a stream of a program, of these those that follow least, and among equals the newest. As many as `high` is above `low`
/// of the young are left alone beside these, those that have been here longest: a crowd of newcomers must not push out who was there.
pub fn surplus<P: Clone>(peers: &[(P, Worth)], high: usize, low: usize) -> Vec<P> {
    if peers.len() <= high {
        return Vec::new();
    }
    let (mut young, mut others): (Vec<&(P, Worth)>, Vec<_>) =
        peers.iter().filter(|(_, worth)| !worth.kept).partition(|(_, worth)| worth.young);
    young.sort_by_key(|(_, worth)| std::cmp::Reverse(worth.age_ms));
    let left_alone = high.saturating_sub(low).min(young.len());
    others.extend(young.into_iter().skip(left_alone));
    others.sort_by(|(_, a), (_, b)| {
        let bad = (b.score < 0.0).cmp(&(a.score < 0.0));
        bad.then(a.busy.cmp(&b.busy)).then(a.topics.cmp(&b.topics)).then(a.age_ms.cmp(&b.age_ms))
    });
    others
        .into_iter()
        .take(peers.len().saturating_sub(low.saturating_add(left_alone)))
        .map(|(peer, _)| peer.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_one_short_word() {
        for good in ["relay", "r", &"x".repeat(64)] {
            assert!(check_tag(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "\u{1b}[31m", &"x".repeat(65)] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_least_useful_go_first_and_the_kept_never() {
        let worth = |kept, topics, score, age_ms| Worth { kept, young: false, busy: false, topics, score, age_ms };
        let peers = [
            ("pinned", worth(true, 0, -5.0, 9)),
            ("bad", worth(false, 9, -1.0, 9_000)),
            ("idle, new", worth(false, 0, 0.0, 10)),
            ("idle, old", worth(false, 0, 0.0, 9_000)),
            ("follows", worth(false, 2, 0.0, 10)),
            ("busy", Worth { busy: true, ..worth(false, 0, 0.0, 10) }),
        ];
        assert_eq!(surplus(&peers, 6, 1), [""; 0]);
        assert_eq!(surplus(&peers, 5, 4), ["bad", "idle, new"]);
        assert_eq!(surplus(&peers, 1, 0), ["bad", "idle, new", "idle, old", "follows", "busy"]);
    }

    #[test]
    fn a_crowd_of_newcomers_pushes_out_nobody_who_was_there() {
        let worth = |young, age_ms| Worth { young, topics: 1, age_ms, ..Worth::default() };
        let mut peers: Vec<(u64, Worth)> = (0..4).map(|n| (n, worth(false, 900_000))).collect();
        peers.extend((100..296).map(|n| (n, worth(true, 29_000 - n))));
        let gone = surplus(&peers, 192, 160);
        assert_eq!(gone.len(), 8);
        assert!(gone.iter().all(|peer| *peer >= 288), "the newest of the crowd: {gone:?}");
        peers.truncate(4 + 30);
        assert_eq!(surplus(&peers, 33, 20), [129], "13 are left alone, and 21 are one too many");
    }

    #[test]
    fn only_a_score_below_zero_is_a_bad_one() {
        let worth = |score, topics| Worth { score, topics, ..Worth::default() };
        let peers = [("good", worth(5.0, 1)), ("bad", worth(-0.1, 4)), ("none", worth(0.0, 2)), ("new", worth(0.0, 0))];
        assert_eq!(surplus(&peers, 3, 0), ["bad", "new", "good", "none"]);
        assert_eq!(surplus(&peers, 4, 0), [""; 0], "there are no more than may be");
    }
}
