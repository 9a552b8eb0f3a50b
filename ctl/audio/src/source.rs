//! Where sound comes from: a file, raw samples on a pipe, a tone. All give interleaved samples at 48 kHz.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::Path,
};

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};
use symphonia::core::{
    codecs::audio::{AudioDecoder, AudioDecoderOptions},
    errors::Error as SymphoniaError,
    formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
    io::{MediaSource, MediaSourceStream, ReadOnlySource},
    meta::MetadataOptions,
};

use crate::{AudioError, FRAME, RATE, ogg_opus::OpusFile, wav};

/// Layout of raw samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleFormat {
    /// Signed 16 bit, little-endian.
    S16,
    /// 32 bit float, little-endian.
    F32,
}

/// What a source gives.
pub enum Source {
    /// Samples, to be encoded.
    Samples(Box<Samples>),
    /// Opus packets, passed through as they are.
    Packets(OpusFile<Box<dyn Ogg>>),
}

/// Where an Ogg stream is read from.
pub trait Ogg: Read + Seek + Send {}

impl<T: Read + Seek + Send> Ogg for T {}

/// A pipe, which cannot go back.
struct Pipe<R>(R);

impl<R: Read> Read for Pipe<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(room)
    }
}

impl<R> Seek for Pipe<R> {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Begins of what is read from a pipe as an encoded stream.
const MAGIC: [&[u8]; 4] = [b"RIFF", b"fLaC", b"OggS", b"ID3"];
/// How much of a WAV is looked at for its header.
const WAV_HEAD: u64 = 64 * 1024;

/// Samples at 48 kHz.
pub struct Samples {
    input: Input,
    /// 1 or 2.
    pub channels: u32,
    resampler: Option<Fft<f32>>,
    /// Read but not yet resampled, and resampled but not yet given out.
    raw: Vec<f32>,
    ready: Vec<f32>,
    ended: bool,
    /// Resampled samples to drop: the resampler's own delay.
    trim: usize,
}

enum Input {
    File(Box<Decoding>),
    Raw { reader: Box<dyn Read + Send>, format: SampleFormat },
    Tone { hertz: f32, at: u64 },
}

/// A file that is being decoded.
struct Decoding {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    path: String,
    rate: u32,
    /// Samples per channel so far, and in all as the file's header has it.
    decoded: u64,
    expected: Option<u64>,
}

/// Opens a file of any known kind.
pub fn open(path: &Path) -> Result<Source, AudioError> {
    let name = path.display().to_string();
    let mut file = File::open(path).map_err(AudioError::io(&name))?;
    let size = file.metadata().map_err(AudioError::io(&name))?;
    if size.is_dir() {
        return Err(AudioError::Value(format!("{name} is a directory; name a file")));
    }
    if size.is_file() && size.len() == 0 {
        return Err(AudioError::Unsupported { path: name, fault: "the file is empty".into() });
    }
    let mut head = [0; 36];
    let got = file.read(&mut head).map_err(AudioError::io(&name))?;
    let mut file = File::open(path).map_err(AudioError::io(&name))?;
    if is_opus(head.get(..got).unwrap_or_default()) {
        let file: Box<dyn Ogg> = Box::new(BufReader::new(file));
        return Ok(Source::Packets(OpusFile::open(file, &name)?));
    }
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    let mut start = Vec::new();
    if head.starts_with(b"RIFF") {
        file.by_ref().take(WAV_HEAD).read_to_end(&mut start).map_err(AudioError::io(&name))?;
    }
    if let Some(righted) = wav::right(&start, size.len()) {
        let stream = ReadOnlySource::new(Cursor::new(righted.head).chain(file));
        return Ok(Source::Samples(decode(Box::new(stream), &hint, name, righted.claimed)?.into()));
    }
    file.rewind().map_err(AudioError::io(&name))?;
    Ok(Source::Samples(decode(Box::new(file), &hint, name, None)?.into()))
}

fn is_opus(head: &[u8]) -> bool {
    head.starts_with(b"OggS") && head.get(28..36) == Some(b"OpusHead")
}

/// Reads what comes through a pipe: an encoded stream where it begins like one, else raw samples of 16 bits. Waits for
/// the first bytes.
pub fn pipe(mut reader: Box<dyn Read + Send + Sync>, rate: u32, channels: u32) -> Result<Source, AudioError> {
    const NAME: &str = "standard input";
    let mut head = Vec::new();
    reader.by_ref().take(36).read_to_end(&mut head).map_err(AudioError::io(NAME))?;
    if head.is_empty() {
        return Err(AudioError::Unsupported { path: NAME.into(), fault: "it held nothing".into() });
    }
    if MAGIC.iter().any(|magic| head.starts_with(magic)) || head.get(4..8) == Some(b"ftyp") {
        return encoded(head, reader, NAME);
    }
    let whole = Cursor::new(head).chain(reader);
    Ok(Source::Samples(raw(Box::new(whole), rate, channels, SampleFormat::S16)?.into()))
}

/// Opens an encoded stream of which `head` was read already.
fn encoded(head: Vec<u8>, rest: Box<dyn Read + Send + Sync>, name: &str) -> Result<Source, AudioError> {
    let opus = is_opus(&head);
    let whole = Cursor::new(head).chain(rest);
    if opus {
        let pipe: Box<dyn Ogg> = Box::new(Pipe(whole));
        return Ok(Source::Packets(OpusFile::open(pipe, name)?));
    }
    let source = Box::new(ReadOnlySource::new(whole));
    Ok(Source::Samples(decode(source, &Hint::new(), name.into(), None)?.into()))
}

/// How much is read to find the header of an Ogg stream.
const JOIN: usize = 4 << 20;

/// Reads an encoded stream that is perhaps joined in its middle, from the next place on where a decoder can begin.
pub fn join(mut reader: Box<dyn Read + Send + Sync>) -> Result<Source, AudioError> {
    const NAME: &str = "the stream";
    let mut slice = vec![0; 16 * 1024];
    let mut head = Vec::new();
    let (mut ogg, mut read) = (false, 0);
    loop {
        let got = reader.read(&mut slice).map_err(AudioError::io(NAME))?;
        head.extend_from_slice(slice.get(..got).unwrap_or_default());
        // Other kinds are whole, or can be joined anywhere.
        ogg |= read == 0 && head.windows(4).any(|bytes| bytes == b"OggS");
        read += got;
        if !ogg {
            break;
        }
        // A page that begins a stream says so in its sixth byte (RFC 3533, 6).
        if let Some(at) = head.windows(6).position(|page| page.starts_with(b"OggS") && page.ends_with(&[2])) {
            head.drain(..at);
            break;
        }
        head.drain(..head.len().saturating_sub(5));
        if got == 0 || read > JOIN {
            let fault = "an Ogg stream that sent no header since it was joined".into();
            return Err(AudioError::Unsupported { path: NAME.into(), fault });
        }
    }
    if head.is_empty() {
        return Err(AudioError::Unsupported { path: NAME.into(), fault: "it ended before it began".into() });
    }
    reader.by_ref().take(36).read_to_end(&mut head).map_err(AudioError::io(NAME))?;
    encoded(head, reader, NAME)
}

/// Decodes; `claimed` are the bytes of sound that a header claims, and those that are there.
fn decode(
    source: Box<dyn MediaSource>,
    hint: &Hint,
    name: String,
    claimed: Option<(u32, u32)>,
) -> Result<Samples, AudioError> {
    let bad = |fault: String| AudioError::Unsupported { path: name.clone(), fault };
    let whole = source.is_seekable() || claimed.is_some();
    let stream = MediaSourceStream::new(source, Default::default());
    let format = symphonia::default::get_probe()
        .probe(hint, stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|e| bad(format!("no audio found ({e})")))?;
    let track = format.default_track(TrackType::Audio).ok_or_else(|| bad("no audio track".into()))?;
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio()).ok_or_else(|| bad("no audio track".into()))?;
    let rate = parameters.sample_rate.ok_or_else(|| bad("no sample rate".into()))?;
    let count = parameters.channels.as_ref().map(|c| c.count());
    let id = track.id;
    // What a pipe's header says of its length is a guess.
    let frames = track.num_frames.filter(|_| whole);
    let expected = match claimed {
        Some((said, there)) => frames.map(|n| n.saturating_mul(said.into()) / u64::from(there.max(1))),
        None => frames,
    };
    let decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|e| bad(e.to_string()))?;
    let mut samples = Samples {
        input: Input::File(Box::new(Decoding {
            format,
            decoder,
            track: id,
            path: name.clone(),
            rate,
            decoded: 0,
            expected,
        })),
        channels: u32::try_from(count.unwrap_or(1)).unwrap_or(0),
        resampler: None,
        raw: Vec::new(),
        ready: Vec::new(),
        ended: false,
        trim: 0,
    };
    if count.is_none() {
        // Some files tell the channels only with the first packet.
        samples.channels = 1;
    }
    if !(1..=2).contains(&samples.channels) {
        return Err(bad(format!("{} channels, of which only 1 or 2 are carried", samples.channels)));
    }
    samples.resample_from(rate).map_err(|e| bad(e.to_string()))?;
    // The first packet shows whether there is any sound, before anything is announced.
    samples.fill(1)?;
    if samples.ready.is_empty() && samples.raw.is_empty() {
        return Err(bad("it holds no sound; is it truncated?".into()));
    }
    Ok(samples)
}

