//! Which groups of a stream are missing and when to ask a peer for them. Gossipsub's own repair comes with its
//! heartbeat, a second later, which is too late for live audio. Nor can we wait until a later group shows the hole: the
//! listener's buffer is shorter than a group. The media time tells when the next one should have come.

use std::{collections::BTreeMap, ops::RangeInclusive};

use p2pd_core::time::MonoMs;

/// How long a missing number may still come by gossip before it is asked for, in milliseconds.
const PATIENCE_MS: u64 = 30;
/// Time between two askings for the same number, in milliseconds.
const RETRY_MS: u64 = 150;
/// How long a number is worth asking for, in milliseconds.
const GIVE_UP_MS: u64 = 2_000;
/// Silence after which the numbers to come are asked for, in milliseconds.
const SILENCE_MS: u64 = 350;
/// How long silence is taken for a fault rather than for the publisher's end, in milliseconds.
const SILENCE_MAX_MS: u64 = 15_000;
/// Most numbers asked for at once.
const MAX_ASK: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: MonoMs,
    asked: Option<MonoMs>,
}

impl Missing {
    fn next(&self) -> MonoMs {
        let (from, wait) = self.asked.map_or((self.since, PATIENCE_MS), |at| (at, RETRY_MS));
        MonoMs(from.0.saturating_add(wait))
    }
}

/// When groups come: arrival minus media time, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    newest_pts: u64,
    /// Media time of one group, in 48 kHz ticks; 0 until two have come.
    period: u64,
    /// The smallest delay, and how much more it is on average.
    fastest: i64,
    spread: i64,
}

fn ms(ticks: u64) -> i64 {
    i64::try_from(ticks / 48).unwrap_or(i64::MAX)
}

impl Clock {
    fn begin(now: MonoMs, pts: u64) -> Self {
        Clock { newest_pts: pts, fastest: Self::delay(now, pts), ..Clock::default() }
    }

    fn delay(now: MonoMs, pts: u64) -> i64 {
        i64::try_from(now.0).unwrap_or(i64::MAX).saturating_sub(ms(pts))
    }

    fn arrived(&mut self, now: MonoMs, pts: u64, groups: u64) {
        self.period = pts.saturating_sub(self.newest_pts).checked_div(groups).unwrap_or(0);
        self.newest_pts = pts;
        let delay = Self::delay(now, pts);
        // A millisecond more each time lets it follow a clock that drifts.
        self.fastest = delay.min(self.fastest.saturating_add(1));
        self.spread = self.spread.saturating_mul(7).saturating_add(delay.saturating_sub(self.fastest)) / 8;
    }

    /// When the next group will be later than most are; never before two have come.
    fn overdue(&self) -> Option<MonoMs> {
        let next = ms(self.newest_pts.saturating_add(self.period));
        let patience = self.spread.saturating_mul(2).saturating_add_unsigned(PATIENCE_MS);
        let at = self.fastest.saturating_add(next).saturating_add(patience);
        (self.period > 0).then(|| MonoMs(u64::try_from(at).unwrap_or(0)))
    }
}

/// The missing numbers of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    epoch: u64,
    newest: Option<u64>,
    heard: MonoMs,
    asked_ahead: MonoMs,
    /// The last number asked for before it was known to exist.
    ahead_to: Option<u64>,
    clock: Clock,
    missing: BTreeMap<u64, Missing>,
}

impl Repair {
    /// Notes a group that was taken, and its media time in 48 kHz ticks. Tells whether it had been asked for.
    pub(super) fn arrived(&mut self, now: MonoMs, epoch: u64, seq: u64, pts: u64) -> bool {
        let newest = match self.newest {
            Some(newest) if epoch == self.epoch => newest,
            Some(_) if epoch < self.epoch => return false,
            _ => {
                let clock = Clock::begin(now, pts);
                *self = Repair { epoch, newest: Some(seq), heard: now, clock, ..Repair::default() };
                return false;
            }
        };
        let missed = self.missing.remove(&seq).is_some_and(|missing| missing.asked.is_some());
        let ahead = seq > newest && self.ahead_to.is_some_and(|last| seq <= last);
        if seq > newest {
            let from = newest.saturating_add(1).max(seq.saturating_sub(MAX_ASK));
            self.missing.extend((from..seq).map(|n| (n, Missing { since: now, asked: None })));
            self.clock.arrived(now, pts, seq.saturating_sub(newest));
            (self.newest, self.heard) = (Some(seq), now);
        }
        missed || ahead
    }

