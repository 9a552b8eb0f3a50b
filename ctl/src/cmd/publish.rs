//! `publish-stream`: reads a source, encodes, and sends frames in real time.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use p2pd_api::v1::{
    Frame, OpenStream, PublishStreamRequest, PublishStreamResponse, StreamConfig, WireFormat,
    publish_stream_request::Item, publish_stream_response::Event, stream_service_client::StreamServiceClient,
};
use p2pd_audio::{
    FRAME,
    codec::{OpusEncoder, packet_ticks},
    ogg_opus::OpusWriter,
    pace::Pace,
    source::{self, SampleFormat, Samples, Source},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use crate::{
    cli::{PublishStream, SampleArg, WireArg},
    client,
    exit::fail,
    output,
};

/// Frames between the reader and the connection; more would be delay.
const AHEAD: usize = 4;
/// Largest slice of a file in JSON, in bytes.
const SLICE: usize = 16 * 1024;

/// A packet, how long it plays, and its peak (0 to 1; 0 where it is not decoded).
struct Packet {
    data: Vec<u8>,
    ticks: u64,
    level: f32,
}

/// What the reading thread sends.
type Packets = mpsc::Receiver<anyhow::Result<Packet>>;

pub(super) async fn run(context: &Context, flags: PublishStream) -> anyhow::Result<()> {
    let opened = open(&flags)?;
    let (config, packets) = read(opened, &flags)?;
    let open = OpenStream {
        stream_id: flags.id.clone(),
        name: flags.name.clone(),
        category: flags.category.clone(),
        wire: if flags.wire == WireArg::Json { WireFormat::Json } else { WireFormat::Native }.into(),
        config: Some(config.clone()),
        metadata_json: String::new(),
    };
    let (items, requests) = mpsc::channel(AHEAD);
    items.send(request(Item::Open(open))).await?;
    let mut streams = StreamServiceClient::new(context.client.channel.clone());
    let mut replies = context.client.answer(streams.publish_stream(ReceiverStream::new(requests))).await?;
    let Some(PublishStreamResponse { event: Some(Event::Opened(stream)) }) = replies.message().await? else {
        return Err(fail(1, "the daemon did not open the stream"));
    };
    eprintln!("publishing {}@{}", stream.stream_id, stream.publisher);
    let meter = Arc::new(Meter::default());
    let mut sending = tokio::spawn(send(packets, items, config, flags, meter.clone()));
    let mut last = None;
    loop {
        tokio::select! {
            reply = replies.message() => match reply {
                Ok(Some(reply)) => last = Some(reply),
                Ok(None) => break,
                Err(status) => {
                    sending.abort();
                    return Err(status.into());
                }
            },
            _ = tokio::signal::ctrl_c() => {
                sending.abort();
                eprintln!("\nstopped");
                return Err(fail(130, ""));
            }
        }
        progress(last.as_ref(), &meter);
    }
    let Some(sent) = (&mut sending).await?? else { return Err(client::closed()) };
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    if let Some(Event::Acknowledgement(a)) = last.and_then(|reply| reply.event) {
        let summary = format!(
            "sent {:.1} s in {} groups, {} dropped, {} listeners at the end",
            sent.as_secs_f64(),
            a.groups,
            a.dropped,
            a.listeners
        );
        output::line(&summary)?;
    }
    Ok(())
}

fn request(item: Item) -> PublishStreamRequest {
    PublishStreamRequest { item: Some(item) }
}

/// What the sending task tells the progress line.
#[derive(Default)]
struct Meter {
    media_us: AtomicU64,
    bytes: AtomicU64,
    /// Peak of the last packet, in thousandths.
    peak: AtomicU64,
}

fn progress(reply: Option<&PublishStreamResponse>, meter: &Meter) {
    let Some(Event::Acknowledgement(a)) = reply.and_then(|reply| reply.event.as_ref()) else { return };
    if !std::io::stderr().is_terminal() {
        return;
    }
    let seconds = meter.media_us.load(Ordering::Relaxed) as f64 / 1e6;
    let kbits = meter.bytes.load(Ordering::Relaxed) as f64 * 8.0 / 1000.0 / seconds.max(0.02);
    let peak = meter.peak.load(Ordering::Relaxed) as f64 / 1000.0;
    let level = if peak > 0.0 { format!(", peak {:.0} dB", 20.0 * peak.log10()) } else { String::new() };
    eprint!("\r{seconds:.1} s, {kbits:.0} kbit/s, {} listeners, {} groups dropped{level}   ", a.listeners, a.dropped);
}

enum Opened {
    Samples(Box<Samples>, Option<PathBuf>),
    Packets(Source, PathBuf),
    /// An encoded file whose bytes go out as they are.
    Bytes(Vec<u8>, Duration),
}

/// Opens the source, so that a bad one is refused before anything is announced.
fn open(flags: &PublishStream) -> anyhow::Result<Opened> {
    if let Some(hertz) = flags.tone {
        return Ok(Opened::Samples(source::tone(hertz)?.into(), None));
    }
    let name = flags.source.as_deref().unwrap_or("-");
    if name == "-" {
        let format = if flags.format == SampleArg::S16 { SampleFormat::S16 } else { SampleFormat::F32 };
        let samples = source::raw(Box::new(std::io::stdin()), flags.rate, flags.channels, format)?;
        return Ok(Opened::Samples(samples.into(), None));
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
        packets => Ok(Opened::Packets(packets, path.into())),
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
fn read(opened: Opened, flags: &PublishStream) -> anyhow::Result<(StreamConfig, Packets)> {
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
        Opened::Packets(Source::Packets(mut file), path) => {
            (config.channels, config.pre_skip) = (file.channels, file.pre_skip);
            let mut next = move || -> anyhow::Result<Option<Packet>> {
                let data = match file.next_packet()? {
                    None if repeat => {
                        let Source::Packets(again) = source::open(&path)? else { return Ok(None) };
                        file = again;
                        file.next_packet()?
                    }
                    data => data,
                };
                Ok(data.map(|data| Packet { ticks: packet_ticks(&data).unwrap_or(FRAME as u64), data, level: 0.0 }))
            };
            std::thread::spawn(move || while forward(&sender, next()) {});
        }
        Opened::Packets(Source::Samples(_), _) => return Err(fail(1, "the file has changed while it was opened")),
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

/// Sends packets when they are due. Returns how much was sent, or nothing if the daemon went away before all was.
async fn send(
    mut packets: Packets,
    items: mpsc::Sender<PublishStreamRequest>,
    config: StreamConfig,
    flags: PublishStream,
    meter: Arc<Meter>,
) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut pace = Pace::new(0);
    let mut media = 0u64;
    if let Some(title) = &flags.title {
        items.send(request(Item::Title(title.clone()))).await?;
    }
    let json = flags.wire == WireArg::Json;
    let raw = json
        && flags
            .source
            .as_deref()
            .is_some_and(|s| [".mp3", ".m4a", ".aac"].iter().any(|e| s.to_ascii_lowercase().ends_with(e)));
    // The old format carries an encoded file: frames are put into an Ogg stream.
    let mut ogg =
        if json && !raw { Some(OpusWriter::new(Vec::new(), config.channels, config.pre_skip)?) } else { None };
    let limit = flags.duration.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    while let Some(packet) = packets.recv().await {
        let Packet { data, ticks, level } = packet?;
        meter.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        meter.peak.store((level * 1000.0) as u64, Ordering::Relaxed);
        meter.media_us.store(media.saturating_mul(125) / 6, Ordering::Relaxed);
        let media_us = media.saturating_mul(125) / 6;
        if media_us >= limit {
            break;
        }
        // A frame is sent when its last sample would have been captured.
        let due = media_us + ticks * 125 / 6;
        tokio::time::sleep(Duration::from_micros(pace.wait(now(), due))).await;
        let item = match &mut ogg {
            _ if raw => Item::Chunk(data.into()),
            None => Item::Frame(Frame { data: data.into(), capture_us: wall_us().saturating_sub(ticks * 125 / 6) }),
            Some(ogg) => {
                ogg.packet(data)?;
                match std::mem::take(ogg.sink()) {
                    page if page.is_empty() => {
                        media += ticks;
                        continue;
                    }
                    page => Item::Chunk(page.into()),
                }
            }
        };
        if items.send(request(item)).await.is_err() {
            return Ok(None);
        }
        media += ticks;
    }
    if let Some(ogg) = ogg {
        let _ = items.send(request(Item::Chunk(ogg.finish()?.into()))).await;
    }
    let finished = items.send(request(Item::Finish(true))).await.is_ok();
    Ok(finished.then(|| Duration::from_micros(media * 125 / 6)))
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