/// Raw interleaved samples from a pipe.
pub fn raw(
    reader: Box<dyn Read + Send>,
    rate: u32,
    channels: u32,
    format: SampleFormat,
) -> Result<Samples, AudioError> {
    if !(1..=2).contains(&channels) {
        return Err(AudioError::Value(format!("--channels {channels}: takes 1 or 2")));
    }
    let input = Input::Raw { reader, format };
    let mut samples =
        Samples { input, channels, resampler: None, raw: Vec::new(), ready: Vec::new(), ended: false, trim: 0 };
    samples.resample_from(rate)?;
    Ok(samples)
}

/// An endless sine at half amplitude.
pub fn tone(hertz: f32) -> Result<Samples, AudioError> {
    if !(1.0..=20_000.0).contains(&hertz) {
        return Err(AudioError::Value(format!("--tone {hertz}: takes 1 to 20000 Hz")));
    }
    let input = Input::Tone { hertz, at: 0 };
    Ok(Samples { input, channels: 1, resampler: None, raw: Vec::new(), ready: Vec::new(), ended: false, trim: 0 })
}

impl Samples {
    fn resample_from(&mut self, rate: u32) -> Result<(), AudioError> {
        if !(8_000..=192_000).contains(&rate) {
            return Err(AudioError::Value(format!("a sample rate of {rate}; takes 8000 to 192000")));
        }
        if rate != RATE {
            let resampler = Fft::new(rate as usize, RATE as usize, 1024, self.channels as usize, FixedSync::Input);
            let resampler = resampler.map_err(|e| AudioError::Codec(e.to_string()))?;
            self.trim = resampler.output_delay() * self.channels as usize;
            self.resampler = Some(resampler);
        }
        Ok(())
    }

