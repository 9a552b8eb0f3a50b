//! Decodes frames without a container, and the formats that symphonia reads. Only damaged sound is lost, and a file may
//! follow another in the same bytes.

use std::{
    fs::File,
    io::{self, Cursor, Read},
};

use symphonia::{
    core::{
        audio::layouts::{CHANNEL_LAYOUT_MONO, CHANNEL_LAYOUT_STEREO},
        codecs::{
            CodecParameters,
            audio::{
                AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
                well_known::{CODEC_ID_AAC, CODEC_ID_MP3},
            },
        },
        errors::Error,
        formats::{FormatOptions, FormatReader, Track, TrackType, well_known::FORMAT_ID_OGG},
        io::{MediaSource, MediaSourceStream, ReadOnlySource},
        packet::Packet,
    },
    default::formats::{FlacReader, IsoMp4Reader, OggReader, WavReader},
};

use crate::{
    AudioError,
    block::Block,
    bytes::{Bytes, Until},
    damage::Damage,
    detect::Kind,
    frames::{Codec, Frames, Header, Info},
    wav::Head,
};

/// A file with this many consecutive faults is given up.
const FAULTS: u32 = 1_000;

/// What is being decoded.
pub(crate) enum Decoding {
    Frames(Box<Framed>),
    Container(Box<Container>),
}

impl Decoding {
    /// Decodes what `bytes` are at.
    pub(crate) fn open(kind: Kind, bytes: Bytes, name: &str) -> Result<Self, AudioError> {
        if kind == Kind::Frames {
            return Ok(Decoding::Frames(Box::new(Framed::new(bytes, name))));
        }
        Ok(Decoding::Container(Box::new(Container::open(kind, bytes, name)?)))
    }

    /// What comes next; `None` at the end.
    pub(crate) fn block(&mut self) -> Result<Option<Block>, AudioError> {
        match self {
            Decoding::Frames(frames) => frames.block(),
            Decoding::Container(container) => container.block(),
        }
    }

    /// How many damaged places were left out.
    pub(crate) fn damaged(&self) -> u64 {
        match self {
            Decoding::Frames(frames) => frames.damage.places(),
            Decoding::Container(container) => container.damage.places(),
        }
    }
}

fn make(parameters: &AudioCodecParameters) -> Result<Box<dyn AudioDecoder>, Error> {
    symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())
}

fn decode(decoder: &mut dyn AudioDecoder, packet: &Packet) -> Option<Block> {
    let buffer = decoder.decode(packet).ok()?;
    let mut samples = vec![0.0; buffer.samples_interleaved()];
    buffer.copy_to_slice_interleaved(&mut samples);
    Some(Block { samples, rate: buffer.spec().rate(), channels: buffer.spec().channels().count() })
}

/// The error for a file that breaks off after so many seconds.
fn cut(path: &str, there: f64) -> AudioError {
    AudioError::Cut { path: path.into(), there }
}

/// The error for a file that is shorter than its header says; both in seconds.
fn truncated(path: &str, there: f64, said: f64) -> AudioError {
    AudioError::Truncated { path: path.into(), there, said }
}

/// A decoder for frames that are like this one.
struct FrameDecoder {
    header: Header,
    decoder: Box<dyn AudioDecoder>,
}

/// MP3 or AAC without a container.
pub(crate) struct Framed {
    frames: Frames<Bytes>,
    decoder: Option<FrameDecoder>,
    /// The information frame of the current file, and how many of its frames have come.
    info: Option<Info>,
    count: u64,
    damage: Damage,
    path: String,
}

impl Framed {
    fn new(bytes: Bytes, path: &str) -> Self {
        Framed {
            frames: Frames::new(bytes),
            decoder: None,
            info: None,
            count: 0,
            damage: Damage::default(),
            path: path.into(),
        }
    }

    fn block(&mut self) -> Result<Option<Block>, AudioError> {
        while let Some((header, frame)) = self.frames.next().map_err(AudioError::io(&self.path))? {
            if let Some(info) = Info::of(&header, frame).filter(|_| header.codec == Codec::Mp3) {
                (self.info, self.count, self.decoder) = (Some(info), 0, None);
                self.damage.restart();
                continue;
            }
            let packet = Packet::new(0, 0.into(), 0u32.into(), frame.get(header.skip..).unwrap_or_default());
            let decoder = match self.decoder.take().filter(|last| last.header.is_like(&header)) {
                Some(last) => last.decoder,
                None => {
                    self.damage.restart();
                    decoder(&header)
                        .map_err(|e| AudioError::Unsupported { path: self.path.clone(), fault: e.to_string() })?
                }
            };
            if self.frames.skipped {
                self.damage.bad();
            }
            let FrameDecoder { decoder, .. } = self.decoder.insert(FrameDecoder { header, decoder });
            self.count += 1;
            match decode(decoder.as_mut(), &packet) {
                Some(block) => {
                    self.damage.good();
                    return Ok(Some(self.trimmed(block, &header)));
                }
                None => self.damage.bad(),
            }
        }
        let all = self.info.as_ref().and_then(|info| info.frames);
        let Some((all, FrameDecoder { header, .. })) = all.zip(self.decoder.as_ref()) else { return Ok(None) };
        let seconds = |frames: u64| (frames * u64::from(header.samples)) as f64 / f64::from(header.rate);
        // Encoders round up to whole frames.
        match seconds(all.saturating_sub(self.count)) > 0.2 {
            true => Err(truncated(&self.path, seconds(self.count), seconds(all))),
            false => Ok(None),
        }
    }

