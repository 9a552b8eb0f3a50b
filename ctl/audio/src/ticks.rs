//! Media time: ticks of 48 kHz, as Opus counts them, whatever the stream's own rate. All conversions saturate.

use std::time::Duration;

use crate::RATE;

/// Ticks in microseconds.
pub fn to_us(ticks: u64) -> u64 {
    ticks.saturating_mul(125) / 6
}

/// Whole ticks of so many microseconds.
pub fn from_us(us: u64) -> u64 {
    us.saturating_mul(6) / 125
}

/// Whole ticks of a time.
pub fn from_duration(time: Duration) -> u64 {
    from_us(duration_us(time))
}

/// A time in microseconds.
pub fn duration_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Ticks in seconds.
pub fn seconds(ticks: u64) -> f64 {
    ticks as f64 / f64::from(RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_exact_and_saturate() {
        assert_eq!((to_us(960), from_us(20_000), from_duration(Duration::from_secs(1))), (20_000, 960, 48_000));
        assert_eq!(seconds(72_000), 1.5);
        assert!(to_us(u64::MAX) > 1 << 60 && from_duration(Duration::MAX) > 1 << 57);
    }
}
