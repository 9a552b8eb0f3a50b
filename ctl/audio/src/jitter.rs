//! The jitter buffer: groups arrive in any order, frames leave in order when they are due. Pure: time is an argument, in
//! microseconds; `now` is monotonic, `wall` since 1970.
//!
//! The target is how far behind the fastest arrival it plays: the 95th percentile of the delays beyond the fastest, plus a
//! frame. Once a group came too late to be played, it is at least what that group would have needed, for some minutes. It
//! rises at once and falls slowly. An empty buffer fills to the target before it goes on. After a long cut it plays live
//! again at once and skips what it missed, unless it is for a recording.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    playout::{Arrival, Frame, Playout},
    stats::Stats,
    ticks::to_us as us,
};

const FRAME_US: u64 = 20_000;
/// The longest concealment at once, and the shortest frame of Opus, in ticks.
const LONGEST_CONCEALED: u64 = 960;
const SHORTEST_FRAME: u64 = 120;
/// Shortest target, beside half a group: time for a daemon to see that a group is missing and to fetch it.
const FLOOR_US: u64 = 30_000;
/// Arrivals that the spread is computed from; half a minute of default groups.
const ARRIVALS: usize = 300;
/// How fast the target falls, in microseconds per second.
const FALL_US_PER_S: u64 = 20_000;
/// How fast the need of a late group is forgotten, in microseconds per second: 200 ms last for minutes, since rare stalls
/// of a path recur.
const FORGET_US_PER_S: u64 = 500;
/// A hole longer than this is skipped, not concealed, and a group later than this belongs to the past. If only such groups
/// come for as long, the path has become longer.
const SKIP_US: u64 = 1_000_000;
/// Most frames held: a minute.
const MAX_FRAMES: usize = 3000;

struct Held {
    packet: Vec<u8>,
    ticks: u64,
    captured: u64,
}

/// A lateness, and when it was seen, microseconds.
struct Late {
    by: u64,
    at: u64,
}

/// The start of an epoch, to tell the drift by.
#[derive(Clone, Copy)]
struct Origin {
    /// Monotonic time.
    began: u64,
    /// Smallest delay then.
    fastest: i64,
}

/// Numbers of the groups of an epoch.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    newest: u64,
}

/// The buffer.
pub struct Jitter {
    recording: bool,
    ceiling: u64,
    floor: u64,
    target: u64,
    fell: u64,
    /// What the latest late group would have needed.
    late: Late,
    origin: Option<Origin>,
    epoch: Option<u64>,
    span: Option<Span>,
    seen: VecDeque<u64>,
    frames: BTreeMap<u64, Held>,
    /// Since when only groups of the past, as `SKIP_US` has it, have come.
    past: Option<u64>,
    /// Media time that is due next, once playing.
    next: Option<u64>,
    /// Arrival minus media time of the recent groups, and the smallest of them.
    delays: VecDeque<i64>,
    fastest: i64,
    empty: bool,
    /// Counts.
    pub stats: Stats,
}