    /// Removes the padding that the encoder added before and after the sound.
    fn trimmed(&self, mut block: Block, header: &Header) -> Block {
        let Some(info) = &self.info else { return block };
        let length = u64::from(header.samples);
        let from = self.count.saturating_sub(1) * length;
        let end = info.frames.map_or(u64::MAX, |frames| (frames * length).saturating_sub(info.padding));
        let drop = |count: u64| usize::try_from(count.min(length)).unwrap_or(0) * block.channels;
        let (start, keep) = (drop(info.delay.saturating_sub(from)), drop(end.saturating_sub(from)));
        // Frames beyond the announced number belong to another file.
        if info.frames.is_none_or(|frames| self.count <= frames) {
            block.samples.truncate(keep);
            block.samples.drain(..start.min(block.samples.len()));
        }
        block
    }
}

fn decoder(header: &Header) -> Result<Box<dyn AudioDecoder>, Error> {
    let mut parameters = AudioCodecParameters::new();
    let codec = if header.codec == Codec::Mp3 { CODEC_ID_MP3 } else { CODEC_ID_AAC };
    let channels = match header.channels {
        1 => CHANNEL_LAYOUT_MONO,
        2 => CHANNEL_LAYOUT_STEREO,
        _ => return Err(Error::Unsupported("more than two channels of AAC")),
    };
    parameters.for_codec(codec).with_sample_rate(header.rate).with_channels(channels);
    make(&parameters)
}

/// A file that symphonia reads.
pub(crate) struct Container {
    /// `None` if no other file can follow.
    bytes: Option<Bytes>,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    path: String,
    rate: u32,
    /// Samples per channel so far, and in all as the header has it.
    decoded: u64,
    expected: Option<u64>,
    /// Samples per channel by the header of a WAV.
    length: Option<u64>,
    faults: u32,
    damage: Damage,
}

