//! Sound that is known: tones as files, what a recording holds, and what a listener says of it.

use std::{
    f64::consts::TAU,
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use super::{child::Program, said};

static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that demands that sound comes in time: none that takes the whole machine runs meanwhile.
pub fn in_peace() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that takes the whole machine.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A mono WAV of 48 kHz with this many samples of a tone, whose frequency is that of each sample.
pub fn tone(path: &Path, samples: usize, hertz: impl Fn(usize) -> f64) {
    let spec = WavSpec { channels: 1, sample_rate: 48_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut writer = WavWriter::create(path, spec).unwrap();
    let mut phase = 0.0f64;
    for n in 0..samples {
        phase += TAU * hertz(n) / 48_000.0;
        writer.write_sample((phase.sin() * 12_000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

/// Stair `n` of a staircase has this frequency.
pub fn step(n: usize) -> f64 {
    400.0 + 40.0 * n as f64
}

/// A staircase of tones: each of so many samples is 40 Hz higher than the one before.
pub fn staircase(path: &Path, steps: usize, samples: usize) {
    tone(path, steps * samples, |n| step(n / samples));
}

/// The samples of a recording.
pub fn samples(path: &Path) -> Vec<i16> {
    WavReader::open(path).unwrap().into_samples().map(Result::unwrap).collect()
}

/// Frequency of a tone in 16 bit mono samples, by counting its rises.
pub fn hertz(samples: &[i16]) -> f64 {
    let rises: Vec<usize> =
        samples.windows(2).enumerate().filter(|(_, w)| w[0] < 0 && w[1] >= 0).map(|(n, _)| n).collect();
    let (Some(first), Some(last)) = (rises.first(), rises.last()) else { return 0.0 };
    (rises.len() - 1) as f64 * 48_000.0 / (last - first) as f64
}

/// The numbers of listeners that end by themselves. A witness, whom no network troubles, shows whether the machine itself
/// stood still meanwhile: such a run says nothing, and is done again.
pub fn heard_in_peace(witness: impl Fn() -> Program, listeners: impl Fn() -> Vec<Program>) -> Vec<serde_json::Value> {
    for _ in 0..8 {
        let (witness, listeners) = (witness(), listeners());
        let numbers: Vec<_> = listeners.into_iter().map(summary).collect();
        let witness = summary(witness);
        if witness["underruns"] == 0 && witness["late_frames"] == 0 {
            return numbers;
        }
        println!("the machine stood still: {witness}");
    }
    panic!("the machine does not keep going");
}

fn summary(listener: Program) -> serde_json::Value {
    // As long as the longest of these tests may be asked to listen.
    let heard = listener.output_within(Duration::from_secs(3600)).unwrap();
    assert!(heard.status.success(), "{}", said(&heard));
    let text = String::from_utf8_lossy(&heard.stdout).into_owned();
    let start = text.rfind("{\"").expect("the summary");
    serde_json::from_str(&text[start..]).unwrap()
}
