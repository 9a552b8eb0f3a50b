//! `publish-stream`: reads a source, encodes, and sends frames in real time.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use p2pd_api::v1::{
    Acknowledgement, OpenStream, PublishStreamRequest, PublishStreamResponse, StreamConfig, WireFormat,
    publish_stream_request::Item, publish_stream_response::Event, stream_service_client::StreamServiceClient,
};
use p2pd_audio::{schedule::Schedule, ticks};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{
    lines,
    outbox::{Closed, Outbox},
    publication::{Publication, Sent},
    source,
};
use crate::{
    cli::{Publish, WireArg},
    cmd::context::Context,
    error::{Exit, closed, fail, is_connection_error, words},
    output,
    signals::asked_to_stop,
};

/// Requests queued in front of the gRPC connection; a longer queue would only add delay.
const AHEAD: usize = 4;
/// How long the daemon may take to tell listeners of the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two attempts to publish again.
const RETRY: Duration = Duration::from_millis(250);

pub(super) async fn run(context: &Context, flags: Publish) -> anyhow::Result<()> {
    let feed = source::read(source::open(&flags)?, &flags)?;
    let mut publication = Publication::new(feed, &flags);
    let done = publish(context, &flags, &mut publication).await;
    let damaged = publication.damaged.load(Ordering::Relaxed);
    if damaged > 0 {
        let were = if damaged == 1 { "was" } else { "were" };
        output::say(format_args!("p2pctl: {} {were} left out", output::count(damaged, "damaged place")));
    }
    done
}

async fn publish(context: &Context, flags: &Publish, publication: &mut Publication) -> anyhow::Result<()> {
    let mut call = Call::open(context, flags, &publication.config).await?;
    let mut earlier = Acknowledgement::default();
    loop {
        let CallEnd { acknowledged, why } = call.follow(publication, flags).await?;
        earlier.groups += acknowledged.as_ref().map_or(0, |a| a.groups);
        earlier.dropped += acknowledged.as_ref().map_or(0, |a| a.dropped);
        if let Why::Lost(fault) = why {
            if !flags.stay {
                return Err(fault);
            }
            let why = words(&fault);
            output::say(format_args!("{why}; waiting for it to come back"));
            call = come_back(context, flags, publication, why).await?;
            continue;
        }
        if let Some(last) = acknowledged {
            let all = Acknowledgement { groups: earlier.groups, dropped: earlier.dropped, ..last };
            lines::published(context, &all, Duration::from_micros(ticks::to_us(publication.media)))?;
        }
        return if matches!(why, Why::Stopped) { Err(stopped()) } else { Ok(()) };
    }
}

