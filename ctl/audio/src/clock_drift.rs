//! Fits sound to a device with a clock of its own: resamples it slightly, so that the queue in front of the device keeps
//! its target length. Pure: the length of the queue is an argument.
//!
//! Crystals differ by up to 200 ppm, which is 0.7 s in an hour. The same correction catches up after the device has
//! stood still, by playing up to 0.7 % faster instead of skipping; that much is not heard.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Adjustable, FixedAsync, Resampler, Slip};

use crate::{AudioError, FRAME, RATE};

/// Correction per second of surplus. A surplus of 100 ms is answered with the most.
const PROPORTIONAL: f64 = 0.07;
/// Correction per second of surplus and second; critically damped.
const INTEGRAL: f64 = PROPORTIONAL * PROPORTIONAL / 4.0;
/// Most correction; as much as [`Slip`] sustains.
const MOST: f64 = 0.007;
/// Weight of one measured level in the average. Devices take many samples at once, so levels jump.
const SMOOTHING: f64 = 0.02;

/// One stream of sound to one device.
pub struct ClockDrift {
    slip: Slip<f32>,
    channels: usize,
    target: f64,
    level: Option<f64>,
    learnt: f64,
    waiting: Vec<f32>,
}

impl ClockDrift {
    /// Keeps about `target_us` in front of the device.
    pub fn new(channels: u32, target_us: u64) -> Result<Self, AudioError> {
        let channels = channels as usize;
        let slip = Slip::new(FRAME, channels, FixedAsync::Input).map_err(|e| AudioError::Codec(e.to_string()))?;
        Ok(ClockDrift { slip, channels, target: seconds(target_us), level: None, learnt: 0.0, waiting: Vec::new() })
    }

    /// Takes interleaved samples while `level_us` wait in front of the device. Returns what to give to it.
    pub fn fit(&mut self, samples: &[f32], level_us: u64) -> Result<Vec<f32>, AudioError> {
        self.waiting.extend_from_slice(samples);
        let mut out = Vec::with_capacity(samples.len() + self.channels * 8);
        let chunk = FRAME * self.channels;
        while self.waiting.len() >= chunk {
            let rest = self.waiting.split_off(chunk);
            let input = std::mem::replace(&mut self.waiting, rest);
            let level = level_us.saturating_add(us(out.len() / self.channels));
            let ratio = 1.0 - self.correction(level);
            // At the limit of what it sustains it goes as far as it can.
            let _ = self.slip.set_resample_ratio(ratio, false);
            let fault = |e: &dyn std::fmt::Display| AudioError::Codec(e.to_string());
            let input = InterleavedSlice::new(&input, self.channels, FRAME).map_err(|e| fault(&e))?;
            out.extend(self.slip.process(&input, None).map_err(|e| fault(&e))?.take_data());
        }
        Ok(out)
    }

    fn correction(&mut self, level_us: u64) -> f64 {
        let now = seconds(level_us);
        let level = self.level.map_or(now, |level| level + (now - level) * SMOOTHING);
        self.level = Some(level);
        let surplus = level - self.target;
        let wanted = PROPORTIONAL * surplus + self.learnt;
        // Beyond the limit the level says nothing about the clocks.
        if wanted.abs() < MOST {
            self.learnt += INTEGRAL * surplus * FRAME as f64 / f64::from(RATE);
        }
        wanted.clamp(-MOST, MOST)
    }

    /// How much faster the sound comes than the device plays it, in parts per million.
    pub fn ppm(&self) -> f64 {
        self.learnt * 1e6
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn us(frames: usize) -> u64 {
    frames as u64 * 1_000_000 / u64::from(RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET_US: u64 = 60_000;

    /// A device that is `ppm` faster than the source and takes 10 ms at a time. What waits in front of it after each
    /// frame of `frames`, in microseconds; begins with the target.
    fn levels(ppm: f64, frames: usize, mut surplus: f64) -> (Vec<f64>, f64) {
        let mut drift = ClockDrift::new(1, TARGET_US).unwrap();
        surplus += TARGET_US as f64;
        let (mut taken, mut played) = (0.0, 0.0);
        let sound = vec![0.0; FRAME];
        let levels = (0..frames).map(|_| {
            surplus += drift.fit(&sound, surplus.max(0.0) as u64).unwrap().len() as f64 * 1e6 / f64::from(RATE);
            played += 20_000.0 * (1.0 + ppm / 1e6);
            while taken + 10_000.0 <= played {
                taken += 10_000.0;
                surplus -= 10_000.0;
            }
            surplus
        });
        (levels.collect(), drift.ppm())
    }

    #[test]
    fn an_hour_beside_a_device_of_another_clock_neither_runs_dry_nor_lags() {
        for ppm in [-200.0, 200.0] {
            let (levels, learnt) = levels(ppm, 180_000, 0.0);
            assert!(levels.iter().all(|level| (30_000.0..90_000.0).contains(level)), "{ppm}");
            // The device takes 10 ms at a time, not in step with the frames, so the estimate is that inexact.
            assert!((learnt + ppm).abs() < 100.0, "{learnt} where the clocks differ by {ppm}");
        }
    }

    #[test]
    fn after_the_device_stood_still_it_plays_faster_until_it_is_live_again() {
        let (levels, _) = levels(0.0, 6_000, 400_000.0);
        assert!(levels.windows(2).all(|w| w[0] - w[1] <= 10_300.0), "nothing is skipped");
        assert!(levels.last().unwrap() < &90_000.0, "{levels:?}");
        assert!(levels.iter().skip(3_000).all(|level| *level > 20_000.0), "and does not overshoot into silence");
    }

    #[test]
    fn frames_of_other_lengths_come_out_whole() {
        let mut drift = ClockDrift::new(2, TARGET_US).unwrap();
        let given: usize = (0..96).map(|_| drift.fit(&[0.5; 2 * 480], TARGET_US).unwrap().len()).sum();
        assert!(given.abs_diff(96 * 2 * 480) < 100, "{given}");
    }

    #[test]
    fn a_surplus_is_answered_in_proportion_and_learnt_slowly() {
        let mut drift = ClockDrift::new(1, TARGET_US).unwrap();
        let near = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} {other}");
        near(drift.correction(TARGET_US), 0.0);
        let mut drift = ClockDrift::new(1, TARGET_US).unwrap();
        near(drift.correction(70_000), 0.000_7);
        near(drift.ppm(), 0.245);
        near(drift.correction(70_000), 0.000_7 + 0.245e-6);
        // A level that jumps counts as a fiftieth.
        near(drift.correction(120_000), 0.000_77 + 0.49e-6);
    }

    #[test]
    fn nothing_is_learnt_beyond_the_most_that_is_corrected() {
        for (target, level, most) in [(TARGET_US, 1_000_000, MOST), (1_000_000, 0, -MOST)] {
            let mut drift = ClockDrift::new(1, target).unwrap();
            assert_eq!((drift.correction(level), drift.ppm()), (most, 0.0));
        }
    }

    #[test]
    fn what_was_just_given_counts_to_the_level() {
        let mut drift = ClockDrift::new(2, TARGET_US).unwrap();
        drift.fit(&[0.0; 2 * 2 * FRAME], TARGET_US).unwrap();
        let level = drift.level.unwrap();
        assert!((level - 0.060_4).abs() < 1e-5, "20 ms more at the second frame: {level}");
        assert_eq!((us(48_000), us(960), seconds(1_500_000)), (1_000_000, 20_000, 1.5));
    }
}
