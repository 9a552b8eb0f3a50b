//! Bounds what gossipsub keeps: each message for five seconds, for peers that ask for it again, whatever its size. Without them one
//! program or neighbour with large messages fills this machine's memory. Streams have bounds of their own, which messages do not use up.
//! Of the directory, whose messages are small, their number is bounded: passed on to all, a crowd's questions cost everybody more than they
//! cost the crowd.

use std::time::Instant;

use libp2p::PeerId;
use p2pd_core::{
    bucket::{Bucket, Buckets},
    time::MonoMs,
};

use super::{flow_control::SMALL, judge::Class};

/// Bytes per second of what programs here publish on topics, and in streams; and at once, so that only who goes on for seconds waits.
const OWN: u32 = 24 << 20;
const OWN_AT_ONCE: u32 = 224 << 20;
/// The same of small messages where that is used up, so that the large ones of one program do not hold up another's.
const OWN_SMALL: u32 = 8 << 20;
/// Bytes per second, and at once, of what is passed on for others, and of one neighbour.
const PASSED: u32 = 24 << 20;
const OF_NEIGHBOUR: u32 = 8 << 20;
/// Directory messages per second that are passed on of each neighbour, and at once; and of those beyond, of all together. All streams of
/// a full directory are told 137 times a second.
const DIRECTORY_OF_NEIGHBOUR: (u32, u32) = (5, 64);
const DIRECTORY: (u32, u32) = (300, 600);
/// Neighbours that are counted one by one.
const NEIGHBOURS: usize = 1024;
/// How often it is logged that messages are not passed on, in milliseconds.
const LOG_MS: u64 = 10_000;

/// What is left of the bounds of one class.
struct Bounds {
    own: Bucket,
    small: Bucket,
    passed: Bucket,
    of: Buckets<PeerId>,
}

impl Bounds {
    fn new() -> Self {
        let full = |bytes| Bucket::full(MonoMs(0), bytes);
        Bounds { own: full(OWN_AT_ONCE), small: full(OWN_SMALL), passed: full(PASSED), of: Buckets::new(NEIGHBOURS) }
    }
}

pub(super) struct Kept {
    began: Instant,
    messages: Bounds,
    streams: Bounds,
    directory: Bucket,
    directory_of: Buckets<PeerId>,
    /// Messages that were not passed on since that was logged last, and when that was.
    refused: u64,
    logged: Option<MonoMs>,
}

impl Kept {
    pub(super) fn new(now: Instant) -> Self {
        Kept {
            began: now,
            messages: Bounds::new(),
            streams: Bounds::new(),
            directory: Bucket::full(MonoMs(0), DIRECTORY.1),
            directory_of: Buckets::new(NEIGHBOURS),
            refused: 0,
            logged: None,
        }
    }

    fn time(&self, now: Instant) -> MonoMs {
        MonoMs(u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX))
    }

    fn bounds(&mut self, class: Class) -> Option<&mut Bounds> {
        match class {
            Class::Messages => Some(&mut self.messages),
            Class::Live => Some(&mut self.streams),
            Class::Directory => None,
        }
    }

    /// Whether what is published here may go out now. It counts.
    pub(super) fn publish(&mut self, class: Class, bytes: usize, now: Instant) -> bool {
        let now = self.time(now);
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bounds(class).is_none_or(|bounds| {
            bounds.own.take_many(now, count, OWN, OWN_AT_ONCE)
                || (bytes <= SMALL && bounds.small.take_many(now, count, OWN_SMALL, OWN_SMALL))
        })
    }

    /// It did not go out after all.
    pub(super) fn give_back(&mut self, class: Class, bytes: usize) {
        if let Some(bounds) = self.bounds(class) {
            bounds.own.give_back(u32::try_from(bytes).unwrap_or(u32::MAX), OWN_AT_ONCE);
        }
    }

    /// Whether a message that a neighbour brought may be passed on. It counts.
    pub(super) fn pass_on(&mut self, neighbour: &PeerId, class: Class, bytes: usize, now: Instant) -> bool {
        let now = self.time(now);
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Some(bounds) = self.bounds(class) else {
            let (of, all) = (DIRECTORY_OF_NEIGHBOUR, DIRECTORY);
            return self.directory_of.take(now, neighbour, of.0, of.1) || self.directory.take(now, all.0, all.1);
        };
        let passes = bounds.of.take_many(now, neighbour, count, OF_NEIGHBOUR, OF_NEIGHBOUR)
            && bounds.passed.take_many(now, count, PASSED, PASSED);
        if !passes {
            self.refused = self.refused.saturating_add(1);
            if self.logged.is_none_or(|at| now.since(at) >= LOG_MS) {
                let messages = std::mem::take(&mut self.refused);
                self.logged = Some(now);
                tracing::warn!(
                    messages,
                    "delivered here and not passed on: more comes than this daemon keeps for others"
                );
            }
        }
        passes
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
        let mut passed = |neighbour, class, ms| {
            let now = now + Duration::from_millis(ms);
            (0..100).filter(|_| kept.pass_on(neighbour, class, MIB, now)).count()
        };
        let messages = Class::Messages;
        assert_eq!(neighbours.each_ref().map(|one| passed(one, messages, 0)), [8, 8, 8, 0, 0], "24 MiB in all");
        assert_eq!(passed(&neighbours[0], Class::Live, 0), 8, "streams have their own");
        assert_eq!(passed(&neighbours[0], messages, 1_000), 8, "a second later");
    }

    #[test]
    fn of_the_directory_each_neighbour_has_a_little_and_all_share_the_rest() {
        let (began, [loud, other]) = (Instant::now(), [(); 2].map(|()| PeerId::random()));
        let mut kept = Kept::new(began);
        let mut passed = |neighbour, ms| {
            let now = began + Duration::from_millis(ms);
            (0..1_000).filter(|_| kept.pass_on(neighbour, Class::Directory, 200, now)).count()
        };
        assert_eq!(passed(&loud, 0), 664);
        assert_eq!(passed(&other, 0), 64, "its own, though the rest is used up");
        assert_eq!(passed(&loud, 1_000), 305);
    }

    #[test]
    fn programs_publish_so_much_a_second() {
        let began = Instant::now();
        let mut kept = Kept::new(began);
        let at = |ms| began + Duration::from_millis(ms);
        let mut published = |ms| (0..300).filter(|_| kept.publish(Class::Messages, MIB, at(ms))).count();
        assert_eq!([published(0), published(500), published(100_000)], [224, 12, 224]);
        kept.give_back(Class::Messages, 2 * MIB);
        assert!(kept.publish(Class::Messages, 2 * MIB, at(100_000)));
        assert!(!kept.publish(Class::Messages, SMALL + 1, at(100_000)));
        let small = (0..1_000).filter(|_| kept.publish(Class::Messages, SMALL, at(100_000))).count();
        assert_eq!(small, 8 * MIB / SMALL, "small ones have more");
        assert!(kept.publish(Class::Live, MIB, at(100_000)), "streams have their own");
    }
}