impl Container {
    fn open(kind: Kind, bytes: Bytes, path: &str) -> Result<Self, AudioError> {
        let bad = |fault: &str| AudioError::Unsupported { path: path.into(), fault: fault.into() };
        let (mut head, mut length) = (Vec::new(), None);
        match kind {
            Kind::Wav => {
                let wav = match Head::read(&mut bytes.clone()) {
                    Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        return Err(AudioError::io(path)(error));
                    }
                    wav => {
                        wav.ok().flatten().ok_or_else(|| bad("its header is cut off, or no sound has such a format"))?
                    }
                };
                let sound = wav.length(bytes.left());
                bytes.limit(sound.map_or(Until::End, Until::Bytes));
                length = sound.map(|sound| sound / u64::from(wav.frame.max(1)));
                head = wav.head;
            }
            Kind::Flac => {
                bytes.clone().take(8).read_to_end(&mut head).map_err(AudioError::io(path))?;
                bytes.limit(Until::Flac);
            }
            _ => {}
        }
        let source = Box::new(ReadOnlySource::new(Cursor::new(head).chain(bytes.clone())));
        let mut container = Self::read(kind, source, path)?;
        container.length = length;
        container.bytes = matches!(kind, Kind::Wav | Kind::Flac).then_some(bytes);
        Ok(container)
    }

    /// An MP4 file, whose index may be at its end.
    pub(crate) fn mp4(file: File, path: &str) -> Result<Self, AudioError> {
        Self::read(Kind::Mp4, Box::new(file), path)
    }

    fn read(kind: Kind, source: Box<dyn MediaSource>, path: &str) -> Result<Self, AudioError> {
        let bad = |fault: String| AudioError::Unsupported { path: path.into(), fault };
        let pipe = !source.is_seekable();
        let stream = MediaSourceStream::new(source, Default::default());
        let options = FormatOptions::default();
        let format = match kind {
            Kind::Wav => WavReader::try_new(stream, options).map(|format| Box::new(format) as Box<dyn FormatReader>),
            Kind::Flac => FlacReader::try_new(stream, options).map(|format| Box::new(format) as _),
            Kind::Mp4 => IsoMp4Reader::try_new(stream, options).map(|format| Box::new(format) as _),
            _ => OggReader::try_new(stream, options).map(|format| Box::new(format) as _),
        };
        let format = format.map_err(|fault| match (kind, fault) {
            (_, Error::IoError(error)) if error.kind() != io::ErrorKind::UnexpectedEof => AudioError::io(path)(error),
            (Kind::Mp4, _) if pipe => {
                bad("M4A can be read from a pipe only if its index comes first: name the file, or write \
                it by `ffmpeg -movflags +faststart`"
                    .into())
            }
            (_, fault) => bad(format!("no sound found ({fault})")),
        })?;
        let (track, decoder) = selected(format.as_ref()).map_err(|fault| bad(fault.to_string()))?;
        let rate = decoder.codec_params().sample_rate.unwrap_or(crate::RATE);
        // We wrote the header of a WAV, so it knows no length.
        let (id, expected) = (track.id, track.num_frames.filter(|_| kind != Kind::Wav));
        Ok(Container {
            bytes: None,
            format,
            decoder,
            track: id,
            path: path.into(),
            rate,
            decoded: 0,
            expected,
            length: None,
            faults: 0,
            damage: Damage::default(),
        })
    }

    fn block(&mut self) -> Result<Option<Block>, AudioError> {
        let bad = |path: &str, fault: &Error| AudioError::Unsupported { path: path.into(), fault: fault.to_string() };
        loop {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(Some(packet)) => {
                    let Some(block) = decode(self.decoder.as_mut(), &packet) else {
                        self.damage.bad();
                        continue;
                    };
                    let frames = (block.samples.len() / block.channels.max(1)) as u64;
                    let begins = u64::try_from(packet.pts.get()).unwrap_or(0);
                    // The reader has skipped damage by itself.
                    if begins > self.decoded.saturating_add(frames / 2) {
                        self.damage.bad();
                    }
                    self.damage.good();
                    // Lost sound counts for the length.
                    let reached = begins.saturating_add(packet.dur.get());
                    (self.decoded, self.faults) = (self.decoded.saturating_add(frames).max(reached), 0);
                    return Ok(Some(block));
                }
                Ok(None) if self.next()? => {}
                Ok(None) => return Ok(None),
                Err(Error::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    if self.format.format_info().format == FORMAT_ID_OGG {
                        return Err(cut(&self.path, self.decoded as f64 / f64::from(self.rate)));
                    }
                    if !self.next()? {
                        return Ok(None);
                    }
                }
                Err(Error::IoError(error)) => return Err(AudioError::io(&self.path)(error)),
                // The next song of a station.
                Err(Error::ResetRequired) => {
                    let (track, decoder) = selected(self.format.as_ref()).map_err(|fault| bad(&self.path, &fault))?;
                    (self.track, self.decoder) = (track.id, decoder);
                    self.damage.restart();
                }
                Err(fault) if self.faults >= FAULTS => return Err(bad(&self.path, &fault)),
                Err(_) => {
                    self.faults += 1;
                    self.damage.bad();
                }
            }
        }
    }

    /// Called at the end of a file. Fails if it was truncated; opens the file that follows, if one does.
    fn next(&mut self) -> Result<bool, AudioError> {
        let expected = match (self.length, self.bytes.as_ref().map_or(0, Bytes::missing)) {
            (Some(all), missing) if missing > 0 => Some(all),
            _ => self.expected,
        };
        // Encoders round up to whole packets.
        if let Some(all) = expected.filter(|all| self.decoded.saturating_add(u64::from(self.rate) / 5) < *all) {
            let seconds = |frames: u64| frames as f64 / f64::from(self.rate);
            return Err(truncated(&self.path, seconds(self.decoded), seconds(all)));
        }
        let Some(bytes) = self.bytes.take() else { return Ok(false) };
        match bytes.seek(&self.path) {
            Ok(kind @ (Kind::Wav | Kind::Flac)) => {
                let mut damage = std::mem::take(&mut self.damage);
                damage.restart();
                *self = Container { damage, ..Self::open(kind, bytes, &self.path)? };
                Ok(true)
            }
            Err(fault @ AudioError::Io { .. }) => Err(fault),
            // Anything else behind a WAV or FLAC is metadata, such as a LIST chunk.
            _ => Ok(false),
        }
    }
}

/// The first track with sound, and what decodes it.
fn selected(format: &dyn FormatReader) -> Result<(&Track, Box<dyn AudioDecoder>), Error> {
    let track = format.default_track(TrackType::Audio).ok_or(Error::Unsupported("no track with sound"))?;
    let parameters = track.codec_params.as_ref().and_then(CodecParameters::audio);
    Ok((track, make(parameters.ok_or(Error::Unsupported("no track with sound"))?)?))
}
