//! `listen`: takes groups as they come, orders them in the jitter buffer, and writes packets or sound.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hound::{WavSpec, WavWriter};
use p2pd_api::v1::{
    AudioGroup, StreamConfig, SubscribeStreamRequest, SubscribeStreamResponse,
    stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
};
use p2pd_audio::{
    codec::{OpusDecoder, packet_ticks, to_i16},
    jitter::{Arrival, Jitter, Playout},
    ogg_opus::OpusWriter,
};
use tempfile::NamedTempFile;
use tonic::Streaming;

use super::Context;
use crate::{
    cli::{Format, Listen},
    client,
    exit::fail,
    output,
};

/// How much of the past to ask for: enough to begin at once.
const BURST_MS: u32 = 1_000;

pub(super) async fn run(context: &Context, flags: Listen, file: Option<String>) -> anyhow::Result<()> {
    let path = file.map(PathBuf::from);
    let kind = Kind::of(path.as_deref())?;
    let began = Instant::now();
    let wait_ms = u32::try_from(flags.wait.as_millis()).unwrap_or(u32::MAX).min(600_000);
    let subscribe = SubscribeStreamRequest { stream: flags.stream.clone(), wait_ms, burst_ms: BURST_MS };
    let mut streams = StreamServiceClient::new(context.client.channel.clone());
    let mut replies = tokio::time::timeout(flags.wait + context.client.timeout, streams.subscribe_stream(subscribe))
        .await
        .map_err(|_| fail(6, "no answer from the daemon"))??
        .into_inner();
    let Some(SubscribeStreamResponse { event: Some(Event::Opened(stream)) }) = replies.message().await? else {
        return Err(fail(1, "the daemon did not open the stream"));
    };
    eprintln!(
        "listening to {}@{} ({})",
        stream.stream_id,
        stream.publisher,
        if stream.config.is_some() { "native" } else { "json" }
    );
    let Some(config) = stream.config else {
        return chunks(replies, path.as_deref(), flags.duration).await;
    };
    let sink = Sink::create(kind, path.as_deref(), &config)?;
    let session = Session {
        jitter: Jitter::new(u64::try_from(flags.latency.as_micros()).unwrap_or(u64::MAX)),
        sink,
        began,
        first: None,
        limit: flags.duration.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX) * 6 / 125),
        written: 0,
        titles: Vec::new(),
        newest_title: None,
        gaps: 0,
    };
    session.run(replies, flags.stats, context.format).await
}

struct Session {
    jitter: Jitter,
    sink: Sink,
    began: Instant,
    first: Option<Duration>,
    /// How much to write and what was written, in 48 kHz ticks.
    limit: u64,
    written: u64,
    /// Titles to come, and the media time of the newest that was taken.
    titles: Vec<(u64, String)>,
    newest_title: Option<u64>,
    gaps: u64,
}

