//! What samples are made from: a decoder, raw samples, or a tone.

use std::io::{self, Read};

use crate::{AudioError, FRAME, RATE, block::Block, decoding::Decoding};

/// Layout of raw samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleFormat {
    /// Signed 16 bit, little-endian.
    S16,
    /// 32 bit float, little-endian.
    F32,
}

/// The input of samples.
pub(crate) enum Input {
    File(Decoding),
    Raw { reader: Box<dyn Read + Send>, rate: u32, format: SampleFormat, name: String },
    Tone { hertz: f32, at: u64 },
}

impl Input {
    /// What comes next; `None` at the end.
    pub(crate) fn block(&mut self, channels: u32) -> Result<Option<Block>, AudioError> {
        match self {
            Input::Tone { hertz, at } => {
                let step = f64::from(*hertz) * std::f64::consts::TAU / f64::from(RATE);
                let samples = (0..FRAME as u64).map(|n| ((*at + n) as f64 * step).sin() as f32 * 0.5).collect();
                *at += FRAME as u64;
                Ok(Some(Block { samples, rate: RATE, channels: 1 }))
            }
            Input::Raw { reader, rate, format, name } => {
                let channels = channels as usize;
                let samples = read_raw(reader, *format, channels).map_err(AudioError::io(name))?;
                Ok(Some(Block { samples, rate: *rate, channels }).filter(|block| !block.samples.is_empty()))
            }
            Input::File(file) => file.block(),
        }
    }
}

/// Reads up to 960 whole samples of each channel; none at the end.
fn read_raw(reader: &mut Box<dyn Read + Send>, format: SampleFormat, channels: usize) -> io::Result<Vec<f32>> {
    let width = if format == SampleFormat::S16 { 2 } else { 4 };
    let mut bytes = Vec::new();
    reader.by_ref().take((FRAME * channels * width) as u64).read_to_end(&mut bytes)?;
    bytes.truncate(bytes.len() - bytes.len() % (width * channels));
    Ok(match format {
        SampleFormat::S16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32_768.0).collect()
        }
        SampleFormat::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    })
}