/// How long after its media time something came; only differences mean anything.
fn delay(now: u64, pts: u64) -> i64 {
    signed(now).saturating_sub(signed(us(pts)))
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

impl Jitter {
    /// A buffer that never plays more than `ceiling_us` behind the fastest arrival.
    pub fn new(ceiling_us: u64) -> Self {
        Jitter {
            recording: false,
            ceiling: ceiling_us,
            floor: FLOOR_US,
            target: FLOOR_US,
            fell: 0,
            late: Late { by: 0, at: 0 },
            origin: None,
            epoch: None,
            span: None,
            seen: VecDeque::new(),
            frames: BTreeMap::new(),
            past: None,
            next: None,
            delays: VecDeque::new(),
            fastest: 0,
            empty: false,
            stats: Stats::default(),
        }
    }

    /// For a recording: plays groups however late they come.
    pub fn recording(self) -> Self {
        Jitter { recording: true, ..self }
    }

    /// Takes a group. Returns `Restart` if it begins a new epoch.
    pub fn insert(&mut self, now: u64, arrival: Arrival) -> Option<Playout> {
        let restarted = match self.epoch {
            Some(epoch) if arrival.epoch < epoch => return None,
            Some(epoch) => arrival.epoch > epoch,
            None => false,
        };
        if restarted {
            self.frames.clear();
            self.seen.clear();
            self.delays.clear();
            self.origin = None;
            self.next = None;
            self.span = None;
            self.empty = false;
            self.stats.restarts += 1;
        }
        self.epoch = Some(arrival.epoch);
        if self.seen.contains(&arrival.seq) {
            self.stats.duplicates += 1;
            return restarted.then_some(Playout::Restart);
        }
        self.seen.push_back(arrival.seq);
        if self.seen.len() > 2 * ARRIVALS {
            self.seen.pop_front();
        }
        self.stats.groups += 1;
        self.account(arrival.seq);
        let late_by = self.late_by(now, arrival.pts);
        if self.is_past(now, late_by) {
            return restarted.then_some(Playout::Restart);
        }
        let late_before = self.stats.late;
        let mut media_time = arrival.pts;
        let mut captured = arrival.capture_us;
        for Frame { packet, ticks } in arrival.frames {
            if self.next.is_some_and(|next| media_time < next) {
                self.stats.late += 1;
            } else if self.frames.len() < MAX_FRAMES {
                self.frames.insert(media_time, Held { packet, ticks, captured });
            }
            media_time = media_time.saturating_add(ticks);
            captured = captured.saturating_add(us(ticks));
        }
        let length = us(media_time.saturating_sub(arrival.pts));
        self.floor = (FLOOR_US + length / 2).min(self.ceiling);
        // A cut says nothing about the delays of the path.
        if late_by < SKIP_US || self.delays.is_empty() {
            self.learn(now, arrival.pts, self.stats.late > late_before);
        }
        restarted.then_some(Playout::Restart)
    }

    /// Counts the holes that a group leaves before it, or the one that it fills.
    fn account(&mut self, seq: u64) {
        let Span { first, newest } = self.span.unwrap_or(Span { first: seq, newest: seq });
        if seq < newest {
            self.stats.reordered += 1;
        }
        if (first..newest).contains(&seq) {
            self.stats.lost = self.stats.lost.saturating_sub(1);
        } else if seq > newest {
            self.stats.lost += seq - newest - 1;
        }
        self.span = Some(Span { first, newest: newest.max(seq) });
    }

    /// How much later than the fastest this came.
    fn late_by(&self, now: u64, pts: u64) -> u64 {
        if self.delays.is_empty() { 0 } else { u64::try_from(delay(now, pts) - self.fastest).unwrap_or(0) }
    }

    /// Whether a group belongs to the past, after a cut. If only such groups come for a while, begins anew with them.
    fn is_past(&mut self, now: u64, late_by: u64) -> bool {
        // The end of a delayed burst belongs to the past, too.
        let most = if self.past.is_some() { self.target } else { SKIP_US };
        if self.recording || self.next.is_none() || late_by < most {
            self.past = None;
            return false;
        }
        if now.saturating_sub(*self.past.get_or_insert(now)) < SKIP_US {
            return true;
        }
        self.past = None;
        self.frames.clear();
        self.delays.clear();
        self.origin = None;
        self.next = None;
        false
    }

    fn learn(&mut self, now: u64, pts: u64, late: bool) {
        let delay = delay(now, pts);
        // A burst of the past says nothing about the network.
        if self.next.is_none() {
            self.delays.clear();
        }
        self.delays.push_back(delay);
        if self.delays.len() > ARRIVALS {
            self.delays.pop_front();
        }
        let fastest = self.delays.iter().copied().min().unwrap_or(delay);
        self.fastest = fastest;
        let mut spread: Vec<u64> = self.delays.iter().map(|d| d.abs_diff(fastest)).collect();
        spread.sort_unstable();
        let p95 = spread.get(spread.len() * 95 / 100).copied().unwrap_or(0);
        self.stats.spread_us = p95;
        let lateness = delay.abs_diff(fastest);
        let mut remembered =
            self.late.by.saturating_sub(now.saturating_sub(self.late.at) * FORGET_US_PER_S / 1_000_000);
        if (late || remembered > 0) && lateness >= remembered {
            (self.late, remembered) = (Late { by: lateness, at: now }, lateness);
        }
        let wanted = (p95.max(remembered) + FRAME_US).clamp(self.floor, self.ceiling.max(self.floor));
        self.drift(now, fastest);
        if wanted >= self.target {
            (self.target, self.fell) = (wanted, now);
        } else {
            let fall = now.saturating_sub(self.fell).saturating_mul(FALL_US_PER_S) / 1_000_000;
            if fall > 0 {
                self.target = self.target.saturating_sub(fall).max(wanted);
                self.fell = now;
            }
        }
    }

    /// How much faster the publisher's clock runs than ours, told by how the smallest delay moves.
    fn drift(&mut self, now: u64, fastest: i64) {
        if self.delays.len() < ARRIVALS {
            return;
        }
        let Origin { began, fastest: first } = *self.origin.get_or_insert(Origin { began: now, fastest });
        let elapsed = now.saturating_sub(began);
        if elapsed > 30_000_000 {
            self.stats.drift_ppm = Some((first - fastest) as f64 / elapsed as f64 * 1e6);
        }
    }

    /// When media time `pts` is due; before 0 for what was due before our clock began.
    fn due(&self, pts: u64) -> i64 {
        self.fastest.saturating_add_unsigned(us(pts)).saturating_add_unsigned(self.target)
    }

    /// When to call `pull` next.
    pub fn next_due(&self, now: u64) -> u64 {
        match self.next {
            Some(next) if !self.empty => u64::try_from(self.due(next)).unwrap_or(0).max(now),
            _ => now.saturating_add(FRAME_US / 4),
        }
    }

    /// What is due by now.
    pub fn pull(&mut self, now: u64, wall: u64) -> Vec<Playout> {
        let mut out = Vec::new();
        if self.next.is_none() && !self.begin(now) {
            return out;
        }
        while let Some(next) = self.next {
            if self.due(next) > signed(now) {
                break;
            }
            if let Some(held) = self.frames.remove(&next) {
                self.stats.played += 1;
                self.stats.latency(wall.saturating_sub(held.captured));
                self.next = Some(next.saturating_add(held.ticks));
                self.count_underrun();
                out.push(Playout::Frame { pts: next, packet: held.packet });
                continue;
            }
            // Earlier frames overlap played ones. Frames of an honest publisher do not overlap.
            self.drop_before(next);
            let Some(later) = self.frames.keys().next().copied() else {
                self.empty = true;
                break;
            };
            let hole = later.saturating_sub(next);
            if us(hole) > SKIP_US {
                self.stats.skipped += hole / 960;
                // After a cut the burst is the past: play as close to live as the target allows.
                self.begin(now);
            } else {
                let ticks = hole.min(LONGEST_CONCEALED) / SHORTEST_FRAME * SHORTEST_FRAME;
                self.next = Some(if ticks == 0 { later } else { next.saturating_add(ticks) });
                self.count_underrun();
                if ticks > 0 {
                    self.stats.concealed += 1;
                    out.push(Playout::Conceal { pts: next, ticks });
                }
            }
        }
        out
    }

    /// Counts the time without frames that ends now. At the end of a stream none follows, and nothing is counted.
    fn count_underrun(&mut self) {
        self.stats.underruns += u64::from(std::mem::take(&mut self.empty));
    }

    fn drop_before(&mut self, next: u64) {
        while let Some(first) = self.frames.first_entry().filter(|first| *first.key() < next) {
            first.remove();
            self.stats.late += 1;
        }
    }

    /// Plays the rest at once, at the end of a stream.
    pub fn drain(&mut self, wall: u64) -> Vec<Playout> {
        let mut out = Vec::new();
        while let Some(first) = self.frames.keys().next().copied() {
            self.next.get_or_insert(first);
            out.extend(self.pull(u64::MAX, wall));
        }
        out
    }

    /// Begins with the oldest frame that is not past its time; false while there is none.
    fn begin(&mut self, now: u64) -> bool {
        let from =
            self.frames.keys().copied().find(|pts| self.due(*pts).saturating_add_unsigned(FRAME_US) > signed(now));
        if let Some(from) = from {
            self.frames = self.frames.split_off(&from);
        }
        self.next = from;
        from.is_some()
    }

    /// The target now, in microseconds.
    pub fn target_us(&self) -> u64 {
        self.target
    }

    /// What is held, in microseconds.
    pub fn held_us(&self) -> u64 {
        self.frames.values().map(|held| us(held.ticks)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(seq: u64) -> Arrival {
        let frames = (0..5).map(|n| Frame { packet: vec![(seq % 250) as u8, n], ticks: 960 }).collect();
        Arrival { epoch: 1, seq, pts: seq * 4800, capture_us: seq * 100_000, frames }
    }

    /// Plays groups that arrive at the given times; returns what was played and the counts.
    fn play(mut arrivals: Vec<(u64, u64)>, until: u64) -> (Vec<u64>, Stats) {
        arrivals.sort_unstable();
        let (mut jitter, mut played, mut next) = (Jitter::new(2_000_000), Vec::new(), 0);
        for now in (0..until).step_by(5_000) {
            while let Some((at, seq)) = arrivals.get(next).filter(|(at, _)| *at <= now) {
                jitter.insert(*at, group(*seq));
                next += 1;
            }
            for out in jitter.pull(now, now) {
                if let Playout::Frame { pts, .. } = out {
                    played.push(pts / 960);
                }
            }
        }
        (played, jitter.stats)
    }

    /// A group of 100 ms leaves when its last sample was captured.
    fn leaves(seq: u64) -> u64 {
        (seq + 1) * 100_000
    }

    proptest! {
        /// Whatever a publisher says of its media time, playing it ends.
        #[test]
        fn no_stream_holds_the_buffer_up(
            frames in prop::collection::vec((0u64..20_000, 0u64..6_000, 1usize..6), 1..60), step in 1_000u64..50_000,
        ) {
            let mut jitter = Jitter::new(2_000_000);
            for (n, (pts, ticks, count)) in frames.into_iter().enumerate() {
                let now = n as u64 * step;
                let frames = (0..count).map(|_| Frame { packet: vec![1], ticks }).collect();
                jitter.insert(now, Arrival { epoch: 1, seq: n as u64, pts, capture_us: 0, frames });
                prop_assert!(jitter.pull(now, now).len() < 10_000);
            }
            prop_assert!(jitter.drain(0).len() < 10_000);
        }
    }

    #[test]
    fn a_clean_path_plays_everything_in_order_and_soon() {
        let (played, stats) = play((0..100).map(|n| (leaves(n) + 10_000, n)).collect(), 10_500_000);
        assert_eq!(played, (0..500).collect::<Vec<_>>());
        assert_eq!((stats.concealed, stats.late, stats.underruns), (0, 0, 0), "empty only at the end");
        assert!(stats.median_latency_us().unwrap() <= 200_000, "{:?}", stats.median_latency_us());
    }

    #[test]
    fn an_underrun_counts_also_where_a_hole_follows() {
        // Nothing for half a second; then the group behind a missing one.
        let at = |n: u64| leaves(n) + if n < 10 { 0 } else { 500_000 };
        let (_, stats) = play((0..50).filter(|n| *n != 10).map(|n| (at(n), n)).collect(), 6_500_000);
        assert!(stats.concealed > 0, "{stats:?}");
        assert_eq!(stats.underruns, 1, "{stats:?}");
    }

    #[test]
    fn the_end_of_an_epoch_is_no_underrun() {
        let mut jitter = Jitter::new(2_000_000);
        for epoch in [1, 2] {
            let began = epoch * 10_000_000;
            for n in 0..20 {
                jitter.insert(began + leaves(n), Arrival { epoch, ..group(n) });
                jitter.pull(began + leaves(n), 0);
            }
            jitter.pull(began + 5_000_000, 0);
        }
        assert_eq!((jitter.stats.restarts, jitter.stats.underruns), (1, 0), "{:?}", jitter.stats);
    }

    #[test]
    fn a_missing_group_is_concealed_exactly() {
        let arrivals = (0..100).filter(|n| *n != 50).map(|n| (leaves(n), n)).collect();
        let (played, stats) = play(arrivals, 10_500_000);
        assert_eq!(stats.concealed, 5);
        assert_eq!(played.len(), 495);
    }

    #[test]
    fn stalls_raise_the_target_until_nothing_is_concealed() {
        // Every tenth group comes 200 ms late.
        let arrivals = (0..600).map(|n| (leaves(n) + if n % 10 == 9 { 200_000 } else { 0 }, n)).collect();
        let (_, stats) = play(arrivals, 60_500_000);
        assert!(stats.concealed <= 10, "{stats:?}");
    }

    #[test]
    fn rare_stalls_are_concealed_once_and_not_again() {
        // A quarter of an hour in which every fiftieth group, more or less, comes 200 ms late.
        let stalled = |n: u64| n * 2_654_435_761 % 50 == 7;
        let arrivals = (0..9_000).map(|n| (leaves(n) + if stalled(n) { 200_000 } else { 5_000 }, n)).collect();
        let (played, stats) = play(arrivals, 900_500_000);
        assert!(stats.concealed <= 10, "{stats:?}");
        assert!(played.len() as u64 + stats.concealed + stats.skipped >= 44_995);
        assert!(stats.median_latency_us().unwrap() < 400_000, "{:?}", stats.median_latency_us());
    }

    #[test]
    fn an_hour_of_drift_is_told_and_not_heard() {
        for ppm in [-200i64, 200] {
            // The publisher's clock is fast by so many parts per million: its groups come sooner and sooner.
            let at = |n: u64| (n + 1) * 100_000 * (1_000_000 - ppm).unsigned_abs() / 1_000_000 + 5_000 + n * 7 % 4_000;
            let (played, stats) = play((0..36_000).map(|n| (at(n), n)).collect(), 3_602_000_000);
            assert_eq!((played.len(), stats.concealed, stats.late), (180_000, 0, 0), "{stats:?}");
            assert_eq!(stats.underruns, 0, "empty only at the end");
            let told = stats.drift_ppm.unwrap();
            assert!((told - ppm as f64).abs() < 10.0, "{told} of {ppm}");
        }
    }

    #[test]
    fn after_a_cut_it_is_live_again() {
        let cut = (0..200).filter(|n| !(50..150).contains(n)).map(|n| (leaves(n), n)).collect();
        let (played, stats) = play(cut, 20_500_000);
        assert!(stats.skipped >= 490 && stats.concealed == 0, "{stats:?}");
        assert_eq!(played.last(), Some(&999));
        assert!(stats.median_latency_us().unwrap() < 250_000);
    }

    #[test]
    fn what_was_held_up_by_a_cut_is_not_played_late_but_recorded_whole() {
        // Ten seconds of groups come at once, then live ones.
        let at = |n: u64| if (50..150).contains(&n) { leaves(150) } else { leaves(n) };
        let run = |mut jitter: Jitter| {
            let (mut next, mut played) = (0, 0);
            for now in (0..23_000_000).step_by(5_000) {
                while next < 200 && at(next) <= now {
                    jitter.insert(now, group(next));
                    next += 1;
                }
                played += jitter.pull(now, now).iter().filter(|p| matches!(p, Playout::Frame { .. })).count();
            }
            (jitter.target_us(), jitter.stats.skipped, played)
        };
        let (target, skipped, played) = run(Jitter::new(2_000_000));
        assert!(target < 300_000, "{target}");
        assert!((450..=500).contains(&skipped) && (500..=550).contains(&played), "{skipped} {played}");
        let (_, skipped, played) = run(Jitter::new(2_000_000).recording());
        assert_eq!((skipped, played), (0, 1000));
    }

    #[test]
    fn a_way_that_stays_longer_is_played_again_after_a_second() {
        let (played, stats) =
            play((0..200).map(|n| (leaves(n) + if n < 50 { 0 } else { 5_000_000 }, n)).collect(), 26_000_000);
        assert!(played.len() > 900, "{} {stats:?}", played.len());
        assert_eq!(played.last(), Some(&999));
    }

    #[test]
    fn a_burst_starts_at_once_and_near_live() {
        let mut jitter = Jitter::new(2_000_000);
        (0..20).for_each(|n| {
            jitter.insert(leaves(19), group(n));
        });
        let first = jitter.pull(leaves(19), leaves(19));
        assert!(matches!(first.as_slice(), [Playout::Frame { .. }, ..]), "{first:?}");
        assert!(jitter.held_us() <= 100_000 + jitter.target_us(), "{}", jitter.held_us());
        // Also when our own clock has only begun, and what is old would have been due before that.
        let mut jitter = Jitter::new(2_000_000);
        (0..20).for_each(|n| {
            jitter.insert(1_000, group(n));
        });
        assert!(jitter.pull(2_000, 2_000).len() <= 2);
    }

    proptest! {
        #[test]
        fn frames_never_leave_out_of_order_or_twice(delays in prop::collection::vec(0u64..400_000, 1..80)) {
            let arrivals = delays.iter().enumerate().map(|(n, d)| (leaves(n as u64) + d, n as u64)).collect();
            let (played, stats) = play(arrivals, 12_000_000);
            prop_assert!(played.windows(2).all(|w| w[0] < w[1]), "{:?}", played);
            prop_assert!(stats.played as usize == played.len());
        }
    }

    fn conceals(played: &[Playout]) -> Vec<(u64, u64)> {
        let conceal = |out: &Playout| match out {
            Playout::Conceal { pts, ticks } => Some((*pts, *ticks)),
            _ => None,
        };
        played.iter().filter_map(conceal).collect()
    }

    #[test]
    fn what_comes_is_counted() {
        let mut jitter = Jitter::new(2_000_000);
        let mut insert = |epoch, seq| {
            let out = jitter.insert(0, Arrival { epoch, ..group(seq) });
            let Stats { groups, lost, duplicates, reordered, restarts, .. } = jitter.stats;
            (out, [groups, lost, duplicates, reordered, restarts])
        };
        for (epoch, seq, counts) in [
            (2, 5, [1, 0, 0, 0, 0]),
            (2, 8, [2, 2, 0, 0, 0]),
            (2, 6, [3, 1, 0, 1, 0]),
            (2, 6, [3, 1, 1, 1, 0]),
            (2, 3, [4, 1, 1, 2, 0]),
            (1, 9, [4, 1, 1, 2, 0]),
            (2, 9, [5, 1, 1, 2, 0]),
        ] {
            assert_eq!(insert(epoch, seq), (None, counts), "{epoch} {seq}");
        }
        assert_eq!(insert(3, 9), (Some(Playout::Restart), [6, 1, 1, 2, 1]));
        assert_eq!([insert(3, 13), insert(4, 0)], [(None, [7, 4, 1, 2, 1]), (Some(Playout::Restart), [8, 4, 1, 2, 2])]);
    }

    #[test]
    fn the_numbers_of_the_last_minute_are_remembered() {
        let mut jitter = Jitter::new(2_000_000);
        for seq in 0..601 {
            jitter.insert(0, group(seq));
        }
        assert_eq!(jitter.held_us(), 60_000_000, "a minute is held");
        jitter.insert(0, group(1));
        assert_eq!(jitter.stats.duplicates, 1);
        jitter.insert(0, group(0));
        assert_eq!((jitter.stats.duplicates, jitter.stats.groups), (1, 602), "the first one is forgotten");
    }

    #[test]
    fn a_frame_is_due_when_the_target_has_passed() {
        let mut jitter = Jitter::new(2_000_000);
        assert_eq!((jitter.pull(1_000, 0), jitter.next_due(1_000)), (vec![], 6_000), "nothing is there");
        jitter.insert(100_000, group(0));
        assert_eq!(jitter.target_us(), 80_000, "30 ms and half a group");
        assert_eq!((jitter.pull(100_000, 0).len(), jitter.next_due(100_000)), (0, 180_000));
        assert_eq!((jitter.pull(179_999, 0).len(), jitter.pull(180_000, 0).len()), (0, 1));
        assert_eq!((jitter.next_due(180_000), jitter.next_due(200_001), jitter.held_us()), (200_000, 200_001, 80_000));
        assert_eq!((jitter.pull(260_000, 0).len(), jitter.next_due(260_000)), (4, 280_000));
        assert_eq!((jitter.pull(280_000, 0).len(), jitter.next_due(280_000)), (0, 285_000), "it is empty");
        let mut low = Jitter::new(50_000);
        low.insert(100_000, group(0));
        assert_eq!(low.target_us(), 50_000, "the ceiling");
    }

    #[test]
    fn a_hole_is_concealed_in_steps_that_opus_has() {
        for (hole, expected) in [
            (0, vec![]),
            (100, vec![]),
            (120, vec![(960, 120)]),
            (300, vec![(960, 240)]),
            (1_000, vec![(960, 960)]),
            (1_100, vec![(960, 960), (1_920, 120)]),
        ] {
            let mut jitter = Jitter::new(2_000_000);
            for (seq, pts) in [(0, 0), (1, 960 + hole)] {
                let frames = vec![Frame { packet: vec![1], ticks: 960 }];
                jitter.insert(0, Arrival { epoch: 1, seq, pts, capture_us: 0, frames });
            }
            let played = [jitter.pull(0, 0), jitter.pull(1_000_000, 0)].concat();
            assert_eq!((conceals(&played), jitter.stats.played), (expected, 2), "{hole}");
            assert_eq!(jitter.stats.concealed as usize, conceals(&played).len());
        }
    }

    #[test]
    fn a_hole_of_more_than_a_second_is_skipped() {
        for (hole, skipped) in [(48_000, 0), (48_960, 51)] {
            let mut jitter = Jitter::new(2_000_000);
            let frame = |seq, pts| {
                let frames = vec![Frame { packet: vec![1], ticks: 960 }];
                Arrival { epoch: 1, seq, pts, capture_us: 0, frames }
            };
            jitter.insert(0, frame(0, 0));
            let mut played = jitter.pull(0, 0);
            jitter.insert(us(960 + hole), frame(1, 960 + hole));
            (0..400).for_each(|n| played.extend(jitter.pull(n * 5_000, 0)));
            assert_eq!((jitter.stats.skipped, jitter.stats.played), (skipped, 2), "{hole}");
            assert_eq!(conceals(&played).is_empty(), skipped > 0, "{hole}");
        }
    }

    #[test]
    fn frames_that_come_too_late_or_overlap_are_counted_as_late() {
        let mut jitter = Jitter::new(2_000_000);
        let frame = |seq, pts| {
            let frames = vec![Frame { packet: vec![1], ticks: 960 }];
            Arrival { epoch: 1, seq, pts, capture_us: 0, frames }
        };
        jitter.insert(0, frame(0, 0));
        jitter.pull(0, 0);
        // The second one begins in the first, the third when that ends.
        for (seq, pts) in [(1, 480), (2, 960), (4, 1_920 + 960)] {
            jitter.insert(0, frame(seq, pts));
        }
        jitter.pull(100_000, 0);
        assert_eq!((jitter.stats.played, jitter.stats.late, jitter.stats.concealed), (3, 1, 1));
        jitter.insert(100_000, frame(3, 1_920));
        assert_eq!((jitter.stats.late, jitter.stats.reordered), (2, 1));
        // What ends as this begins is in time.
        jitter.insert(100_000, frame(5, 2_880 + 960));
        assert_eq!((jitter.stats.late, jitter.pull(1_000_000, 0).len()), (2, 1));
    }

    #[test]
    fn what_a_late_group_needed_is_remembered_and_forgotten_slowly() {
        let mut jitter = Jitter::new(2_000_000);
        let mut at = |seq: u64, now: u64| {
            jitter.insert(now, group(seq));
            jitter.pull(now, now);
            jitter.target_us()
        };
        for seq in (0..20).chain(21..24) {
            assert_eq!(at(seq, leaves(seq)), 80_000);
        }
        assert_eq!(at(20, leaves(23)), 320_000, "300 ms late, and a frame");
        // 0.5 ms a second is forgotten.
        let later = (24..60).map(|seq| at(seq, leaves(seq))).last().unwrap();
        assert_eq!(later, 320_000 - (leaves(59) - leaves(23)) * 500 / 1_000_000);
    }

    #[test]
    fn the_spread_is_the_95th_percentile_of_what_is_beyond_the_fastest() {
        let mut jitter = Jitter::new(2_000_000);
        jitter.insert(leaves(0), group(0));
        jitter.pull(leaves(0), 0);
        for seq in 1..40 {
            jitter.insert(leaves(seq) + seq * 1_000, group(seq));
            jitter.pull(leaves(seq) + seq * 1_000, 0);
        }
        assert_eq!((jitter.stats.spread_us, jitter.stats.late), (38_000, 0));
    }
}