impl Session {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn run(
        mut self,
        mut replies: Streaming<SubscribeStreamResponse>,
        stats: bool,
        format: Format,
    ) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let ended = loop {
            let now = self.now();
            let wait = Duration::from_micros(self.jitter.next_due(now).saturating_sub(now).max(1_000));
            tokio::select! {
                reply = replies.message() => match reply {
                    Ok(Some(SubscribeStreamResponse { event: Some(Event::Group(group)) })) => self.take(group)?,
                    Ok(Some(SubscribeStreamResponse { event: Some(Event::Gap(gap)) })) => self.gaps += gap.to - gap.from + 1,
                    Ok(Some(SubscribeStreamResponse { event: Some(Event::Ended(end)) })) => break Ok(match end.reason.as_str() {
                        "stale" => "the publisher is gone: nothing heard of it for two minutes",
                        _ => "the publisher has ended the stream",
                    }),
                    Ok(Some(_)) => {}
                    Ok(None) => break Err(client::closed()),
                    Err(status) => break Err(status.into()),
                },
                () = tokio::time::sleep(wait) => {
                    let out = self.jitter.pull(self.now(), wall_us());
                    self.play(out)?;
                }
                _ = tick.tick(), if stats => eprintln!("{}", self.numbers()),
                _ = tokio::signal::ctrl_c() => break Ok("stopped"),
            }
            if self.written >= self.limit {
                break Ok("the asked time is over");
            }
        };
        if self.written < self.limit {
            let rest = self.jitter.drain(wall_us());
            self.play(rest)?;
        }
        let place = self.sink.finish(ended.is_err())?;
        let (json, text) = summary(&self.jitter, self.first, self.written, self.gaps, &place);
        match format {
            Format::Table => eprintln!("{text}"),
            Format::Json | Format::Jsonl => output::line(&json)?,
        }
        match ended {
            Ok(why) => {
                eprintln!("{why}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, group: AudioGroup) -> anyhow::Result<()> {
        if let Some(title) = group.title
            && self.newest_title.is_none_or(|newest| title.pts > newest)
        {
            self.newest_title = Some(title.pts);
            self.titles.push((title.pts, title.text));
        }
        let frames = group.frames.iter().filter_map(|f| Some((f.to_vec(), packet_ticks(f)?))).collect();
        let arrival =
            Arrival { epoch: group.epoch, seq: group.seq, pts: group.pts, capture_us: group.capture_us, frames };
        let restart = self.jitter.insert(self.now(), arrival);
        if restart.is_some() {
            self.titles.clear();
            self.newest_title = None;
            eprintln!("the publisher has begun anew");
        }
        self.play(restart)
    }

    fn play(&mut self, out: impl IntoIterator<Item = Playout>) -> anyhow::Result<()> {
        for playout in out {
            if self.written >= self.limit {
                break;
            }
            if let Playout::Frame { pts, .. } | Playout::Conceal { pts } = &playout {
                self.first.get_or_insert(self.began.elapsed());
                while let Some((_, title)) = self.titles.first().filter(|(at, _)| at <= pts) {
                    eprintln!("title: {title}");
                    self.titles.remove(0);
                }
            }
            self.written += self.sink.play(playout)?;
        }
        Ok(())
    }

    fn numbers(&self) -> String {
        let stats = &self.jitter.stats;
        format!(
            "{:.1} s, held {} ms of {} ms, groups {}, concealed {}, late {}, underruns {}, latency {} ms",
            self.written as f64 / 48_000.0,
            self.jitter.held_us() / 1000,
            self.jitter.target_us() / 1000,
            stats.groups,
            stats.concealed,
            stats.late,
            stats.underruns,
            stats.median_latency_us().unwrap_or(0) / 1000,
        )
    }
}

fn summary(jitter: &Jitter, first: Option<Duration>, written: u64, gaps: u64, place: &str) -> (String, String) {
    let stats = &jitter.stats;
    let seconds = written as f64 / 48_000.0;
    let first_ms = first.map_or(0, |f| f.as_millis());
    let latency_ms = stats.median_latency_us().unwrap_or(0) / 1000;
    let json = serde_json::json!({
        "seconds": seconds, "groups": stats.groups, "duplicates": stats.duplicates, "reordered": stats.reordered,
        "late_frames": stats.late, "played_frames": stats.played, "concealed_frames": stats.concealed,
        "skipped_frames": stats.skipped, "underruns": stats.underruns, "restarts": stats.restarts, "lost_to_slow_reading": gaps,
        "first_sound_ms": first_ms as u64, "latency_ms": latency_ms, "buffer_ms": jitter.target_us() / 1000, "file": place,
    });
    let text = format!(
        "received {seconds:.1} s in {} groups: {} frames played, {} concealed, {} late, {} skipped, {} underruns\n\
         first sound after {first_ms} ms; capture to playout {latency_ms} ms in the median, as far as both clocks agree; buffer {} ms{}",
        stats.groups,
        stats.played,
        stats.concealed,
        stats.late,
        stats.skipped,
        stats.underruns,
        jitter.target_us() / 1000,
        if place.is_empty() { String::new() } else { format!("\nwritten to {place}") },
    );
    (json.to_string(), text)
}

#[derive(Clone, Copy)]
enum Kind {
    Opus,
    Wav,
    Pcm,
}

impl Kind {
    fn of(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Kind::Pcm) };
        match path.extension().and_then(|e| e.to_str()) {
            Some("opus") => Ok(Kind::Opus),
            Some("wav") => Ok(Kind::Wav),
            _ => Err(fail(
                2,
                format!("-o {}: takes a name that ends in .opus or .wav, or - for standard output", path.display()),
            )),
        }
    }
}

/// Where sound goes. A file is made under a temporary name beside its place, and moved there when it is whole.
enum Sink {
    Opus(OpusWriter<BufWriter<NamedTempFile>>, PathBuf),
    Wav(Box<WavWriter<BufWriter<File>>>, NamedTempFile, PathBuf, OpusDecoder),
    Pcm(OpusDecoder),
    Done,
}

