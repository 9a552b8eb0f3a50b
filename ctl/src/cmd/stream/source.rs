//! Where the packets of `publish-stream` come from: a thread that reads and encodes, a few packets ahead.

use std::{
    io::{BufReader, Read},
    mem,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use p2pd_api::v1::StreamConfig;
use p2pd_audio::{
    AudioError, FRAME,
    codec::{OpusEncoder, packet_ticks},
    source::{self, SampleFormat, Samples, Source},
    ticks,
};
use tokio::sync::mpsc;

use super::{sink, sound_card};
use crate::{
    cli::{Publish, SampleArg, WireArg},
    error::{Exit, fail},
};

/// Packets queued between the reader and the sender; a longer queue would only add delay.
const AHEAD: usize = 4;
/// Largest chunk of an encoded stream, in bytes; the daemon takes twice as much.
pub(super) const CHUNK: usize = 16 * 1024;

/// A packet, how long it plays, and its peak (0 to 1; 0 where it is not decoded).
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) ticks: u64,
    pub(super) level: f32,
}

/// What the reading thread sends.
pub(super) type Packets = mpsc::Receiver<anyhow::Result<Packet>>;

/// A source, and whether it can be opened again, as a file can.
pub(super) struct OpenSource {
    source: Source,
    again: bool,
}

pub(super) enum Opened {
    Source(OpenSource),
    /// An encoded file whose bytes go out as they are.
    Bytes {
        bytes: Vec<u8>,
        duration: Duration,
    },
}

/// Opens the source, so that a bad one is refused before anything is announced.
pub(super) fn open(flags: &Publish) -> anyhow::Result<Opened> {
    let OpenSource { source, again } = source(flags)?;
    if flags.repeat && !again {
        return Err(fail(Exit::Usage, "--loop: this source cannot be read again; name a file"));
    }
    let name = flags.source.as_deref().unwrap_or_default().to_ascii_lowercase();
    let encoded = [".mp3", ".m4a", ".aac"].iter().any(|end| name.ends_with(end));
    Ok(match (source, &flags.source) {
        (Source::Samples(samples), Some(path))
            if flags.wire == WireArg::Json && encoded && again && flags.format == SampleArg::Auto =>
        {
            Opened::Bytes { bytes: std::fs::read(path)?, duration: samples_duration(*samples)? }
        }
        (source, _) => Opened::Source(OpenSource { source, again }),
    })
}

/// Opens the source.
fn source(flags: &Publish) -> anyhow::Result<OpenSource> {
    if let Some(hertz) = flags.tone {
        return Ok(OpenSource { source: Source::Samples(source::tone(hertz)?.into()), again: true });
    }
    let name = flags.source.as_deref().unwrap_or("-");
    let raw = |reader: Box<dyn Read + Send>, rate, format, name| -> anyhow::Result<Source> {
        Ok(Source::Samples(source::raw(reader, rate, flags.channels, format, name)?.into()))
    };
    if let Some(card) = sink::card(name) {
        let reader = sound_card::record(card, flags.channels)?;
        let source = raw(reader, p2pd_audio::RATE, SampleFormat::F32, "the sound card")?;
        return Ok(OpenSource { source, again: false });
    }
    let format = match flags.format {
        SampleArg::S16 => Some(SampleFormat::S16),
        SampleArg::F32 => Some(SampleFormat::F32),
        SampleArg::Auto => None,
    };
    if name == "-" {
        let (stdin, name) = (Box::new(std::io::stdin()), "standard input");
        let source = match format {
            Some(format) => raw(stdin, flags.rate, format, name)?,
            None => source::pipe(stdin, name).map_err(hint)?,
        };
        return Ok(OpenSource { source, again: false });
    }
    let path = Path::new(name);
    let again = path.is_file();
    let source = match format {
        Some(format) => raw(Box::new(BufReader::new(source::file(path)?.file)), flags.rate, format, name)?,
        None => source::open(path).map_err(hint)?,
    };
    Ok(OpenSource { source, again })
}

/// An unrecognised source may be raw samples: says how to name their format.
fn hint(error: AudioError) -> anyhow::Error {
    match error {
        AudioError::Unknown { .. } => {
            fail(Exit::Failed, format!("{error}; if it is raw samples, say --format s16 or f32"))
        }
        error => error.into(),
    }
}

fn samples_duration(mut samples: Samples) -> anyhow::Result<Duration> {
    let mut frames = 0;
    while samples.frame()?.is_some() {
        frames += 1;
    }
    Ok(Duration::from_millis(20 * frames))
}

/// What is published, and how its packets come.
pub(super) struct Feed {
    pub(super) config: StreamConfig,
    pub(super) packets: Packets,
    /// They are chunks of an encoded file.
    pub(super) chunked: bool,
    /// The source can be opened again, so it is not live.
    pub(super) again: bool,
    /// How many damaged places of the source were left out so far.
    pub(super) damaged: Arc<AtomicU64>,
}