    /// The next 20 ms, interleaved; the last may be shorter. `None` at the end.
    pub fn frame(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
        let wanted = FRAME * self.channels as usize;
        self.fill(wanted)?;
        if self.ready.is_empty() {
            return Ok(None);
        }
        let rest = self.ready.split_off(wanted.min(self.ready.len()));
        Ok(Some(std::mem::replace(&mut self.ready, rest)))
    }

    fn fill(&mut self, wanted: usize) -> Result<(), AudioError> {
        while self.ready.len() < wanted && !self.ended {
            let before = self.raw.len();
            match self.input.read(&mut self.raw, self.channels)? {
                true => {}
                false => self.ended = true,
            }
            debug_assert!(self.raw.len() >= before);
            self.resample()?;
        }
        Ok(())
    }

    fn resample(&mut self) -> Result<(), AudioError> {
        let Some(resampler) = &mut self.resampler else {
            self.ready.append(&mut self.raw);
            return Ok(());
        };
        let channels = self.channels as usize;
        if self.ended {
            // Silence behind the end pushes out what the resampler holds back.
            let chunk = resampler.input_frames_next() * channels;
            let filled = (self.raw.len().div_ceil(chunk) + 1) * chunk;
            self.raw.resize(filled, 0.0);
        }
        loop {
            let frames = resampler.input_frames_next();
            if self.raw.len() < frames * channels {
                return Ok(());
            }
            let rest = self.raw.split_off(frames * channels);
            let fault = |e: &dyn std::fmt::Display| AudioError::Codec(e.to_string());
            let input = InterleavedSlice::new(&self.raw, channels, frames).map_err(|e| fault(&e))?;
            let output = resampler.process(&input, None).map_err(|e| fault(&e))?.take_data();
            let drop = self.trim.min(output.len());
            self.trim -= drop;
            self.ready.extend(output.into_iter().skip(drop));
            self.raw = rest;
        }
    }
}