impl Sink {
    fn create(kind: Kind, path: Option<&Path>, config: &StreamConfig) -> anyhow::Result<Self> {
        let decoder = OpusDecoder::new(config.channels)?;
        let Some(path) = path else { return Ok(Sink::Pcm(decoder)) };
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(directory)
            .map_err(|e| fail(1, format!("cannot write in {}: {e}", directory.display())))?;
        Ok(match kind {
            Kind::Opus => {
                Sink::Opus(OpusWriter::new(BufWriter::new(file), config.channels, config.pre_skip)?, path.into())
            }
            Kind::Wav => {
                let spec = WavSpec {
                    channels: u16::try_from(config.channels)?,
                    sample_rate: p2pd_audio::RATE,
                    bits_per_sample: 16,
                    sample_format: hound::SampleFormat::Int,
                };
                Sink::Wav(Box::new(WavWriter::new(BufWriter::new(file.reopen()?), spec)?), file, path.into(), decoder)
            }
            Kind::Pcm => Sink::Pcm(decoder),
        })
    }

    /// Plays one thing. Returns how much that was, in 48 kHz ticks.
    fn play(&mut self, playout: Playout) -> anyhow::Result<u64> {
        match (self, playout) {
            (Sink::Opus(writer, _), Playout::Frame { packet, .. }) => {
                let ticks = packet_ticks(&packet).unwrap_or(0);
                writer.packet(packet)?;
                Ok(ticks)
            }
            // A file of exact packets has no place for what never came.
            (Sink::Opus(..), Playout::Conceal { .. }) => Ok(0),
            (Sink::Wav(writer, .., decoder), playout) => {
                let samples = sound(decoder, playout)?;
                samples.iter().try_for_each(|sample| writer.write_sample(to_i16(*sample)))?;
                Ok(samples.len() as u64 / decoder.channels() as u64)
            }
            (Sink::Pcm(decoder), playout) => {
                let channels = decoder.channels() as u64;
                let samples = sound(decoder, playout)?;
                let bytes: Vec<u8> = samples.iter().flat_map(|s| to_i16(*s).to_le_bytes()).collect();
                let mut out = io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
                Ok(samples.len() as u64 / channels)
            }
            (_, Playout::Restart) | (Sink::Done, _) => Ok(0),
        }
    }

    /// Ends the file; after a failure it is kept under a name that says so. Returns where it is.
    fn finish(&mut self, failed: bool) -> anyhow::Result<String> {
        let (file, path) = match std::mem::replace(self, Sink::Done) {
            Sink::Opus(writer, path) => (writer.finish()?.into_inner().map_err(|e| e.into_error())?, path),
            Sink::Wav(writer, file, path, _) => {
                writer.finalize()?;
                (file, path)
            }
            Sink::Pcm(_) | Sink::Done => return Ok(String::new()),
        };
        let path = if failed { path.with_added_extension("partial") } else { path };
        file.persist(&path).map_err(|e| fail(1, format!("cannot write {}: {}", path.display(), e.error)))?;
        Ok(path.display().to_string())
    }
}

fn sound(decoder: &mut OpusDecoder, playout: Playout) -> anyhow::Result<Vec<f32>> {
    Ok(match playout {
        Playout::Frame { packet, .. } => match decoder.decode(&packet) {
            Ok(samples) => samples,
            // A packet that cannot be decoded costs its own sound only.
            Err(_) => decoder.conceal()?,
        },
        Playout::Conceal { .. } => decoder.conceal()?,
        Playout::Restart => {
            decoder.forget()?;
            Vec::new()
        }
    })
}

/// A stream in the old format: slices of an encoded file, written as they come.
async fn chunks(
    mut replies: Streaming<SubscribeStreamResponse>,
    path: Option<&Path>,
    limit: Option<Duration>,
) -> anyhow::Result<()> {
    let mut out: Box<dyn Write + Send> = match path {
        Some(path) => {
            Box::new(File::create(path).map_err(|e| fail(1, format!("cannot write {}: {e}", path.display())))?)
        }
        None => Box::new(io::stdout()),
    };
    let over = async { tokio::time::sleep(limit.unwrap_or(Duration::from_secs(u64::MAX / 4))).await };
    tokio::pin!(over);
    let mut bytes = 0;
    let why = loop {
        tokio::select! {
            reply = client::next(&mut replies) => match reply?.event {
                Some(Event::Chunk(chunk)) => {
                    bytes += chunk.len();
                    out.write_all(&chunk)?;
                    out.flush()?;
                }
                Some(Event::Ended(_)) => break "the publisher has ended the stream",
                Some(Event::Gap(gap)) => eprintln!("p2pctl: slices {} to {} were lost: {}", gap.from, gap.to, gap.reason),
                _ => {}
            },
            () = &mut over => break "the asked time is over",
            _ = tokio::signal::ctrl_c() => break "stopped",
        }
    };
    eprintln!("received {bytes} bytes of an encoded file\n{why}");
    Ok(())
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
