//! `listen`: takes groups as they come, orders them in the jitter buffer, and writes packets or sound.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::ValueEnum;
use p2pd_api::v1::{
    AudioGroup, Stream, SubscribeStreamRequest, SubscribeStreamResponse, stream_service_client::StreamServiceClient,
    subscribe_stream_response::Event,
};
use p2pd_audio::{
    codec::packet_ticks,
    jitter::Jitter,
    playout::{Arrival, Frame, Playout},
    ticks,
};
use tonic::Streaming;

use super::{
    json_audio::JsonAudio,
    lines::{self, Meter},
    playback::{End, Playback},
    sink::{Kind, Played, Sink},
    titles::TitleQueue,
    wall_clock::wall_us,
};
use crate::{
    cli::Listen,
    client,
    cmd::{context::Context, peer_id},
    error::{Exit, fail, is_broken_pipe},
    output::{self, Format},
    signals::asked_to_stop,
};

/// How long one request waits for a stream to come back, and the time between two requests.
const STAY: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(250);
/// After so long without sound the user is told.
const SILENCE: Duration = Duration::from_secs(5);
/// How much of the past to ask for: enough to begin at once.
const BURST_MS: u32 = 1_000;

/// Listens. If `output` is not a format, it names the file for the sound.
pub(super) async fn run(context: &Context, mut flags: Listen, output: String) -> anyhow::Result<()> {
    let path = (output != "-" && Format::from_str(&output, true).is_err()).then(|| PathBuf::from(output));
    flags.stream = peer_id::resolve_stream(context, &flags.stream).await?;
    let began = Instant::now();
    let Subscription { stream, replies } = subscribe(context, &flags, flags.wait).await?;
    let form = if stream.config.is_some() { "native" } else { "json" };
    let listening = format!("listening to {}@{} ({form})", stream.stream_id, stream.publisher);
    let Some(config) = stream.config else {
        let json = JsonAudio::new(path.as_deref(), &flags, context.format)?;
        output::say(listening);
        return hear(context, &flags, json, replies).await;
    };
    if flags.raw {
        return Err(fail(
            Exit::Usage,
            "--raw is for streams in JSON; this one is native, and -o x.opus keeps its exact packets",
        ));
    }
    let kind = if context.format == Format::Table { Kind::of(path.as_deref())? } else { Kind::Nothing };
    let sink = Sink::create(kind, path.as_deref(), &config)?;
    output::say(listening);
    let jitter = Jitter::new(ticks::duration_us(flags.latency));
    let session = Session {
        jitter: if matches!(kind, Kind::Opus | Kind::Wav) { jitter.recording() } else { jitter },
        sink,
        began,
        first: None,
        limit: flags.duration.map_or(u64::MAX, ticks::from_duration),
        written: 0,
        titles: TitleQueue::default(),
        gaps: 0,
        stats: flags.stats,
        meter: Meter::new(config.channels)?,
    };
    hear(context, &flags, session, replies).await
}

async fn hear<P: Playback>(
    context: &Context,
    flags: &Listen,
    mut playback: P,
    replies: Streaming<SubscribeStreamResponse>,
) -> anyhow::Result<()> {
    let mut ended = playback.follow(replies).await;
    while flags.stay
        && let Ok(end @ (End::Publisher(_) | End::Lost(_))) = &ended
    {
        output::say(format_args!("{end}; waiting for it to come back"));
        ended = match come_back(context, flags, P::NATIVE).await {
            Some(replies) => playback.follow(replies).await,
            None => Ok(End::Stopped),
        };
    }
    playback.close(ended, context.format).await
}

/// A stream that has been opened, and what comes of it.
struct Subscription {
    stream: Stream,
    replies: Streaming<SubscribeStreamResponse>,
}

/// Subscribes, and waits up to `wait` for the stream to appear.
async fn subscribe(context: &Context, flags: &Listen, wait: Duration) -> anyhow::Result<Subscription> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = SubscribeStreamRequest { stream: flags.stream.clone(), wait_ms, burst_ms: BURST_MS };
    let mut streams = StreamServiceClient::new(context.client.channel.clone());
    let mut replies = tokio::time::timeout(wait + context.client.timeout, streams.subscribe_stream(request))
        .await
        .map_err(|_| fail(Exit::TimedOut, "no answer from the daemon"))??
        .into_inner();
    match client::next(&mut replies).await?.event {
        Some(Event::Opened(stream)) => Ok(Subscription { stream, replies }),
        _ => Err(fail(Exit::Failed, "the daemon did not open the stream")),
    }
}

/// Waits for the stream and the daemon to come back; `None` when the user stops the command.
async fn come_back(context: &Context, flags: &Listen, native: bool) -> Option<Streaming<SubscribeStreamResponse>> {
    let back = async {
        loop {
            // The channel reconnects by itself.
            match subscribe(context, flags, STAY).await {
                Ok(Subscription { stream, replies }) if stream.config.is_some() == native => return replies,
                _ => tokio::time::sleep(RETRY).await,
            }
        }
    };
    tokio::select! {
        replies = back => Some(replies),
        () = asked_to_stop() => None,
    }
}

