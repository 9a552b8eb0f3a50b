//! How a follower of a topic learns what it missed. A publisher counts what it sends, and tells followers that may have missed some of it:
//! from this sequence number to that one, so many messages. A follower compares that with what came.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::{bucket::Bucket, id::PeerId, time::MonoMs};

/// Topics of which a publisher keeps count; of others nobody is told.
const MAX_TOPICS: usize = 256;
/// Publishers of a topic whose messages a follower counts.
const MAX_SENDERS: usize = 64;
/// Sequence numbers that a follower keeps of a topic: of 15 s at 1,000 messages a second.
const MAX_NUMBERS: usize = 16_384;
/// Messages of a topic that a publisher can say were lost: so many a second on average, at once, and at once when it has just been heard for the
/// first time. It may lie, and more it does not publish.
const LOST: u32 = 4_096;
const LOST_AT_ONCE: u32 = 60 * LOST;
const LOST_AT_FIRST: u32 = 8 * LOST;

/// Messages that a peer published on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The topic.
    pub topic: String,
    /// Sequence number of the first message.
    pub first: u64,
    /// Of the last one.
    pub last: u64,
    /// How many there are: sequence numbers are shared among topics.
    pub count: u64,
}

/// What a publisher counts, in intervals. Of each it tells an interval later: that a peer missed something may be known late.
#[derive(Debug, Default)]
pub struct Published {
    now: Interval,
    before: Interval,
}

#[derive(Debug, Default)]
struct Interval {
    tallies: HashMap<String, Counted>,
    missed: HashSet<PeerId>,
}

#[derive(Debug)]
struct Counted {
    tally: Tally,
    /// Who followed the topic before the first message.
    followers: HashSet<PeerId>,
}

impl Published {
    /// Counts a message with this sequence number.
    pub fn note(&mut self, topic: &str, number: u64, followers: impl FnOnce() -> HashSet<PeerId>) {
        if let Some(Counted { tally, .. }) = self.now.tallies.get_mut(topic) {
            tally.last = number;
            tally.count = tally.count.saturating_add(1);
        } else if self.now.tallies.len() < MAX_TOPICS {
            let tally = Tally { topic: topic.to_owned(), first: number, last: number, count: 1 };
            self.now.tallies.insert(topic.to_owned(), Counted { tally, followers: followers() });
        }
    }

    /// Notes that a peer may have missed something. Bounded by the connections.
    pub fn missed(&mut self, by: PeerId) {
        self.now.missed.insert(by);
    }

    /// Begins a new interval: what is to be told of the one before, to each peer that may have missed some of it.
    pub fn turn(&mut self) -> HashMap<PeerId, Vec<Tally>> {
        let Interval { tallies, mut missed } = std::mem::replace(&mut self.before, std::mem::take(&mut self.now));
        missed.extend(self.before.missed.iter().cloned());
        let told = missed.into_iter().map(|peer| {
            let followed = tallies.values().filter(|counted| counted.followers.contains(&peer));
            let told = followed.map(|counted| counted.tally.clone()).collect::<Vec<_>>();
            (peer, told)
        });
        told.filter(|(_, tallies)| !tallies.is_empty()).collect()
    }
}

/// What came of a topic, by who published it.
#[derive(Debug, Default)]
pub struct Arrived {
    senders: HashMap<PeerId, Sender>,
    numbers: usize,
}

#[derive(Debug)]
struct Sender {
    /// Sequence numbers that no tally has told of yet.
    numbers: VecDeque<u64>,
    /// The highest number of those that there was no room for.
    forgotten: Option<u64>,
    /// The highest number that a tally told of.
    told: Option<u64>,
    may_lose: Bucket,
}

impl Arrived {
    /// Counts a message.
    pub fn note(&mut self, now: MonoMs, sender: &PeerId, number: u64) {
        if !self.senders.contains_key(sender) {
            if self.senders.len() >= MAX_SENDERS {
                let idle = self.senders.iter().find(|(_, sender)| sender.numbers.is_empty());
                let Some(idle) = idle.map(|(id, _)| id.clone()) else { return };
                self.senders.remove(&idle);
            }
            let may_lose = Bucket::full(now, LOST_AT_FIRST);
            let new = Sender { numbers: VecDeque::new(), forgotten: None, told: None, may_lose };
            self.senders.insert(sender.clone(), new);
        }
        if let Some(sender) = self.senders.get_mut(sender) {
            sender.numbers.push_back(number);
            self.numbers = self.numbers.saturating_add(1);
        }
        if self.numbers > MAX_NUMBERS
            // Whoever sends most has itself to blame.
            && let Some(busiest) = self.senders.values_mut().max_by_key(|sender| sender.numbers.len())
            && let Some(oldest) = busiest.numbers.pop_front()
        {
            busiest.forgotten = busiest.forgotten.max(Some(oldest));
            self.numbers = self.numbers.saturating_sub(1);
        }
    }

