//! How fast bytes may go over a line that several kinds of traffic share.

use std::time::Duration;

/// Time since any fixed moment, in microseconds.
pub type Micros = u64;

/// How much of a line goes at once: what takes so long. What cannot wait comes that much later where others fill the line.
const BURST: Micros = 20_000;
/// At least so many bytes: two full packets.
const LEAST_BURST: i64 = 3_000;
/// How much more than its rate may be owed: what was let through holds up the rest for so long. A message of 1 MiB to six peers takes as
/// long at 1 Mbit/s.
const DEBT: Micros = 60_000_000;
const SECOND: i128 = 1_000_000;
/// Who waits looks again after so long, since the rate may have changed.
const LONGEST: Duration = Duration::from_millis(250);

/// In which order what can wait is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before bulk: it goes as long as nothing is owed.
    First,
    /// Only of what the others leave.
    Last,
}

/// A token bucket of bytes that may be overdrawn: what cannot wait is taken at once, and the others wait until that has come back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Bytes a second; 0: no bound.
    rate: u64,
    level: i64,
    at: Micros,
}

impl Pace {
    /// Sets how many bytes a second go; 0 for no bound. What was owed is forgotten.
    pub fn set(&mut self, rate: u64, now: Micros) {
        if self.rate != rate {
            (self.rate, self.at) = (rate, now);
            self.level = self.burst();
        }
    }

    /// How many bytes may go now, or how long until some may.
    pub fn allowance(&mut self, now: Micros, order: Order) -> Result<u64, Duration> {
        if self.rate == 0 {
            return Ok(u64::MAX);
        }
        self.refill(now);
        let burst = self.burst();
        // In pieces of some size: each costs more than its bytes.
        let (floor, piece) = match order {
            Order::First => (0, burst / 8),
            Order::Last => (burst / 2, burst / 4),
        };
        let free = self.level.saturating_sub(floor);
        if free >= piece {
            return Ok(free.unsigned_abs());
        }
        Err(Duration::from_micros(self.micros(piece.saturating_sub(free))).clamp(Duration::from_millis(1), LONGEST))
    }

    /// Takes so many bytes, whether or not they are there.
    pub fn take(&mut self, now: Micros, bytes: u64) {
        if self.rate > 0 {
            self.refill(now);
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.level = self.level.saturating_sub(bytes).max(self.carries(DEBT).saturating_neg());
        }
    }

    fn refill(&mut self, now: Micros) {
        let gained = self.carries(now.saturating_sub(self.at));
        self.level = self.level.saturating_add(gained).min(self.burst());
        // What is less than a byte waits for the next time.
        self.at = if self.level < self.burst() { self.at.saturating_add(self.micros(gained)) } else { now };
    }

    fn burst(&self) -> i64 {
        self.carries(BURST).max(LEAST_BURST)
    }

    /// Bytes that go in a time.
    fn carries(&self, time: Micros) -> i64 {
        let bytes = i128::from(self.rate).saturating_mul(i128::from(time)) / SECOND;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// How long so many bytes take.
    fn micros(&self, bytes: i64) -> Micros {
        let micros = i128::from(bytes).saturating_mul(SECOND).checked_div(i128::from(self.rate)).unwrap_or_default();
        Micros::try_from(micros).unwrap_or(Micros::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 Mbit/s: 5,000 bytes in 20 ms.
    const RATE: u64 = 250_000;

    fn pace() -> Pace {
        let mut pace = Pace::default();
        pace.set(RATE, 0);
        pace
    }

    /// Bytes that go in `seconds` of what always has some to send, beside others that take so many each 100 ms.
    fn carried(pace: &mut Pace, seconds: u64, order: Order, beside: u64) -> u64 {
        let (mut carried, mut next) = (0, 0);
        for now in (0..seconds * 1_000_000).step_by(1_000) {
            if now >= next {
                pace.take(now, beside);
                next += 100_000;
            }
            if let Ok(bytes) = pace.allowance(now, order) {
                pace.take(now, bytes);
                carried += bytes;
            }
        }
        carried
    }

    #[test]
    fn without_a_rate_all_goes() {
        let mut pace = Pace::default();
        pace.take(0, u64::MAX);
        assert_eq!((pace.allowance(0, Order::First), pace.allowance(0, Order::Last)), (Ok(u64::MAX), Ok(u64::MAX)));
    }

    #[test]
    fn bulk_gets_what_the_others_leave() {
        let all = carried(&mut pace(), 10, Order::Last, 0);
        assert!((2_490_000..=2_510_000).contains(&all), "{all}");
        let rest = carried(&mut pace(), 10, Order::Last, 12_500);
        assert!((1_240_000..=1_260_000).contains(&rest), "{rest} of half the line");
        let none = carried(&mut pace(), 10, Order::Last, 25_000);
        assert!(none < 20_000, "{none} of a full line");
    }

    #[test]
    fn at_once_goes_what_takes_20_ms_and_half_of_it_in_bulk() {
        assert_eq!((pace().allowance(0, Order::First), pace().allowance(0, Order::Last)), (Ok(5_000), Ok(2_500)));
        assert_eq!(pace().allowance(60_000_000, Order::First), Ok(5_000), "and no more after a minute");
        let mut slow = Pace::default();
        slow.set(8_000, 0);
        assert_eq!(slow.allowance(0, Order::First), Ok(3_000));
    }

    #[test]
    fn who_waits_is_told_how_long() {
        let mut pace = pace();
        pace.take(0, 5_000);
        assert_eq!(pace.allowance(0, Order::Last), Err(Duration::from_millis(15)), "3,750 bytes");
        assert_eq!(pace.allowance(14_000, Order::Last), Err(Duration::from_millis(1)));
        assert_eq!(pace.allowance(15_000, Order::Last), Ok(1_250));
        pace.take(15_000, 3_750 + 1_000);
        assert_eq!(pace.allowance(15_000, Order::First), Err(Duration::from_micros(6_500)), "1,625 bytes");
        assert_eq!(pace.allowance(21_500, Order::First), Ok(625));
    }

    #[test]
    fn what_is_owed_has_a_bound() {
        let mut pace = pace();
        pace.take(0, u64::MAX);
        assert_eq!(pace.allowance(0, Order::First), Err(LONGEST));
        assert!(pace.allowance(60_000_000, Order::First).is_err());
        assert_eq!(pace.allowance(60_004_000, Order::First), Ok(1_000));
    }

    #[test]
    fn nothing_is_lost_to_those_who_look_often() {
        let mut pace = Pace::default();
        pace.set(8_000, 0);
        pace.take(0, 3_000 + 8_000);
        // Every 130 us, in which 1.04 bytes come back.
        for n in 1..=7_692 {
            let _ = pace.allowance(n * 130, Order::First);
        }
        pace.take(1_000_000, 0);
        assert!((-1..=0).contains(&pace.level), "{}", pace.level);
    }

    #[test]
    fn a_new_rate_holds_at_once_and_an_old_one_keeps_its_debt() {
        let mut pace = pace();
        pace.take(0, 100_000);
        pace.set(RATE, 1_000);
        assert!(pace.allowance(1_000, Order::First).is_err());
        pace.set(RATE * 2, 1_000);
        assert_eq!(pace.allowance(1_000, Order::First), Ok(10_000));
        pace.set(0, 1_000);
        assert_eq!(pace.allowance(1_000, Order::Last), Ok(u64::MAX));
    }
}