struct Session {
    jitter: Jitter,
    sink: Sink,
    began: Instant,
    first: Option<Duration>,
    /// How much to write and what was written, in 48 kHz ticks.
    limit: u64,
    written: u64,
    titles: TitleQueue,
    gaps: u64,
    stats: bool,
    meter: Option<Meter>,
}

impl Playback for Session {
    const NATIVE: bool = true;

    async fn follow(&mut self, mut replies: Streaming<SubscribeStreamResponse>) -> anyhow::Result<End> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut heard = Instant::now();
        let mut silent = false;
        let ended = loop {
            let now = self.now();
            let wait = Duration::from_micros(self.jitter.next_due(now).saturating_sub(now).max(1_000));
            tokio::select! {
                reply = client::next(&mut replies) => match reply.map(|reply| reply.event) {
                    Ok(Some(Event::Group(group))) => {
                        (heard, silent) = (Instant::now(), false);
                        self.take(group)?;
                    }
                    Ok(Some(Event::Gap(gap))) => self.gaps += gap.to - gap.from + 1,
                    Ok(Some(Event::Ended(end))) => break End::of(&end),
                    Ok(_) => {}
                    Err(error) => break End::Lost(error),
                },
                () = tokio::time::sleep(wait) => {
                    let out = self.jitter.pull(self.now(), wall_us());
                    self.play(out)?;
                }
                _ = tick.tick() => {
                    if self.stats {
                        output::say(self.numbers());
                    }
                    if !silent && heard.elapsed() >= SILENCE {
                        silent = true;
                        let since = SILENCE.as_secs();
                        output::say(format_args!(
                            "nothing has come for {since} s; still listening; see `p2pctl status`, and `p2pctl peers connect` the publisher if only others are between"
                        ));
                    }
                }
                () = asked_to_stop() => break End::Stopped,
            }
            if self.written >= self.limit {
                return Ok(End::Limit);
            }
        };
        let rest = self.jitter.drain(wall_us());
        self.play(rest)?;
        Ok(ended)
    }

    async fn close(mut self, ended: anyhow::Result<End>, format: Format) -> anyhow::Result<()> {
        if matches!(ended, Ok(End::Stopped)) {
            self.sink.let_go();
        }
        let finished = self.sink.finish(matches!(ended, Ok(End::Lost(_)) | Err(_)));
        // A reader that has seen enough wants no summary.
        if finished.as_ref().is_err_and(is_broken_pipe) {
            return finished.map(drop);
        }
        let place = finished.as_deref().unwrap_or_default();
        let summary = lines::heard(&self.jitter, self.first, self.written, self.gaps, place);
        match format {
            Format::Table => output::say(summary.text),
            Format::Json | Format::Jsonl => output::line(&summary.json)?,
        }
        match ended? {
            End::Lost(error) => return Err(error),
            end => output::say(end),
        }
        finished.map(drop)
    }
}

impl Session {
    fn now(&self) -> u64 {
        ticks::duration_us(self.began.elapsed())
    }

    fn take(&mut self, group: AudioGroup) -> anyhow::Result<()> {
        if let Some(title) = group.title {
            self.titles.add(title.pts, title.text);
        }
        let frame = |f: &Bytes| Some(Frame { ticks: packet_ticks(f)?, packet: f.to_vec() });
        let frames = group.frames.iter().filter_map(frame).collect();
        let arrival =
            Arrival { epoch: group.epoch, seq: group.seq, pts: group.pts, capture_us: group.capture_us, frames };
        self.jitter.stats.repaired += u64::from(group.repaired);
        let restart = self.jitter.insert(self.now(), arrival);
        if restart.is_some() {
            self.titles = TitleQueue::default();
            output::say("the publisher has begun anew");
        }
        self.play(restart)
    }

    fn play(&mut self, out: impl IntoIterator<Item = Playout>) -> anyhow::Result<()> {
        for playout in out {
            if self.written >= self.limit {
                break;
            }
            if let Playout::Frame { pts, .. } | Playout::Conceal { pts, .. } = &playout {
                self.first.get_or_insert(self.began.elapsed());
                while let Some(title) = self.titles.due(*pts) {
                    output::say(format_args!("title: {title}"));
                }
            }
            if let (Some(meter), Playout::Frame { packet, .. }) = (&mut self.meter, &playout)
                && !self.sink.decodes()
            {
                meter.packet(packet);
            }
            let Played { ticks, peak } = self.sink.play(playout)?;
            self.written += ticks;
            self.meter.iter_mut().for_each(|meter| meter.peak(peak));
        }
        if let Some(meter) = &mut self.meter {
            meter.draw(self.written, Some(&self.jitter.stats));
        }
        Ok(())
    }

    fn numbers(&self) -> String {
        let stats = &self.jitter.stats;
        format!(
            "{:.1} s, held {} ms of {} ms, groups {}, repaired {}, lost {}, concealed {}, late {}, underruns {}, \
             latency {} ms",
            ticks::seconds(self.written),
            self.jitter.held_us() / 1000,
            self.jitter.target_us() / 1000,
            stats.groups,
            stats.repaired,
            stats.lost,
            stats.concealed,
            stats.late,
            stats.underruns,
            stats.median_latency_us().unwrap_or(0) / 1000,
        )
    }
}
