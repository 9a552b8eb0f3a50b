//! `publish-stream`: reads a source, encodes, and sends frames in real time.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use p2pd_api::v1::{
    Acknowledgement, Frame, Frames, OpenStream, PublishStreamRequest, PublishStreamResponse, StreamConfig, WireFormat,
    publish_stream_request::Item, publish_stream_response::Event, stream_service_client::StreamServiceClient,
};
use p2pd_audio::{ogg_opus::OpusChain, pace::Pace};
use tokio::sync::mpsc::{self, error::SendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{
    Context,
    feed::{self, CHUNK, Packet},
    lines,
    show::{Meter, Show},
};
use crate::{
    cli::{PublishStream, WireArg},
    client,
    exit::{asked_to_stop, fail, is_ours, words},
    output,
};

/// Requests between us and the connection; more would be delay.
const AHEAD: usize = 4;
/// How long the daemon may take to say farewell for us.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time between two attempts to be heard again.
const RETRY: Duration = Duration::from_millis(250);

pub(super) async fn run(context: &Context, flags: PublishStream) -> anyhow::Result<()> {
    let feed = feed::read(feed::open(&flags)?, &flags)?;
    let mut show = Show::new(feed, &flags);
    let done = publish(context, &flags, &mut show).await;
    let damaged = show.damaged.load(Ordering::Relaxed);
    if damaged > 0 {
        let were = if damaged == 1 { "was" } else { "were" };
        output::say(format_args!("p2pctl: {} {were} left out", output::count(damaged, "damaged place")));
    }
    done
}

async fn publish(context: &Context, flags: &PublishStream, show: &mut Show) -> anyhow::Result<()> {
    let mut call = Call::open(context, flags, &show.config).await?;
    let mut earlier = Acknowledgement::default();
    loop {
        let End { acknowledged, why } = call.follow(show, flags).await?;
        earlier.groups += acknowledged.as_ref().map_or(0, |a| a.groups);
        earlier.dropped += acknowledged.as_ref().map_or(0, |a| a.dropped);
        if let Why::Lost(fault) = why {
            if !flags.stay {
                return Err(fault);
            }
            let why = words(&fault);
            output::say(format_args!("{why}; waiting for it to come back"));
            call = come_back(context, flags, show, why).await?;
            continue;
        }
        if let Some(last) = acknowledged {
            let all = Acknowledgement { groups: earlier.groups, dropped: earlier.dropped, ..last };
            lines::published(context, &all, Duration::from_micros(show.media * 125 / 6))?;
        }
        return if matches!(why, Why::Stopped) { Err(stopped()) } else { Ok(()) };
    }
}

/// Publishes again once the daemon is there again, and says what else than `why` it waits for. A file or a pipe waits
/// meanwhile; what is live passes.
async fn come_back(context: &Context, flags: &PublishStream, show: &mut Show, mut why: String) -> anyhow::Result<Call> {
    let config = show.config.clone();
    let back = async {
        loop {
            // The channel dials anew by itself.
            match Call::open(context, flags, &config).await {
                Ok(call) => return call,
                Err(fault) => {
                    let now = words(&fault);
                    if now != why && now != client::closed().to_string() {
                        output::say(format_args!("{now}; trying again"));
                        why = now;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        call = back => {
            show.titles.again();
            Ok(call)
        }
        never = show.pass() => match never {},
        () = asked_to_stop() => Err(stopped()),
    }
}

fn stopped() -> anyhow::Error {
    output::say("stopped");
    fail(130, "")
}

/// A publication as the daemon knows it.
struct Call {
    items: mpsc::Sender<PublishStreamRequest>,
    replies: Streaming<PublishStreamResponse>,
}

/// How a call ended.
struct End {
    /// The daemon's last word.
    acknowledged: Option<Acknowledgement>,
    why: Why,
}

enum Why {
    /// All was sent.
    Done,
    /// The user has had enough.
    Stopped,
    /// The daemon has gone.
    Lost(anyhow::Error),
}

impl Call {
    async fn open(context: &Context, flags: &PublishStream, config: &StreamConfig) -> anyhow::Result<Self> {
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
        output::say(format_args!("publishing {}@{}", stream.stream_id, stream.publisher));
        Ok(Call { items, replies })
    }

    /// Sends until the show, the user or the daemon ends it.
    async fn follow(mut self, show: &mut Show, flags: &PublishStream) -> anyhow::Result<End> {
        let meter = show.meter.clone();
        let mut sending = Box::pin(send(show, &self.items, flags));
        let mut acknowledged = None;
        let mut sent = false;
        loop {
            tokio::select! {
                done = &mut sending, if !sent => match done {
                    Ok(()) => sent = true,
                    // What came before the fault was sent; the stream ends with it.
                    Err(error) => {
                        drop(sending);
                        self.farewell().await;
                        return Err(error);
                    }
                },
                reply = self.replies.message() => match reply {
                    Ok(Some(reply)) => if let Some(Event::Acknowledgement(a)) = reply.event {
                        acknowledged = Some(a);
                    },
                    Ok(None) => {
                        let why = if sent { Why::Done } else { Why::Lost(client::closed()) };
                        return Ok(End { acknowledged, why });
                    }
                    Err(status) if is_ours(&status) || status.code() == Code::Unavailable => {
                        return Ok(End { acknowledged, why: Why::Lost(status.into()) });
                    }
                    Err(status) => return Err(status.into()),
                },
                () = asked_to_stop() => {
                    drop(sending);
                    let acknowledged = self.farewell().await.or(acknowledged);
                    return Ok(End { acknowledged, why: Why::Stopped });
                }
            }
            progress(acknowledged.as_ref(), &meter);
        }
    }

    /// Tells listeners that this is the end, and waits until the daemon has. Its last word.
    async fn farewell(&mut self) -> Option<Acknowledgement> {
        let mut last = None;
        let said = async {
            let _ = self.items.send(request(Item::Finish(true))).await;
            while let Ok(Some(reply)) = self.replies.message().await {
                if let Some(Event::Acknowledgement(a)) = reply.event {
                    last = Some(a);
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, said).await;
        last
    }
}

fn request(item: Item) -> PublishStreamRequest {
    PublishStreamRequest { item: Some(item) }
}

fn progress(acknowledged: Option<&Acknowledgement>, Meter(meter): &Meter) {
    let Some(a) = acknowledged else { return };
    let sent = Duration::from_micros(meter.media_us.load(Ordering::Relaxed));
    let peak = meter.peak.load(Ordering::Relaxed) as f32 / 1000.0;
    lines::publishing(a, sent, meter.bytes.load(Ordering::Relaxed), peak);
}

/// Sends packets when they are due, until there are no more; waits for the end of the call where the daemon is gone.
async fn send(
    show: &mut Show,
    items: &mpsc::Sender<PublishStreamRequest>,
    flags: &PublishStream,
) -> anyhow::Result<()> {
    match send_all(show, items, flags).await {
        Err(fault) if fault.is::<SendError<PublishStreamRequest>>() => std::future::pending().await,
        sent => sent,
    }
}

async fn send_all(
    show: &mut Show,
    items: &mpsc::Sender<PublishStreamRequest>,
    flags: &PublishStream,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let (mut pace, from) = (Pace::new(0), show.media);
    let Meter(meter) = show.meter.clone();
    // The old format carries an encoded file: frames are put into an Ogg stream.
    let json = flags.wire == WireArg::Json && !show.sliced;
    let mut ogg = if json { Some(OpusChain::new(show.config.channels, show.config.pre_skip)?) } else { None };
    let mut group = Vec::new();
    let limit = flags.duration.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    loop {
        let packet = match show.next().await {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(fault) => {
                let _ = flush(&mut group, items).await;
                return Err(fault);
            }
        };
        let Packet { data, ticks, level } = packet;
        let us = |ticks: u64| ticks.saturating_mul(125) / 6;
        meter.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        meter.peak.store((level * 1000.0) as u64, Ordering::Relaxed);
        meter.media_us.store(us(show.media), Ordering::Relaxed);
        if us(show.media) >= limit {
            break;
        }
        if let Some(title) = show.titles.changed(began.elapsed()).await {
            // It begins with the next frame.
            flush(&mut group, items).await?;
            items.send(request(Item::Title(title))).await?;
        }
        show.media += ticks;
        // A frame is ready when its last sample would have been captured.
        tokio::time::sleep(Duration::from_micros(pace.wait(now(), us(show.media - from)))).await;
        let chunk = match &mut ogg {
            _ if show.sliced => data,
            Some(ogg) => ogg.packet(data)?,
            None => {
                let (capture_us, duration_us) = (wall_us().saturating_sub(us(ticks)), u32::try_from(us(ticks))?);
                group.push(Frame { data: data.into(), capture_us, duration_us });
                Vec::new()
            }
        };
        if group.len() >= show.config.frames_per_group as usize {
            flush(&mut group, items).await?;
        }
        send_chunks(&chunk, items).await?;
    }
    flush(&mut group, items).await?;
    if let Some(ogg) = ogg {
        send_chunks(&ogg.finish()?, items).await?;
    }
    Ok(items.send(request(Item::Finish(true))).await?)
}

/// Sends bytes of an encoded stream, in chunks that the daemon takes: a page of Ogg may be longer than one.
async fn send_chunks(
    bytes: &[u8],
    items: &mpsc::Sender<PublishStreamRequest>,
) -> Result<(), SendError<PublishStreamRequest>> {
    for chunk in bytes.chunks(CHUNK) {
        items.send(request(Item::Chunk(chunk.to_vec().into()))).await?;
    }
    Ok(())
}

/// Sends what there is of a group. The daemon would keep its first frames until the last one comes.
async fn flush(
    group: &mut Vec<Frame>,
    items: &mpsc::Sender<PublishStreamRequest>,
) -> Result<(), SendError<PublishStreamRequest>> {
    match std::mem::take(group) {
        frames if frames.is_empty() => Ok(()),
        frames => items.send(request(Item::Frames(Frames { frames }))).await,
    }
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
