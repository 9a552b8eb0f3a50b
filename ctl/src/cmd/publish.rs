//! `publish-stream`: reads a source, encodes, and sends frames in real time.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use p2pd_api::v1::{
    Frame, Frames, OpenStream, PublishStreamRequest, PublishStreamResponse, StreamConfig, WireFormat,
    publish_stream_request::Item, publish_stream_response::Event, stream_service_client::StreamServiceClient,
};
use p2pd_audio::{ogg_opus::OpusChain, pace::Pace};
use tokio::sync::mpsc::{self, error::SendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Context,
    feed::{self, Packet, Packets},
    lines,
};
use crate::{
    cli::{PublishStream, WireArg},
    client,
    exit::{asked_to_stop, fail},
    output,
};

/// Requests between us and the connection; more would be delay.
const AHEAD: usize = 4;
/// How long the daemon may take to say farewell for us.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the file with the title is looked at.
const TITLE_EVERY: Duration = Duration::from_secs(1);
pub(super) async fn run(context: &Context, flags: PublishStream) -> anyhow::Result<()> {
    let opened = feed::open(&flags)?;
    let (config, packets) = feed::read(opened, &flags)?;
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
    let meter = Arc::new(Meter::default());
    let mut sending = tokio::spawn(send(packets, items.clone(), config, flags, meter.clone()));
    let mut last = None;
    let mut sent = None;
    loop {
        tokio::select! {
            done = &mut sending, if sent.is_none() => match done? {
                Ok(duration) => sent = Some(duration),
                // What came before the fault was sent; the stream ends with it.
                Err(error) => {
                    farewell(&items, &mut replies).await;
                    return Err(error);
                }
            },
            reply = replies.message() => match reply {
                Ok(Some(reply)) => last = Some(reply),
                Ok(None) => break,
                Err(status) => {
                    sending.abort();
                    return Err(status.into());
                }
            },
            () = asked_to_stop() => {
                sending.abort();
                last = farewell(&items, &mut replies).await.or(last);
                summary(context, last, meter.sent())?;
                output::say("stopped");
                return Err(fail(130, ""));
            }
        }
        progress(last.as_ref(), &meter);
    }
    let sent = match sent {
        Some(sent) => sent,
        None => sending.await??,
    };
    let Some(sent) = sent else { return Err(client::closed()) };
    summary(context, last, sent)
}

/// How it went.
fn summary(context: &Context, last: Option<PublishStreamResponse>, sent: Duration) -> anyhow::Result<()> {
    match last.and_then(|reply| reply.event) {
        Some(Event::Acknowledgement(a)) => lines::published(context, &a, sent),
        _ => Ok(()),
    }
}

/// Tells listeners that this is the end, and waits until the daemon has. Its last word.
async fn farewell(
    items: &mpsc::Sender<PublishStreamRequest>,
    replies: &mut Streaming<PublishStreamResponse>,
) -> Option<PublishStreamResponse> {
    let mut last = None;
    let said = async {
        let _ = items.send(request(Item::Finish(true))).await;
        while let Ok(Some(reply)) = replies.message().await {
            last = Some(reply);
        }
    };
    let _ = tokio::time::timeout(FAREWELL, said).await;
    last
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

impl Meter {
    fn sent(&self) -> Duration {
        Duration::from_micros(self.media_us.load(Ordering::Relaxed))
    }
}

fn progress(reply: Option<&PublishStreamResponse>, meter: &Meter) {
    let Some(Event::Acknowledgement(a)) = reply.and_then(|reply| reply.event.as_ref()) else { return };
    let peak = meter.peak.load(Ordering::Relaxed) as f32 / 1000.0;
    lines::publishing(a, meter.sent(), meter.bytes.load(Ordering::Relaxed), peak);
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
    let mut titles = Titles { given: flags.title.clone(), file: flags.title_file.clone(), ..Titles::default() };
    let json = flags.wire == WireArg::Json;
    let raw = json
        && flags
            .source
            .as_deref()
            .is_some_and(|s| [".mp3", ".m4a", ".aac"].iter().any(|e| s.to_ascii_lowercase().ends_with(e)));
    // The old format carries an encoded file: frames are put into an Ogg stream.
    let mut ogg = if json && !raw { Some(OpusChain::new(config.channels, config.pre_skip)?) } else { None };
    let mut group = Vec::new();
    let limit = flags.duration.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    while let Some(packet) = packets.recv().await {
        let packet = match packet {
            Ok(packet) => packet,
            Err(fault) => {
                let _ = flush(&mut group, &items).await;
                return Err(fault);
            }
        };
        let Packet { data, ticks, level } = packet;
        meter.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        meter.peak.store((level * 1000.0) as u64, Ordering::Relaxed);
        meter.media_us.store(media.saturating_mul(125) / 6, Ordering::Relaxed);
        let media_us = media.saturating_mul(125) / 6;
        if media_us >= limit {
            break;
        }
        if let Some(title) = titles.changed(began.elapsed()).await {
            // It begins with the next frame.
            let _ = flush(&mut group, &items).await;
            items.send(request(Item::Title(title))).await?;
        }
        // A frame is ready when its last sample would have been captured.
        let due = media_us + ticks * 125 / 6;
        tokio::time::sleep(Duration::from_micros(pace.wait(now(), due))).await;
        media += ticks;
        let chunk = match &mut ogg {
            _ if raw => data,
            Some(ogg) => ogg.packet(data)?,
            None => {
                group.push(Frame {
                    data: data.into(),
                    capture_us: wall_us().saturating_sub(ticks * 125 / 6),
                    duration_us: u32::try_from(ticks * 125 / 6)?,
                });
                Vec::new()
            }
        };
        let full = group.len() >= config.frames_per_group as usize;
        if full && flush(&mut group, &items).await.is_err() {
            return Ok(None);
        }
        if !chunk.is_empty() && items.send(request(Item::Chunk(chunk.into()))).await.is_err() {
            return Ok(None);
        }
    }
    let _ = flush(&mut group, &items).await;
    if let Some(ogg) = ogg {
        let _ = items.send(request(Item::Chunk(ogg.finish()?.into()))).await;
    }
    let finished = items.send(request(Item::Finish(true))).await.is_ok();
    Ok(finished.then(|| Duration::from_micros(media * 125 / 6)))
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

/// The title as it was given, or as its file says now.
#[derive(Default)]
struct Titles {
    given: Option<String>,
    file: Option<PathBuf>,
    last: String,
    looked: Option<Duration>,
}

impl Titles {
    /// The title, if it is new.
    async fn changed(&mut self, now: Duration) -> Option<String> {
        if let Some(file) = &self.file
            && self.looked.is_none_or(|at| now.saturating_sub(at) >= TITLE_EVERY)
        {
            let text = tokio::fs::read_to_string(file).await;
            // Later it may be away for a moment while its owner writes it.
            if let (None, Err(error)) = (self.looked, &text) {
                output::say(format_args!("no title yet, looking again each second: {}: {error}", file.display()));
            }
            self.looked = Some(now);
            let text = text.unwrap_or_default();
            let line = text.lines().next().unwrap_or_default().trim();
            if !line.is_empty() && line != self.last {
                self.last = line.to_owned();
                self.given = Some(self.last.clone());
            }
        }
        self.given.take()
    }
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