impl Input {
    /// Appends some samples; false at the end.
    fn read(&mut self, out: &mut Vec<f32>, channels: u32) -> Result<bool, AudioError> {
        match self {
            Input::Tone { hertz, at } => {
                let step = f64::from(*hertz) * std::f64::consts::TAU / f64::from(RATE);
                out.extend((0..FRAME as u64).map(|n| ((*at + n) as f64 * step).sin() as f32 * 0.5));
                *at += FRAME as u64;
                Ok(true)
            }
            Input::Raw { reader, format } => read_raw(reader, *format, channels, out),
            Input::File(file) => file.read(out, channels),
        }
    }
}

impl Decoding {
    fn read(&mut self, out: &mut Vec<f32>, channels: u32) -> Result<bool, AudioError> {
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) | Err(SymphoniaError::IoError(_)) => return self.ended(),
                Err(error) => return Err(self.bad(error.to_string())),
            };
            if packet.track_id != self.track {
                continue;
            }
            match self.decoder.decode(&packet) {
                Ok(buffer) => {
                    if buffer.spec().channels().count() != channels as usize {
                        return Err(self.bad("the number of channels changes within it".into()));
                    }
                    let start = out.len();
                    out.resize(start + buffer.samples_interleaved(), 0.0);
                    self.decoded = self.decoded.saturating_add(buffer.frames() as u64);
                    if let Some(room) = out.get_mut(start..) {
                        buffer.copy_to_slice_interleaved(room);
                    }
                    return Ok(true);
                }
                // A damaged packet costs its own sound only.
                Err(SymphoniaError::DecodeError(_)) => {}
                Err(SymphoniaError::IoError(_)) => return self.ended(),
                Err(error) => return Err(self.bad(error.to_string())),
            }
        }
    }

    /// What there is has been played; was that all?
    fn ended(&self) -> Result<bool, AudioError> {
        // Encoders round up to whole packets.
        let missing = self.expected.filter(|all| self.decoded.saturating_add(u64::from(self.rate) / 5) < *all);
        let seconds = |frames: u64| frames as f64 / f64::from(self.rate);
        match missing {
            Some(all) => {
                Err(AudioError::Truncated { path: self.path.clone(), there: seconds(self.decoded), said: seconds(all) })
            }
            None => Ok(false),
        }
    }

    fn bad(&self, fault: String) -> AudioError {
        AudioError::Unsupported { path: self.path.clone(), fault }
    }
}

