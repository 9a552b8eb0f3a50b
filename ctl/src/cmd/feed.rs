//! Where the packets of `publish-stream` come from: a thread that reads and encodes, a few packets ahead.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use p2pd_api::v1::StreamConfig;
use p2pd_audio::{
    FRAME,
    codec::{OpusEncoder, packet_ticks},
    ogg_opus::OpusFile,
    source::{self, Ogg, SampleFormat, Samples, Source},
};
use tokio::sync::mpsc;

use super::{card, sink};
use crate::cli::{PublishStream, SampleArg, WireArg};

/// Packets between the reader and the sender; more would be delay.
const AHEAD: usize = 4;
/// Largest slice of a file in JSON, in bytes.
const SLICE: usize = 16 * 1024;

/// A packet, how long it plays, and its peak (0 to 1; 0 where it is not decoded).
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) ticks: u64,
    pub(super) level: f32,
}

/// What the reading thread sends.
pub(super) type Packets = mpsc::Receiver<anyhow::Result<Packet>>;

pub(super) enum Opened {
    Samples(Box<Samples>, Option<PathBuf>),
    Packets(OpusFile<Box<dyn Ogg>>, Option<PathBuf>),
    /// An encoded file whose bytes go out as they are.
    Bytes(Vec<u8>, Duration),
}

/// Opens the source, so that a bad one is refused before anything is announced.
pub(super) fn open(flags: &PublishStream) -> anyhow::Result<Opened> {
    if let Some(hertz) = flags.tone {
        return Ok(Opened::Samples(source::tone(hertz)?.into(), None));
    }
    let name = flags.source.as_deref().unwrap_or("-");
    if name == "-" {
        let (stdin, rate, channels) = (Box::new(std::io::stdin()), flags.rate, flags.channels);
        let source = match flags.format {
            SampleArg::Auto => source::pipe(stdin, rate, channels)?,
            SampleArg::S16 => Source::Samples(source::raw(stdin, rate, channels, SampleFormat::S16)?.into()),
            SampleArg::F32 => Source::Samples(source::raw(stdin, rate, channels, SampleFormat::F32)?.into()),
        };
        return Ok(match source {
            Source::Samples(samples) => Opened::Samples(samples, None),
            Source::Packets(packets) => Opened::Packets(packets, None),
        });
    }
    if let Some(card) = sink::card(name) {
        let reader = card::record(card, flags.channels)?;
        return Ok(Opened::Samples(
            source::raw(reader, p2pd_audio::RATE, flags.channels, SampleFormat::F32)?.into(),
            None,
        ));
    }
    let path = Path::new(name);
    let encoded = path
        .extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| ["mp3", "m4a", "aac"].contains(&e.to_ascii_lowercase().as_str()));
    match source::open(path)? {
        Source::Samples(samples) if flags.wire == WireArg::Json && encoded => {
            Ok(Opened::Bytes(std::fs::read(path)?, samples_duration(*samples)?))
        }
        Source::Samples(samples) => Ok(Opened::Samples(samples, Some(path.into()))),
        Source::Packets(packets) => Ok(Opened::Packets(packets, Some(path.into()))),
    }
}

fn samples_duration(mut samples: Samples) -> anyhow::Result<Duration> {
    let mut frames = 0;
    while samples.frame()?.is_some() {
        frames += 1;
    }
    Ok(Duration::from_millis(20 * frames))
}

/// Starts the thread that reads and encodes; it runs ahead by a few frames only.
pub(super) fn read(opened: Opened, flags: &PublishStream) -> anyhow::Result<(StreamConfig, Packets)> {
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
    let repeat = flags.repeat;
    match opened {
        Opened::Samples(mut samples, path) => {
            let mut encoder = OpusEncoder::new(samples.channels, flags.bitrate)?;
            (config.channels, config.pre_skip, config.bitrate) = (samples.channels, encoder.pre_skip, encoder.bitrate);
            let mut next = move || -> anyhow::Result<Option<Packet>> {
                let frame = match (samples.frame()?, &path) {
                    (None, Some(path)) if repeat => {
                        let Source::Samples(again) = source::open(path)? else { return Ok(None) };
                        samples = again;
                        samples.frame()?
                    }
                    (frame, _) => frame,
                };
                let Some(frame) = frame else { return Ok(None) };
                let level = frame.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
                Ok(Some(Packet { data: encoder.encode(&frame)?, ticks: FRAME as u64, level }))
            };
            std::thread::spawn(move || while forward(&sender, next()) {});
        }
        Opened::Packets(mut file, path) => {
            (config.channels, config.pre_skip) = (file.channels, file.pre_skip);
            config.frame_us = u32::try_from(file.first_ticks * 125 / 6)?;
            let group_us = if flags.low_latency { 40_000 } else { 100_000 };
            config.frames_per_group = (group_us / config.frame_us).max(1);
            let mut next = move || -> anyhow::Result<Option<Packet>> {
                let data = match (file.next_packet()?, &path) {
                    (None, Some(path)) if repeat => {
                        let Source::Packets(again) = source::open(path)? else { return Ok(None) };
                        file = again;
                        file.next_packet()?
                    }
                    (data, _) => data,
                };
                Ok(data.map(|data| Packet { ticks: packet_ticks(&data).unwrap_or(FRAME as u64), data, level: 0.0 }))
            };
            std::thread::spawn(move || while forward(&sender, next()) {});
        }
        Opened::Bytes(bytes, duration) => {
            let each =
                u64::try_from(SLICE * duration.as_millis() as usize * 48 / bytes.len().max(1)).unwrap_or(u64::MAX);
            std::thread::spawn(move || {
                while bytes
                    .chunks(SLICE)
                    .all(|slice| forward(&sender, Ok(Some(Packet { data: slice.into(), ticks: each, level: 0.0 }))))
                    && repeat
                {}
            });
        }
    }
    Ok((config, packets))
}

/// Hands on a packet; false when there is no more, or nobody who takes it.
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
