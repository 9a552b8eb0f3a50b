//! Opus: 20 ms frames at 48 kHz, music mode, without in-band FEC, which repairs one frame of five and costs quality.

use opus::{Application, Bitrate, Channels, Decoder, Encoder};

use crate::{AudioError, FRAME, RATE};

fn channels(n: u32) -> Result<Channels, AudioError> {
    match n {
        1 => Ok(Channels::Mono),
        2 => Ok(Channels::Stereo),
        _ => Err(AudioError::Value(format!("{n} channels; takes 1 or 2"))),
    }
}

fn fault(error: opus::Error) -> AudioError {
    AudioError::Codec(error.to_string())
}

/// Encodes frames.
pub struct OpusEncoder {
    encoder: Encoder,
    channels: usize,
    /// Samples at 48 kHz that a decoder drops at the start.
    pub pre_skip: u32,
    /// Bits per second.
    pub bitrate: u32,
}

impl OpusEncoder {
    /// An encoder at `bitrate` bits per second; `None`: 64 kbit/s mono, 96 stereo.
    pub fn new(count: u32, bitrate: Option<u32>) -> Result<Self, AudioError> {
        let bitrate = bitrate.unwrap_or(if count == 1 { 64_000 } else { 96_000 });
        if !(6_000..=510_000).contains(&bitrate) {
            return Err(AudioError::Value(format!("{bitrate} bit/s; Opus takes 6000 to 510000")));
        }
        let mut encoder = Encoder::new(RATE, channels(count)?, Application::Audio).map_err(fault)?;
        encoder.set_bitrate(Bitrate::Bits(i32::try_from(bitrate).unwrap_or(i32::MAX))).map_err(fault)?;
        let pre_skip = u32::try_from(encoder.get_lookahead().map_err(fault)?).unwrap_or(312);
        Ok(OpusEncoder { encoder, channels: count as usize, pre_skip, bitrate })
    }

    /// Encodes one frame of interleaved samples; a short one is filled with silence.
    pub fn encode(&mut self, samples: &[f32]) -> Result<Vec<u8>, AudioError> {
        let mut frame = samples.to_vec();
        frame.resize(FRAME * self.channels, 0.0);
        self.encode_all(&frame)
    }

    /// Encodes as many samples as a packet may have: 2.5, 5, 10 or 20 ms, or a multiple of 20 ms up to 120.
    pub(crate) fn encode_all(&mut self, samples: &[f32]) -> Result<Vec<u8>, AudioError> {
        self.encoder.encode_vec_float(samples, 4000).map_err(fault)
    }
}

/// Decodes packets and conceals missing ones.
pub struct OpusDecoder {
    decoder: Decoder,
    channels: usize,
    concealed: u32,
}

impl OpusDecoder {
    /// A decoder to so many channels.
    pub fn new(count: u32) -> Result<Self, AudioError> {
        let decoder = Decoder::new(RATE, channels(count)?).map_err(fault)?;
        Ok(OpusDecoder { decoder, channels: count as usize, concealed: 0 })
    }

    /// Sets the output gain in 1/256 dB, as a header may ask for (RFC 7845, 5.1).
    pub(crate) fn amplify(&mut self, gain: i16) -> Result<(), AudioError> {
        self.decoder.set_gain(gain.into()).map_err(fault)
    }

    /// Decodes a packet to interleaved samples.
    pub fn decode(&mut self, packet: &[u8]) -> Result<Vec<f32>, AudioError> {
        let mut out = vec![0.0; 5760 * self.channels];
        let frames = self.decoder.decode_float(packet, &mut out, false).map_err(fault)?;
        out.truncate(frames * self.channels);
        self.concealed = 0;
        Ok(out)
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Resets the decoder, for a publisher that began a new epoch.
    pub fn forget(&mut self) -> Result<(), AudioError> {
        self.decoder.reset_state().map_err(fault)
    }

    /// Conceals so many missing samples at 48 kHz, a multiple of 120: up to five times by the codec's concealment, then by
    /// silence.
    pub fn conceal(&mut self, samples: usize) -> Result<Vec<f32>, AudioError> {
        let mut out = vec![0.0; samples * self.channels];
        self.concealed += 1;
        if self.concealed <= 5 {
            self.decoder.decode_float(&[], &mut out, false).map_err(fault)?;
        }
        Ok(out)
    }
}

/// A sample as 16 bits, cut at full scale.
pub fn to_i16(sample: f32) -> i16 {
    (sample * 32_768.0).clamp(-32_768.0, 32_767.0) as i16
}

/// Duration of a packet in 48 kHz ticks (RFC 6716, 3.1); `None` if it is no Opus packet.
pub fn packet_ticks(packet: &[u8]) -> Option<u64> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(*packet.get(1)? & 63),
    };
    let ticks = frame * count;
    (1..=5760).contains(&ticks).then_some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_survives_the_codec() {
        let mut encoder = OpusEncoder::new(1, None).unwrap();
        let mut decoder = OpusDecoder::new(1).unwrap();
        let tone = |n: usize| (n as f32 * 440.0 * std::f32::consts::TAU / 48_000.0).sin() * 0.5;
        let mut heard = Vec::new();
        for frame in 0..50 {
            let samples: Vec<f32> = (0..FRAME).map(|n| tone(frame * FRAME + n)).collect();
            let packet = encoder.encode(&samples).unwrap();
            assert_eq!(packet_ticks(&packet), Some(960));
            heard.extend(decoder.decode(&packet).unwrap());
        }
        let energy = heard[9600..].iter().map(|s| s * s).sum::<f32>() / heard[9600..].len() as f32;
        assert!((energy.sqrt() - 0.5 / 2f32.sqrt()).abs() < 0.01, "{}", energy.sqrt());
        assert_eq!(decoder.conceal(FRAME).unwrap().len(), FRAME);
    }
}