/// Reads 20 ms or what the pipe has, in whole samples.
fn read_raw(
    reader: &mut Box<dyn Read + Send>,
    format: SampleFormat,
    channels: u32,
    out: &mut Vec<f32>,
) -> Result<bool, AudioError> {
    let width = if format == SampleFormat::S16 { 2 } else { 4 };
    let mut bytes = vec![0; FRAME * channels as usize * width];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room).map_err(AudioError::io("standard input"))? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled - filled % (width * channels as usize));
    match format {
        SampleFormat::S16 => {
            out.extend(bytes.as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32_768.0))
        }
        SampleFormat::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
    }
    Ok(filled == FRAME * channels as usize * width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(path: &Path, rate: u32, seconds: u32) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        for n in 0..rate * seconds {
            let sample = (n as f32 * 1000.0 * std::f32::consts::TAU / rate as f32).sin() * 16_000.0;
            writer.write_sample(sample as i16).unwrap();
        }
        writer.finalize().unwrap();
    }

    fn all(mut samples: Samples) -> Vec<f32> {
        let mut out = Vec::new();
        while let Some(frame) = samples.frame().unwrap() {
            out.extend(frame);
        }
        out
    }

    #[test]
    fn files_of_any_rate_come_out_at_48_khz() {
        let directory = tempfile::tempdir().unwrap();
        for rate in [48_000, 44_100, 8_000] {
            let path = directory.path().join(format!("{rate}.wav"));
            wav(&path, rate, 2);
            let Source::Samples(samples) = open(&path).unwrap() else { panic!("samples") };
            let out = all(*samples);
            assert!(out.len().abs_diff(96_000) <= 2 * 1024 * 48_000 / rate as usize, "{rate}: {}", out.len());
            let rises = out[4800..90_000].windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
            assert!(rises.abs_diff(1775) <= 2, "{rate}: {rises} periods of 1 kHz");
        }
    }

    #[test]
    fn what_is_no_sound_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letter.txt");
        for bytes in [&b""[..], b"Dear listeners,", &[0u8; 4096], b"RIFF\xff\xff\xff\xffWAVEfmt "] {
            std::fs::write(&path, bytes).unwrap();
            let error = open(&path).err().expect("refused").to_string();
            assert!(error.contains("letter.txt"), "{error}");
        }
        assert!(open(&directory.path().join("missing.wav")).is_err());
        assert!(open(directory.path()).is_err());
    }

    #[test]
    fn a_wav_that_lies_about_its_size_is_played_as_far_as_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lie.wav");
        for (whole, data) in [(u32::MAX, 0x7fff_ff00), (0, 0), (u32::MAX, u32::MAX), (96_036, 0)] {
            wav(&path, 48_000, 1);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[4..8].copy_from_slice(&u32::to_le_bytes(whole));
            bytes[40..44].copy_from_slice(&u32::to_le_bytes(data));
            std::fs::write(&path, bytes).unwrap();
            let Source::Samples(samples) = open(&path).unwrap() else { panic!("samples") };
            assert_eq!(all(*samples).len(), 48_000);
        }
    }

    #[test]
    fn what_is_cut_off_is_played_and_then_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("half.wav");
        wav(&path, 48_000, 2);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let Source::Samples(mut samples) = open(&path).unwrap() else { panic!("samples") };
        let mut frames = 0;
        let error = loop {
            match samples.frame() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => panic!("no word of what is missing"),
                Err(error) => break error.to_string(),
            }
        };
        assert!((48..=50).contains(&frames), "{frames}");
        assert!(error.contains("half.wav") && error.contains("1.0 s of 2.0 s"), "{error}");
    }

    #[test]
    fn a_pipe_is_read_as_what_it_begins_like() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wav");
        wav(&path, 44_100, 1);
        let through = |bytes: Vec<u8>| pipe(Box::new(Cursor::new(bytes)), 48_000, 1);
        let Source::Samples(samples) = through(std::fs::read(&path).unwrap()).unwrap() else { panic!("samples") };
        assert!(all(*samples).len().abs_diff(48_000) < 2_500);
        let mut encoder = crate::codec::OpusEncoder::new(1, None).unwrap();
        let mut writer = crate::ogg_opus::OpusWriter::new(Vec::new(), 1, encoder.pre_skip).unwrap();
        let packet = encoder.encode(&vec![0.1; FRAME]).unwrap();
        writer.packet(packet.clone()).unwrap();
        let Source::Packets(mut packets) = through(writer.finish().unwrap()).unwrap() else { panic!("packets") };
        assert_eq!(packets.next_packet().unwrap(), Some(packet));
        let Source::Samples(samples) = through(vec![1; 2_000]).unwrap() else { panic!("samples") };
        assert_eq!(all(*samples).len(), 1_000);
        assert!(through(Vec::new()).is_err());
    }

    #[test]
    fn raw_samples_are_read_to_the_last() {
        let bytes: Vec<u8> = (0..2000i16).flat_map(|n| n.to_le_bytes()).collect();
        let samples = raw(Box::new(std::io::Cursor::new(bytes)), 48_000, 1, SampleFormat::S16).unwrap();
        assert_eq!(all(samples).len(), 2000);
    }
}