    /// When `due` may have something next.
    pub(super) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        let missing = self.missing.values().map(Missing::next).min();
        let retry = MonoMs(self.asked_ahead.0.saturating_add(RETRY_MS));
        let silence = MonoMs(self.heard.0.saturating_add(SILENCE_MS));
        let heard = self.newest.filter(|_| now.since(self.heard) < SILENCE_MAX_MS);
        let ahead = heard.map(|_| self.clock.overdue().unwrap_or(silence).min(silence).max(retry));
        missing.into_iter().chain(ahead).min()
    }

    /// The epoch and the numbers to ask for now, each range at most 64 long.
    pub(super) fn due(&mut self, now: MonoMs) -> Vec<(u64, RangeInclusive<u64>)> {
        self.missing.retain(|_, m| now.since(m.since) < GIVE_UP_MS);
        let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
        for (seq, missing) in &mut self.missing {
            if now < missing.next() {
                continue;
            }
            missing.asked = Some(now);
            match ranges.last_mut() {
                Some(last) if *last.end() + 1 == *seq => *last = *last.start()..=*seq,
                _ => ranges.push(*seq..=*seq),
            }
        }
        if let Some(newest) = self.newest {
            let silent = now.since(self.heard);
            let overdue = silent >= SILENCE_MS || self.clock.overdue().is_some_and(|at| now >= at);
            if overdue && silent < SILENCE_MAX_MS && now.since(self.asked_ahead) >= RETRY_MS {
                self.asked_ahead = now;
                let last = newest.saturating_add(if silent >= SILENCE_MS { MAX_ASK } else { 1 });
                self.ahead_to = Some(last);
                ranges.push(newest.saturating_add(1)..=last);
            }
        }
        ranges.into_iter().map(|range| (self.epoch, range)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(repair: &mut Repair, now: u64, seq: u64) {
        repair.arrived(MonoMs(now), 1, seq, seq * 4_800);
    }

    #[test]
    fn asks_once_for_what_is_missing_and_gives_up() {
        let mut repair = Repair::default();
        arrive(&mut repair, 1_000, 10);
        arrive(&mut repair, 1_400, 14);
        assert_eq!(repair.due(MonoMs(1_400)), [], "gossip may still bring them");
        arrive(&mut repair, 1_420, 12);
        assert_eq!(repair.due(MonoMs(1_430)), [(1, 11..=11), (1, 13..=13)]);
        assert_eq!(repair.due(MonoMs(1_450)), []);
        arrive(&mut repair, 1_460, 11);
        arrive(&mut repair, 1_500, 15);
        assert_eq!(repair.due(MonoMs(1_580)), [(1, 13..=13)]);
        for seq in 16..40 {
            arrive(&mut repair, seq * 100, seq);
        }
        assert_eq!(repair.due(MonoMs(3_900)), [], "13 is too old to matter");
    }

    #[test]
    fn asks_for_the_next_as_soon_as_it_is_overdue() {
        let mut repair = Repair::default();
        for seq in 0..20 {
            arrive(&mut repair, seq * 100 + 5, seq);
        }
        assert_eq!(repair.due(MonoMs(2_010)), [], "it may come any moment");
        assert_eq!(repair.due(MonoMs(2_040)), [(1, 20..=20)]);
        assert_eq!(repair.due(MonoMs(2_050)), []);
        // On a path where groups come unevenly, later.
        let mut uneven = Repair::default();
        for seq in 0..40 {
            arrive(&mut uneven, seq * 100 + seq % 4 * 30, seq);
        }
        assert_eq!(uneven.due(MonoMs(4_050)), []);
    }

    #[test]
    fn asks_ahead_when_all_is_silent() {
        let mut repair = Repair::default();
        assert_eq!(repair.due(MonoMs(5_000)), [], "nothing was ever heard");
        arrive(&mut repair, 5_000, 7);
        assert_eq!(repair.due(MonoMs(5_400)), [(1, 8..=71)]);
        assert_eq!(repair.due(MonoMs(30_000)), [], "the publisher is gone");
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_no_harm() {
        let mut repair = Repair::default();
        repair.arrived(MonoMs(u64::MAX), 1, u64::MAX - 1, u64::MAX);
        repair.arrived(MonoMs(0), 1, u64::MAX, 0);
        repair.due(MonoMs(u64::MAX));
        repair.due(MonoMs(500));
    }

    /// Group `seq` of 100 ms comes so many milliseconds after its media time; whether it had been asked for.
    fn comes(repair: &mut Repair, seq: u64, after: u64) -> bool {
        repair.arrived(MonoMs(seq * 100 + after), 1, seq, seq * 4_800)
    }

    #[test]
    fn what_is_missing_is_asked_for_again_and_again_for_two_seconds() {
        let mut repair = Repair::default();
        comes(&mut repair, 10, 0);
        comes(&mut repair, 12, 0);
        let asks = |now| repair.clone().due(MonoMs(now)).iter().any(|(_, range)| range.contains(&11));
        assert_eq!([asks(1_229), asks(1_230), asks(3_199), asks(3_200)], [false, true, true, false]);
        let mut asked = Vec::new();
        let mut now = MonoMs(1_200);
        // Whoever sleeps until it is time misses nothing.
        while let Some(wake) = repair.wake(now).filter(|wake| wake.0 < 4_000) {
            assert!(wake > now, "{wake:?} after {now:?}");
            assert_eq!(repair.due(MonoMs(wake.0 - 1)), [], "before {wake:?}");
            now = wake;
            asked.extend(repair.due(now).into_iter().filter(|(_, range)| range.contains(&11)).map(|_| now.0));
        }
        assert_eq!(asked, (0..14).map(|n| 1_230 + n * 150).filter(|at| *at < 3_200).collect::<Vec<_>>());
    }

    #[test]
    fn the_next_group_is_asked_for_alone_and_in_silence_all_that_may_have_come() {
        let mut repair = Repair::default();
        comes(&mut repair, 10, 0);
        comes(&mut repair, 11, 0);
        let mut due =
            |now| repair.due(MonoMs(now)).into_iter().map(|(_, range)| range.into_inner()).collect::<Vec<_>>();
        assert_eq!([due(1_229), due(1_230), due(1_379), due(1_380)], [vec![], vec![(12, 12)], vec![], vec![(12, 12)]]);
        assert_eq!([due(1_449), due(1_530)], [vec![], vec![(12, 75)]]);
        assert_eq!((repair.clone().due(MonoMs(16_099)).len(), repair.clone().due(MonoMs(16_100)).len()), (1, 0));
        assert_eq!(
            (repair.wake(MonoMs(16_099)).is_some(), repair.wake(MonoMs(16_100))),
            (true, None),
            "the publisher is gone"
        );
    }

    #[test]
    fn silence_begins_after_350_milliseconds() {
        let mut repair = Repair::default();
        comes(&mut repair, 10, 0);
        assert_eq!(repair.wake(MonoMs(1_000)), Some(MonoMs(1_350)), "one group tells no period");
        assert_eq!(repair.due(MonoMs(1_349)), []);
        assert_eq!(repair.due(MonoMs(1_350)), [(1, 11..=74)]);
        assert_eq!(repair.wake(MonoMs(1_350)), Some(MonoMs(1_500)));
    }

    #[test]
    fn a_group_counts_as_repaired_only_if_it_was_asked_for() {
        let mut repair = Repair::default();
        assert!(!comes(&mut repair, 10, 0) && !comes(&mut repair, 13, 0));
        assert!(!comes(&mut repair, 11, 210), "gossip brought it in time");
        repair.due(MonoMs(1_330));
        assert!(comes(&mut repair, 12, 140) && !comes(&mut repair, 12, 150), "once");
        // 14 was overdue and is asked for; 15 was not.
        assert_eq!(repair.due(MonoMs(1_440)), [(1, 14..=14)]);
        assert!(comes(&mut repair, 14, 50) && !comes(&mut repair, 15, 0));
        assert!(!comes(&mut repair, 9, 700), "it came before");
    }

    #[test]
    fn of_a_long_hole_the_last_64_are_asked_for_at_once() {
        let mut repair = Repair::default();
        comes(&mut repair, 10, 0);
        comes(&mut repair, 100, 0);
        assert_eq!(repair.due(MonoMs(10_030)), [(1, 36..=99)]);
    }

    #[test]
    fn an_epoch_begins_anew_and_one_before_it_changes_nothing() {
        let mut repair = Repair::default();
        comes(&mut repair, 10, 0);
        comes(&mut repair, 12, 0);
        assert!(!repair.arrived(MonoMs(1_210), 2, 5, 0));
        assert_eq!(repair.due(MonoMs(1_240)), [], "what is missing of the old one is missed by nobody");
        assert!(!repair.arrived(MonoMs(1_250), 1, 20, 96_000));
        assert_eq!(repair.due(MonoMs(1_280)), []);
        assert_eq!(repair.due(MonoMs(1_560)), [(2, 6..=69)], "350 ms after the newest of the new one");
    }

    #[test]
    fn a_group_is_overdue_by_the_usual_spread() {
        let mut repair = Repair::default();
        comes(&mut repair, 0, 0);
        // 80 ms late: the fastest goes up by one, and an eighth of 79 is the spread.
        comes(&mut repair, 1, 80);
        assert_eq!(repair.wake(MonoMs(180)), Some(MonoMs(1 + 200 + 2 * 9 + 30)));
        comes(&mut repair, 2, 1);
        assert_eq!(repair.wake(MonoMs(201)), Some(MonoMs(1 + 300 + 2 * 7 + 30)));
        // One that comes earlier than any before.
        repair.arrived(MonoMs(298), 1, 3, 14_400);
        assert_eq!(repair.wake(MonoMs(298)), Some(MonoMs(400 - 2 + 2 * 6 + 30)));
    }

    #[test]
    fn media_time_may_begin_at_any_time() {
        for (began, pts) in [(1_000_000, 0), (0, 48_000_000)] {
            let mut repair = Repair::default();
            repair.arrived(MonoMs(began), 1, 0, pts);
            repair.arrived(MonoMs(began + 100), 1, 1, pts + 4_800);
            assert_eq!(repair.wake(MonoMs(began + 100)), Some(MonoMs(began + 230)), "{began} {pts}");
        }
    }
}