/// Publishes again once the daemon is back. Prints the reason for waiting when it is no longer `why`. Meanwhile a file
/// waits, and what a live source gives is dropped.
async fn come_back(
    context: &Context,
    flags: &Publish,
    publication: &mut Publication,
    mut why: String,
) -> anyhow::Result<Call> {
    let config = publication.config.clone();
    let back = async {
        loop {
            // The channel reconnects by itself.
            match Call::open(context, flags, &config).await {
                Ok(call) => return call,
                Err(fault) => {
                    let now = words(&fault);
                    if now != why && now != closed().to_string() {
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
            publication.titles.again();
            Ok(call)
        }
        never = publication.pass() => match never {},
        () = asked_to_stop() => Err(stopped()),
    }
}

fn stopped() -> anyhow::Error {
    output::say("stopped");
    fail(Exit::Interrupted, "")
}

/// A publication as the daemon knows it.
struct Call {
    items: mpsc::Sender<PublishStreamRequest>,
    replies: Streaming<PublishStreamResponse>,
}

/// How a call ended.
struct CallEnd {
    /// The last acknowledgement of the daemon.
    acknowledged: Option<Acknowledgement>,
    why: Why,
}

enum Why {
    /// All was sent.
    Done,
    /// The user stopped the command.
    Stopped,
    /// The daemon has stopped.
    Lost(anyhow::Error),
}

impl Call {
    async fn open(context: &Context, flags: &Publish, config: &StreamConfig) -> anyhow::Result<Self> {
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
            return Err(fail(Exit::Failed, "the daemon did not open the stream"));
        };
        output::say(format_args!("publishing {}@{}", stream.stream_id, stream.publisher));
        Ok(Call { items, replies })
    }

    /// Sends until the publication, the user or the daemon ends it.
    async fn follow(mut self, publication: &mut Publication, flags: &Publish) -> anyhow::Result<CallEnd> {
        let sent = publication.sent.clone();
        let mut sending = Box::pin(send(publication, &self.items, flags));
        let mut acknowledged = None;
        let mut all_sent = false;
        loop {
            tokio::select! {
                done = &mut sending, if !all_sent => match done {
                    Ok(()) => all_sent = true,
                    // Everything before the fault was sent, so the stream ends in order.
                    Err(error) => {
                        drop(sending);
                        self.finish().await;
                        return Err(error);
                    }
                },
                reply = self.replies.message() => match reply {
                    Ok(Some(reply)) => if let Some(Event::Acknowledgement(a)) = reply.event {
                        acknowledged = Some(a);
                    },
                    Ok(None) => {
                        let why = if all_sent { Why::Done } else { Why::Lost(closed()) };
                        return Ok(CallEnd { acknowledged, why });
                    }
                    Err(status) if is_connection_error(&status) || status.code() == Code::Unavailable => {
                        return Ok(CallEnd { acknowledged, why: Why::Lost(status.into()) });
                    }
                    Err(status) => return Err(status.into()),
                },
                () = asked_to_stop() => {
                    drop(sending);
                    let acknowledged = self.finish().await.or(acknowledged);
                    return Ok(CallEnd { acknowledged, why: Why::Stopped });
                }
            }
            progress(acknowledged.as_ref(), &sent);
        }
    }

    /// Ends the stream, and waits until the daemon has told listeners. Returns its last acknowledgement.
    async fn finish(&mut self) -> Option<Acknowledgement> {
        let mut last = None;
        let said = async {
            let _ = self.items.send(request(Item::Finish(true))).await;
            while let Ok(Some(reply)) = self.replies.message().await {
                if let Some(Event::Acknowledgement(a)) = reply.event {
                    last = Some(a);
                }
            }
        };
        let _ = tokio::time::timeout(FINISH_TIMEOUT, said).await;
        last
    }
}

fn request(item: Item) -> PublishStreamRequest {
    PublishStreamRequest { item: Some(item) }
}

fn progress(acknowledged: Option<&Acknowledgement>, sent: &Sent) {
    let Some(a) = acknowledged else { return };
    let media = Duration::from_micros(sent.media_us.load(Ordering::Relaxed));
    let peak = sent.peak.load(Ordering::Relaxed) as f32 / 1000.0;
    lines::publishing(a, media, sent.bytes.load(Ordering::Relaxed), peak);
}

/// Sends packets when they are due, until there are no more. If the daemon has gone, waits for the call to end.
async fn send(
    publication: &mut Publication,
    items: &mpsc::Sender<PublishStreamRequest>,
    flags: &Publish,
) -> anyhow::Result<()> {
    match send_all(publication, items, flags).await {
        Err(fault) if fault.is::<Closed>() => std::future::pending().await,
        sent => sent,
    }
}

async fn send_all(
    publication: &mut Publication,
    items: &mpsc::Sender<PublishStreamRequest>,
    flags: &Publish,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut schedule, from) = (Schedule::new(0), publication.media);
    let sent = publication.sent.clone();
    let mut outbox = Outbox::new(items, publication, flags.wire == WireArg::Json)?;
    let limit = flags.duration.map_or(u64::MAX, ticks::duration_us);
    loop {
        let packet = match publication.next().await {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(fault) => {
                let _ = outbox.flush().await;
                return Err(fault);
            }
        };
        sent.bytes.fetch_add(packet.data.len() as u64, Ordering::Relaxed);
        sent.peak.store((packet.level * 1000.0) as u64, Ordering::Relaxed);
        sent.media_us.store(ticks::to_us(publication.media), Ordering::Relaxed);
        if ticks::to_us(publication.media) >= limit {
            break;
        }
        if let Some(title) = publication.titles.changed(began.elapsed()).await {
            outbox.title(title).await?;
        }
        publication.media += packet.ticks;
        // A frame is ready when its last sample would have been captured.
        let wait = schedule.wait(ticks::duration_us(began.elapsed()), ticks::to_us(publication.media - from));
        tokio::time::sleep(Duration::from_micros(wait)).await;
        outbox.packet(packet).await?;
    }
    outbox.finish().await
}
