//! Converts decoded sound of any rate and channels to 48 kHz and the channels that the stream was announced with. The rate
//! and channels of the source may change at any block.

use std::ops::RangeInclusive;

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

use crate::{AudioError, FRAME, RATE, block::Block, input::Input};

/// Sample rates that are taken, in Hz.
pub(crate) const RATES: RangeInclusive<u32> = 7_000..=192_000;
/// Samples are clamped to this. Full scale is 1; the encoder handles slightly louder ones.
const LOUDEST: f32 = 8.0;

/// Samples at 48 kHz.
pub struct Samples {
    input: Input,
    /// Of the source, for errors.
    name: String,
    /// 1 or 2.
    pub channels: u32,
    rate: u32,
    resampling: Option<Resampling>,
    ready: Vec<f32>,
    ended: bool,
    /// Why it ended early; returned after all samples before it.
    fault: Option<AudioError>,
}

impl Samples {
    /// Takes what `input` gives, to which `channels` apply where it does not know its own.
    pub(crate) fn new(mut input: Input, channels: u32, name: &str) -> Result<Self, AudioError> {
        // The first block shows whether there is any sound, before anything is announced.
        let bad = |fault: String| AudioError::Unsupported { path: name.into(), fault };
        let first = match input {
            Input::File(ref mut file) => {
                Some(file.block()?.ok_or_else(|| bad("it holds no sound; is it truncated?".into()))?)
            }
            _ => None,
        };
        let channels = first.as_ref().map_or(channels, |block| u32::try_from(block.channels).unwrap_or(0));
        if !(1..=2).contains(&channels) {
            return Err(bad(format!("{channels} channels, of which only 1 or 2 are carried")));
        }
        let (resampling, ready) = (None, Vec::new());
        let name = name.into();
        let mut samples = Samples { input, name, channels, rate: RATE, resampling, ready, ended: false, fault: None };
        first.map_or(Ok(()), |block| samples.take(block))?;
        Ok(samples)
    }

    /// How many damaged places were left out.
    pub fn damaged(&self) -> u64 {
        match &self.input {
            Input::File(file) => file.damaged(),
            Input::Raw { .. } | Input::Tone { .. } => 0,
        }
    }

    /// The next 20 ms, interleaved; the last may be shorter. `None` at the end.
    pub fn frame(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
        let wanted = FRAME * self.channels as usize;
        while self.ready.len() < wanted && !self.ended {
            let taken = match self.input.block(self.channels) {
                Ok(Some(block)) => self.take(block).map(|()| false),
                end => end.map(|_| true),
            };
            if taken.as_ref().map_or(true, |ended| *ended) {
                (self.ended, self.fault) = (true, taken.err());
                self.flush()?;
            }
        }
        if self.ready.is_empty() {
            return self.fault.take().map_or(Ok(None), Err);
        }
        let rest = self.ready.split_off(wanted.min(self.ready.len()));
        Ok(Some(std::mem::replace(&mut self.ready, rest)))
    }

    fn take(&mut self, block: Block) -> Result<(), AudioError> {
        if block.rate != self.rate {
            if !RATES.contains(&block.rate) {
                let (lowest, highest) = (RATES.start(), RATES.end());
                let fault = format!("a sample rate of {}, of which {lowest} to {highest} are carried", block.rate);
                return Err(AudioError::Unsupported { path: self.name.clone(), fault });
            }
            self.flush()?;
            (self.rate, self.resampling) = (block.rate, Resampling::new(block.rate, self.channels)?);
        }
        let mut samples = remix(block.samples, block.channels, self.channels as usize);
        // Damaged floats can be NaN or infinite; one would silence the resampler for good.
        samples
            .iter_mut()
            .for_each(|sample| *sample = if sample.is_finite() { sample.clamp(-LOUDEST, LOUDEST) } else { 0.0 });
        match &mut self.resampling {
            Some(resampling) => resampling.take(samples, &mut self.ready),
            None => {
                self.ready.extend(samples);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), AudioError> {
        self.resampling.take().map_or(Ok(()), |resampling| resampling.flush(&mut self.ready))
    }
}

/// Mono to both sides, or the mean of all.
fn remix(samples: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
    if from == to || from == 0 {
        return samples;
    }
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / from as f32;
    samples.chunks_exact(from).flat_map(|frame| std::iter::repeat_n(mean(frame), to)).collect()
}

/// From one rate to 48 kHz, sample for sample.
struct Resampling {
    resampler: Fft<f32>,
    rate: u32,
    channels: usize,
    waiting: Vec<f32>,
    /// Samples to drop: the resampler's own delay.
    trim: usize,
    /// Samples that came and that went, without the delay.
    taken: u64,
    given: u64,
}

impl Resampling {
    fn new(rate: u32, channels: u32) -> Result<Option<Self>, AudioError> {
        if rate == RATE {
            return Ok(None);
        }
        let channels = channels as usize;
        let resampler = Fft::new(rate as usize, RATE as usize, 1024, channels, FixedSync::Input);
        let resampler = resampler.map_err(|e| AudioError::Codec(e.to_string()))?;
        let trim = resampler.output_delay() * channels;
        Ok(Some(Resampling { resampler, rate, channels, waiting: Vec::new(), trim, taken: 0, given: 0 }))
    }

    fn take(&mut self, samples: Vec<f32>, out: &mut Vec<f32>) -> Result<(), AudioError> {
        self.taken += samples.len() as u64;
        self.waiting.extend(samples);
        while self.waiting.len() >= self.resampler.input_frames_next() * self.channels {
            self.step(u64::MAX, out)?;
        }
        Ok(())
    }

    /// Pushes out the samples that the resampler holds back, by silence that is dropped again.
    fn flush(mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let channels = self.channels as u64;
        let all = self.taken / channels * u64::from(RATE) / u64::from(self.rate) * channels;
        while self.given < all {
            self.waiting.resize(self.waiting.len().max(self.resampler.input_frames_next() * self.channels), 0.0);
            self.step(all, out)?;
        }
        Ok(())
    }

    fn step(&mut self, all: u64, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let frames = self.resampler.input_frames_next();
        let rest = self.waiting.split_off(frames * self.channels);
        let fault = |e: &dyn std::fmt::Display| AudioError::Codec(e.to_string());
        let input = InterleavedSlice::new(&self.waiting, self.channels, frames).map_err(|e| fault(&e))?;
        let output = self.resampler.process(&input, None).map_err(|e| fault(&e))?.take_data();
        self.waiting = rest;
        let drop = self.trim.min(output.len());
        self.trim -= drop;
        let room = usize::try_from(all.saturating_sub(self.given)).unwrap_or(usize::MAX);
        let before = out.len();
        out.extend(output.into_iter().skip(drop).take(room));
        self.given += (out.len() - before) as u64;
        Ok(())
    }
}