/// Starts the thread that reads and encodes; it runs ahead by a few frames only.
pub(super) fn read(opened: Opened, flags: &Publish) -> anyhow::Result<Feed> {
    let (sender, packets) = mpsc::channel(AHEAD);
    let mut config = StreamConfig {
        codec: "opus".into(),
        sample_rate: p2pd_audio::RATE,
        channels: 1,
        frame_us: 20_000,
        frames_per_group: if flags.low_latency { 2 } else { 5 },
        pre_skip: 0,
        bitrate: flags.bitrate.unwrap_or(0),
    };
    let (chunked, mut again) = (matches!(opened, Opened::Bytes { .. }), true);
    let damaged = Arc::new(AtomicU64::new(0));
    match opened {
        Opened::Source(open) => {
            let source = open.source;
            again = open.again;
            let encoder = match &source {
                Source::Samples(samples) => {
                    let encoder = OpusEncoder::new(samples.channels, flags.bitrate)?;
                    (config.channels, config.pre_skip) = (samples.channels, encoder.pre_skip);
                    config.bitrate = encoder.bitrate;
                    Some(encoder)
                }
                Source::Packets(file) => {
                    (config.channels, config.pre_skip) = (file.channels, file.pre_skip);
                    config.frame_us = u32::try_from(ticks::to_us(file.first_ticks))?;
                    let group_us = if flags.low_latency { 40_000 } else { 100_000 };
                    config.frames_per_group = (group_us / config.frame_us).max(1);
                    None
                }
            };
            let repeat = flags.repeat.then(|| flags.clone());
            let mut reader = Reader { source, encoder, repeat, damaged: damaged.clone() };
            spawn(sender, move || reader.next());
        }
        Opened::Bytes { bytes, duration } => spawn(sender, chunks(bytes, duration, flags.repeat)),
    }
    Ok(Feed { config, packets, chunked, again, damaged })
}

/// An encoded file in chunks.
fn chunks(bytes: Vec<u8>, duration: Duration, repeat: bool) -> impl FnMut() -> anyhow::Result<Option<Packet>> {
    let ticks = u64::try_from(CHUNK * duration.as_millis() as usize * 48 / bytes.len().max(1)).unwrap_or(u64::MAX);
    let mut at = 0;
    move || {
        if repeat && at >= bytes.len() {
            at = 0;
        }
        let chunk = bytes.get(at..).unwrap_or_default().chunks(CHUNK).next();
        at += CHUNK;
        Ok(chunk.map(|chunk| Packet { data: chunk.into(), ticks, level: 0.0 }))
    }
}

/// Reads the packets of a source, or encodes its samples.
struct Reader {
    source: Source,
    /// For samples.
    encoder: Option<OpusEncoder>,
    /// With `--loop`: how to open the source again at its end.
    repeat: Option<Publish>,
    damaged: Arc<AtomicU64>,
}

impl Reader {
    fn next(&mut self) -> anyhow::Result<Option<Packet>> {
        let packet = self.packet()?;
        let (None, Some(flags)) = (&packet, &self.repeat) else { return Ok(packet) };
        let again = source(flags)?.source;
        let same = match (&again, &self.source) {
            (Source::Samples(again), Source::Samples(before)) => again.channels == before.channels,
            (again, before) => mem::discriminant(again) == mem::discriminant(before),
        };
        if !same {
            return Err(fail(Exit::Failed, "the file has become another one: publish it anew"));
        }
        self.source = again;
        self.packet()
    }

    fn packet(&mut self) -> anyhow::Result<Option<Packet>> {
        let before = self.source.damaged();
        let packet = match &mut self.source {
            Source::Samples(samples) => samples.frame().map(|frame| frame.map(Content::Frame)),
            Source::Packets(file) => file.next_packet().map(|packet| packet.map(Content::Packet)),
        };
        self.damaged.fetch_add(self.source.damaged().saturating_sub(before), Ordering::Relaxed);
        Ok(match (packet?, &mut self.encoder) {
            (Some(Content::Frame(frame)), Some(encoder)) => {
                Some(Packet { data: encoder.encode(&frame)?, ticks: FRAME as u64, level: sink::peak(&frame) })
            }
            (Some(Content::Packet(data)), _) => {
                Some(Packet { ticks: packet_ticks(&data).unwrap_or(FRAME as u64), data, level: 0.0 })
            }
            _ => None,
        })
    }
}

/// What a source gives.
enum Content {
    Frame(Vec<f32>),
    Packet(Vec<u8>),
}

/// Starts a thread that sends what `next` returns.
fn spawn(
    sender: mpsc::Sender<anyhow::Result<Packet>>,
    mut next: impl FnMut() -> anyhow::Result<Option<Packet>> + Send + 'static,
) {
    // A decoder that fails on damage must not look like the end of the sound.
    let mut caught = move || {
        let failed = |_| Err(fail(Exit::Failed, "the decoder has failed on this source"));
        panic::catch_unwind(AssertUnwindSafe(&mut next)).unwrap_or_else(failed)
    };
    std::thread::spawn(move || while forward(&sender, caught()) {});
}

/// Sends a packet; false at the end, or when the receiver has gone.
fn forward(sender: &mpsc::Sender<anyhow::Result<Packet>>, next: anyhow::Result<Option<Packet>>) -> bool {
    match next {
        Ok(Some(packet)) => sender.blocking_send(Ok(packet)).is_ok(),
        Ok(None) => false,
        Err(error) => {
            let _ = sender.blocking_send(Err(error));
            false
        }
    }
}
