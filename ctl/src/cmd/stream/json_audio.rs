//! `listen` to a stream in the old format: chunks of an encoded file, decoded, or kept as they come.

use std::{
    io::{self, IsTerminal, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use p2pd_api::v1::{StreamConfig, SubscribeStreamResponse, subscribe_stream_response::Event};
use p2pd_audio::{
    join::Join,
    playout::Playout,
    schedule::Schedule,
    source::{self, Source},
    ticks,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tonic::Streaming;

use super::{
    lines::Meter,
    playback::{End, Playback},
    recording::Recording,
    sink::{self, Kind, Pipe, Played, Sink},
};
use crate::{
    cli::Listen,
    client,
    error::{Exit, fail},
    output::{self, Format},
    signals::asked_to_stop,
};

/// Chunks that wait for the decoder, 2 MiB of them at most.
const WAITING: usize = 64;
/// Chunks that wait for the reader of standard output, 8 MiB of them at most; half a minute of 510 kbit/s.
const UNREAD: usize = 256;
const NOT_READ: &str = "standard output is read too slowly: 256 chunks of the stream wait for its reader";
/// How far behind the first chunk the card plays, since chunks come by the second; in microseconds.
const BEHIND_US: u64 = 500_000;

/// Listens to a stream in the old format.
pub(super) struct JsonAudio {
    to: To,
    until: Option<Instant>,
    title: Option<String>,
    join: Join,
    /// Bytes that came, and how many of them were kept.
    bytes: usize,
    kept: usize,
    lost: u64,
}

/// Where the chunks go.
enum To {
    File(Recording),
    Stdout(Pipe),
    Decoder(Decoder),
    /// Only the numbers are wanted.
    Nowhere,
}

impl JsonAudio {
    pub(super) fn new(path: Option<&Path>, flags: &Listen, format: Format) -> anyhow::Result<Self> {
        let sound = path.is_none_or(|path| {
            path.extension().is_some_and(|e| e == "wav" || e == "opus") || path.to_str().and_then(sink::card).is_some()
        });
        let to = match path {
            _ if format != Format::Table => To::Nowhere,
            path if sound && !flags.raw => To::Decoder(Decoder::start(path, flags.duration)?),
            Some(path) => To::File(Recording::create(path)?),
            None if io::stdout().is_terminal() => {
                return Err(fail(
                    Exit::Usage,
                    "--raw writes an encoded file: name one with -o, or pipe it into a player",
                ));
            }
            None => To::Stdout(Pipe::open(UNREAD, NOT_READ)),
        };
        // The decoder counts the sound itself.
        let limit = flags.duration.filter(|_| !matches!(to, To::Decoder(_)));
        let until = limit.map(|limit| Instant::now() + limit);
        Ok(JsonAudio { to, until, title: None, join: Join::default(), bytes: 0, kept: 0, lost: 0 })
    }

    async fn take(&mut self, chunk: Bytes) -> anyhow::Result<()> {
        self.bytes += chunk.len();
        match &mut self.to {
            To::File(file) => {
                let kept = self.join.take(&chunk);
                self.kept += kept.len();
                file.append(&kept).map_err(|error| file.fault(&error))?;
            }
            To::Stdout(pipe) => {
                let kept = self.join.take(&chunk);
                self.kept += kept.len();
                if !kept.is_empty() {
                    pipe.write(kept)?;
                }
            }
            To::Decoder(decoder) => tokio::select! {
                // An error means that the decoder has ended, which `follow` notices.
                _ = decoder.chunks.send(chunk) => {}
                () = asked_to_stop() => {}
            },
            To::Nowhere => {}
        }
        Ok(())
    }

    /// Prints a new title.
    fn entitle(&mut self, metadata: &str) {
        let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap_or_default();
        let harmless = |title: &str| title.chars().filter(|c| !c.is_control() && output::is_harmless(*c)).collect();
        let title: Option<String> = metadata.get("title").and_then(|title| title.as_str()).map(harmless);
        if title.is_some() && title != self.title {
            output::say(format_args!("title: {}", title.as_deref().unwrap_or_default()));
            self.title = title;
        }
    }
}

impl Playback for JsonAudio {
    const NATIVE: bool = false;

    async fn follow(&mut self, mut replies: Streaming<SubscribeStreamResponse>) -> anyhow::Result<End> {
        loop {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            let over = async {
                match (&mut self.to, left) {
                    (To::Decoder(decoder), _) => decoder.chunks.closed().await,
                    (_, Some(left)) => sleep(left).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return Ok(End::Limit),
                reply = client::next(&mut replies) => match reply.map(|reply| reply.event) {
                    Ok(Some(Event::Chunk(chunk))) => self.take(chunk).await?,
                    Ok(Some(Event::MetadataJson(metadata))) => self.entitle(&metadata),
                    Ok(Some(Event::Ended(end))) => return Ok(End::of(&end)),
                    Ok(Some(Event::Gap(gap))) => {
                        self.lost += gap.to - gap.from + 1;
                        output::say(format_args!("p2pctl: chunks {} to {} were lost: {}", gap.from, gap.to, gap.reason));
                    }
                    Ok(_) => {}
                    Err(error) => return Ok(End::Lost(error)),
                },
                () = asked_to_stop() => return Ok(End::Stopped),
            }
        }
    }

    /// Finishes the file; after a failure it keeps its partial name.
    async fn close(mut self, ended: anyhow::Result<End>, format: Format) -> anyhow::Result<()> {
        let failed = matches!(ended, Ok(End::Lost(_)) | Err(_));
        let rest = self.join.finish();
        let kept = self.kept + rest.len();
        let mut nothing_kept = false;
        let finished = match self.to {
            To::File(mut file) => {
                let written = file.append(&rest);
                (file.heard, nothing_kept) = (kept > 0, kept == 0);
                file.finish(failed || nothing_kept, written)
            }
            To::Decoder(decoder) => decoder.finish(failed).await,
            To::Stdout(pipe) => {
                nothing_kept = kept == 0;
                // The user who stops the command does not wait for a reader that has stopped.
                let closed = match ended {
                    Ok(End::Stopped | End::Lost(_)) | Err(_) => Ok(()),
                    _ => pipe.write(rest).and_then(|()| pipe.close()),
                };
                closed.map(|()| String::new()).map_err(Into::into)
            }
            To::Nowhere => Ok(String::new()),
        };
        if let Ok(place) = &finished
            && !place.is_empty()
        {
            output::say(format_args!("written to {place}"));
        }
        let numbers = serde_json::json!({ "bytes": self.bytes, "lost_to_slow_reading": self.lost });
        match format {
            Format::Table => output::say(format_args!("received {} bytes of an encoded file", self.bytes)),
            Format::Json | Format::Jsonl => output::line(&numbers.to_string())?,
        }
        match ended? {
            End::Lost(error) => return Err(error),
            end => output::say(end),
        }
        if nothing_kept && self.bytes > 0 {
            return Err(fail(
                Exit::Failed,
                "nothing was written: no header of its Ogg stream came, and without one no player can begin",
            ));
        }
        finished.map(drop)
    }
}

/// A thread that decodes chunks and plays or writes the sound. It ends after the asked duration, or when the chunks end.
struct Decoder {
    chunks: mpsc::Sender<Bytes>,
    failed: Arc<AtomicBool>,
    /// Where the sound was written.
    place: oneshot::Receiver<anyhow::Result<String>>,
}

impl Decoder {
    fn start(path: Option<&Path>, limit: Option<Duration>) -> anyhow::Result<Self> {
        let (chunks, waiting) = mpsc::channel(WAITING);
        let (done, place) = oneshot::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let kind = Kind::of(path)?;
        let limit = limit.map_or(u64::MAX, ticks::from_duration);
        let (path, cut) = (path.map(Path::to_owned), failed.clone());
        thread::spawn(move || {
            let _ = done.send(decode(ChunkReader { waiting, chunk: Bytes::new() }, kind, path.as_deref(), limit, &cut));
        });
        Ok(Decoder { chunks, failed, place })
    }

    async fn finish(self, failed: bool) -> anyhow::Result<String> {
        self.failed.store(failed, Ordering::Relaxed);
        drop(self.chunks);
        self.place.await.unwrap_or_else(|_| Err(fail(Exit::Failed, "the decoder has failed")))
    }
}

/// What the decoder reads.
struct ChunkReader {
    waiting: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.waiting.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = room.len().min(self.chunk.len());
        self.chunk.copy_to_slice(room.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Decodes to the end of the chunks, or `limit` ticks of 48 kHz. Returns where the sound was written.
fn decode(
    chunks: ChunkReader,
    kind: Kind,
    path: Option<&Path>,
    limit: u64,
    cut: &AtomicBool,
) -> anyhow::Result<String> {
    let source = source::pipe(Box::new(chunks), "the stream")
        .map_err(|error| fail(Exit::Failed, format!("{error}; --raw keeps the stream as it comes")))?;
    let (channels, pre_skip) = match &source {
        Source::Samples(samples) => (samples.channels, 0),
        Source::Packets(packets) => (packets.channels, packets.pre_skip),
    };
    let mut sink = Sink::create(kind, path, &StreamConfig { channels, pre_skip, ..StreamConfig::default() })?;
    let meter = Meter::new(channels)?;
    let played = play(source, &mut sink, meter, limit, matches!(kind, Kind::Card));
    let place = sink.finish(played.is_err() || cut.load(Ordering::Relaxed))?;
    played.map(|()| place)
}

fn play(mut source: Source, sink: &mut Sink, mut meter: Option<Meter>, limit: u64, paced: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut schedule = Schedule::new(0);
    let mut written = 0;
    while written < limit {
        let played = match &mut source {
            Source::Samples(samples) => samples.frame().map(|frame| frame.map(|frame| sink.samples(&frame))),
            Source::Packets(packets) => packets.next_packet().map(|packet| {
                packet.map(|packet| {
                    meter.iter_mut().filter(|_| !sink.decodes()).for_each(|meter| meter.packet(&packet));
                    sink.play(Playout::Frame { pts: written, packet })
                })
            }),
        };
        let Played { ticks, peak } = match played {
            Ok(Some(played)) => played?,
            Ok(None) => return Ok(()),
            Err(fault) if fault.is_early_end() => return Ok(()),
            Err(fault) => return Err(fault.into()),
        };
        written += ticks;
        meter.iter_mut().for_each(|meter| {
            meter.peak(peak);
            meter.draw(written, None);
        });
        if paced {
            let now = ticks::duration_us(began.elapsed());
            thread::sleep(Duration::from_micros(schedule.wait(now, BEHIND_US + ticks::to_us(written))));
        }
    }
    Ok(())
}