    /// How many of the messages that a publisher tells of never came. None where that cannot be known, and of one that was never heard: a
    /// stranger can say anything.
    pub fn lost(&mut self, now: MonoMs, sender: &PeerId, tally: &Tally) -> u64 {
        let Some(sender) = self.senders.get_mut(sender) else { return 0 };
        if tally.last < tally.first || sender.told.is_some_and(|told| tally.first <= told) {
            return 0;
        }
        let all_known = sender.forgotten.is_none_or(|forgotten| forgotten < tally.first);
        let came = sender.numbers.iter().filter(|number| (tally.first..=tally.last).contains(number)).count();
        let kept = sender.numbers.len();
        sender.numbers.retain(|number| *number > tally.last);
        self.numbers = self.numbers.saturating_sub(kept.saturating_sub(sender.numbers.len()));
        sender.told = Some(tally.last);
        if !all_known {
            return 0;
        }
        let count = tally.count.min((tally.last - tally.first).saturating_add(1));
        let lost = count.saturating_sub(u64::try_from(came).unwrap_or(u64::MAX));
        sender.may_lose.take_up_to(now, u32::try_from(lost).unwrap_or(u32::MAX), LOST, LOST_AT_ONCE).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: MonoMs = MonoMs(1_000);

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    fn tally(first: u64, last: u64, count: u64) -> Tally {
        Tally { topic: "town".into(), first, last, count }
    }

    #[test]
    fn an_interval_is_told_to_whoever_missed_something_in_it_or_in_the_next() {
        let all = || HashSet::from([peer(1), peer(2), peer(3)]);
        let mut published = Published::default();
        published.note("town", 5, all);
        published.note("other", 6, || HashSet::from([peer(2), peer(3)]));
        published.note("town", 7, || unreachable!("known already"));
        published.missed(peer(1));
        assert!(published.turn().is_empty(), "an interval later");
        published.note("town", 8, all);
        published.missed(peer(2));
        let mut told = published.turn();
        assert_eq!(told.remove(&peer(1)), Some(vec![tally(5, 7, 2)]), "it did not follow the other");
        let mut two = told.remove(&peer(2)).unwrap();
        two.sort_by_key(|tally| tally.first);
        assert_eq!(two, [tally(5, 7, 2), Tally { topic: "other".into(), ..tally(6, 6, 1) }]);
        assert!(told.is_empty(), "the third got all");
        assert_eq!(published.turn(), HashMap::from([(peer(2), vec![tally(8, 8, 1)])]));
        assert!(published.turn().is_empty());
        published.missed(peer(1));
        (0..300).for_each(|n| published.note(&n.to_string(), n, all));
        published.turn();
        assert_eq!(published.turn()[&peer(1)].len(), MAX_TOPICS);
    }

    #[test]
    fn what_cannot_be_known_is_not_told() {
        let mut arrived = Arrived::default();
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(1, 9, 9)), 0, "it was never heard");
        arrived.note(NOW, &peer(1), 5);
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(3, 9, 7)), 6);
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(3, 9, 7)), 0, "told already");
        arrived.note(NOW, &peer(1), 12);
        assert_eq!(arrived.lost(NOW, &peer(2), &tally(10, 19, 10)), 0, "another has sent nothing");
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(10, 19, 10)), 9);
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(30, 20, 10)), 0, "no range");
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(20, 29, 1_000)), 10, "no more than there are numbers");
        let left = u64::from(LOST_AT_FIRST) - 25;
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(30, u64::MAX, u64::MAX)), left);
        assert_eq!(arrived.lost(NOW, &peer(1), &tally(40, u64::MAX, u64::MAX)), 0);
    }

    #[test]
    fn a_liar_makes_up_so_many_a_second() {
        let mut arrived = Arrived::default();
        arrived.note(NOW, &peer(1), 1);
        let mut lies =
            |ms, n: u64| arrived.lost(MonoMs(ms), &peer(1), &tally(n << 32, (n << 32) + (1 << 31), u64::MAX));
        assert_eq!([lies(1_000, 1), lies(1_000, 2), lies(2_000, 3)], [LOST_AT_FIRST, 0, LOST].map(u64::from));
        assert_eq!(lies(10_000_000, 4), LOST_AT_ONCE.into());
    }

    #[test]
    fn who_sends_most_takes_no_room_from_others() {
        let mut arrived = Arrived::default();
        arrived.note(NOW, &peer(1), 1);
        arrived.note(NOW, &peer(1), 2);
        let most = MAX_NUMBERS as u64;
        (0..most).for_each(|number| arrived.note(NOW, &peer(2), number));
        assert_eq!((arrived.numbers, arrived.lost(NOW, &peer(1), &tally(2, 4, 3))), (MAX_NUMBERS, 2));
        assert_eq!(arrived.numbers, MAX_NUMBERS - 2, "what a tally told of is let go of");
        assert_eq!(arrived.lost(NOW, &peer(2), &tally(1, most, most)), 0, "its oldest numbers are forgotten");
        assert_eq!(arrived.lost(NOW, &peer(2), &tally(most + 1, most + 3, 3)), 3, "and then it is counted again");
        for n in 3..=250 {
            arrived.note(NOW, &peer(n), 1);
        }
        assert_eq!(arrived.senders.len(), MAX_SENDERS);
        assert!(arrived.senders.contains_key(&peer(3)) && !arrived.senders.contains_key(&peer(1)), "the idle one goes");
    }

    proptest! {
        /// Whatever comes, in whatever order, all is had or told as lost.
        #[test]
        fn what_came_and_what_was_lost_is_all(came in prop::collection::vec(any::<bool>(), 1..200), every in 1usize..20) {
            let (mut published, mut arrived) = (Published::default(), Arrived::default());
            let (mut had, mut lost) = (1, 0);
            arrived.note(NOW, &peer(1), 99);
            let tell = |arrived: &mut Arrived, told: HashMap<PeerId, Vec<Tally>>| -> u64 {
                told.values().flatten().map(|tally| arrived.lost(NOW, &peer(1), tally)).sum()
            };
            for (number, comes) in came.iter().enumerate() {
                published.note("town", 100 + number as u64, || HashSet::from([peer(7)]));
                published.missed(peer(7));
                if *comes {
                    arrived.note(NOW, &peer(1), 100 + number as u64);
                    had += 1;
                }
                if number % every == 0 {
                    lost += tell(&mut arrived, published.turn());
                }
            }
            for _ in 0..2 {
                lost += tell(&mut arrived, published.turn());
            }
            prop_assert_eq!(had + lost, 1 + came.len() as u64);
        }
    }
}
