//! `StreamService`.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use p2pd_api::v1::{
    Acknowledgement, Frame, Frames, GetStreamRequest, GetStreamResponse, ListStreamsRequest, ListStreamsResponse,
    PublishStreamRequest, PublishStreamResponse, StreamEnded, StreamGone, SubscribeStreamRequest,
    SubscribeStreamResponse, WatchStreamsRequest, WatchStreamsResponse, publish_stream_request::Item,
    publish_stream_response, stream_service_server::StreamService, subscribe_stream_response, watch_streams_response,
};
use p2pd_core::{
    id::{IdError, StreamKey, StreamRef},
    ring::Next,
};
use p2pd_live::{Live, Publication, StreamChange, StreamItem, group::MAX_FRAMES};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert,
    pubsub::gap,
    reply::{self, Followed, Gone, Out, Replies},
    status,
};

pub(super) struct Service {
    pub(super) live: Live,
    pub(super) stop: CancellationToken,
}

const ACKNOWLEDGE: Duration = Duration::from_millis(500);

fn reference(text: &str) -> Result<StreamRef, Status> {
    text.parse().map_err(|e: IdError| status::field("stream", &e.to_string()))
}

fn watched(event: watch_streams_response::Event) -> WatchStreamsResponse {
    WatchStreamsResponse { event: Some(event) }
}

/// Most streams of an answer, and their bytes: clients take 4 MiB.
const PAGE: usize = 1000;
const PAGE_BYTES: usize = 3 << 20;

/// The last stream of the page before.
fn page_after(token: &str) -> Result<StreamKey, Status> {
    match token.parse() {
        Ok(StreamRef { stream, publisher: Some(publisher) }) => Ok(StreamKey { publisher, stream }),
        _ => Err(status::field("page_token", "is none that this daemon has given")),
    }
}

#[tonic::async_trait]
impl StreamService for Service {
    async fn list_streams(
        &self,
        request: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        let ListStreamsRequest { category, page_size, page_token } = request.into_inner();
        let most = match usize::try_from(page_size).unwrap_or(usize::MAX) {
            0 => PAGE,
            size if size <= PAGE => size,
            _ => return Err(status::field("page_size", "takes at most 1000")),
        };
        let after = if page_token.is_empty() { None } else { Some(page_after(&page_token)?) };
        let mut page = ListStreamsResponse::default();
        let (mut bytes, mut last) = (0, None);
        for listed in self.live.streams() {
            let key = listed.key.clone();
            let stream = convert::stream(listed);
            if after.as_ref().is_some_and(|after| key <= *after)
                || !(category.is_empty() || stream.category == category)
            {
                continue;
            }
            bytes += stream.encoded_len();
            if page.streams.len() >= most || bytes > PAGE_BYTES {
                page.next_page_token = last.map(|key: StreamKey| key.to_string()).unwrap_or_default();
                break;
            }
            last = Some(key);
            page.streams.push(stream);
        }
        Ok(Response::new(page))
    }

    async fn get_stream(&self, request: Request<GetStreamRequest>) -> Result<Response<GetStreamResponse>, Status> {
        let listed = self.live.find_stream(&reference(&request.into_inner().stream)?).map_err(status::of)?;
        Ok(Response::new(GetStreamResponse { stream: Some(convert::stream(listed)) }))
    }

    type WatchStreamsStream = Replies<WatchStreamsResponse>;

    async fn watch_streams(
        &self,
        _: Request<WatchStreamsRequest>,
    ) -> Result<Response<Self::WatchStreamsStream>, Status> {
        use watch_streams_response::Event;
        let (snapshot, mut told) = self.live.watch_streams();
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            for listed in snapshot {
                out.send(watched(Event::Present(convert::stream(listed)))).await?;
            }
            out.send(watched(Event::SnapshotDone(true))).await?;
            loop {
                let event = match told.recv().await {
                    Ok(StreamChange::Present(listed)) => Event::Present(convert::stream(*listed)),
                    Ok(StreamChange::Gone { key, reason }) => Event::Gone(StreamGone {
                        stream_id: key.stream.to_string(),
                        publisher: key.publisher.to_string(),
                        reason: reason.into(),
                    }),
                    Err(_) => return out.fail(status::lagged()).await,
                };
                out.send(watched(event)).await?;
            }
        })))
    }

    type PublishStreamStream = Replies<PublishStreamResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let mut items = request.into_inner();
        let Some(PublishStreamRequest { item: Some(Item::Open(open)) }) = items.message().await? else {
            return Err(status::field("open", "must come first"));
        };
        let live = self.live.clone();
        let publication = live.publish_stream(convert::opening(open)?).await.map_err(status::of)?;
        let wanted = StreamRef { stream: publication.key().stream.clone(), publisher: Some(live.me().clone()) };
        let opened = convert::stream(live.find_stream(&wanted).map_err(status::of)?);
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            let opened = publish_stream_response::Event::Opened(opened);
            out.send(PublishStreamResponse { event: Some(opened) }).await?;
            take(items, publication, out).await
        })))
    }

    type SubscribeStreamStream = Followed<SubscribeStreamResponse>;

    async fn subscribe_stream(
        &self,
        request: Request<SubscribeStreamRequest>,
    ) -> Result<Response<Self::SubscribeStreamStream>, Status> {
        use subscribe_stream_response::Event;
        let SubscribeStreamRequest { stream, wait_ms, burst_ms } = request.into_inner();
        if wait_ms > 600_000 {
            return Err(status::field("wait_ms", "takes at most 600000"));
        }
        if burst_ms > 10_000 {
            return Err(status::field("burst_ms", "takes at most 10000"));
        }
        let live = self.live.clone();
        let wait = Duration::from_millis(wait_ms.into());
        let reference = reference(&stream)?;
        let (listed, waited) = reply::unless_stopped(&self.stop, live.await_stream(&reference, wait)).await?;
        let reader = live.read_stream(&listed, burst_ms.into(), waited).await.map_err(status::of)?;
        let events = stream::unfold(Some(reader), async |reader| {
            let mut reader = reader?;
            let event = match reader.next().await? {
                Next::Item(StreamItem::Group { group, repaired }) => Event::Group(convert::group(&group, repaired)),
                Next::Item(StreamItem::Chunk(chunk)) => Event::Chunk(chunk),
                Next::Item(StreamItem::Metadata(json)) => Event::MetadataJson(json),
                Next::Gap { from, to, cause } => Event::Gap(gap(from, to, cause)),
                Next::Item(StreamItem::Ended(reason)) => {
                    return Some((Event::Ended(StreamEnded { reason: reason.into() }), None));
                }
            };
            Some((event, Some(reader)))
        });
        let all = stream::iter([Event::Opened(convert::stream(listed))]).chain(events);
        let all = all.map(|event| Ok(SubscribeStreamResponse { event: Some(event) }));
        Ok(Response::new(reply::follow(self.stop.clone(), all)))
    }
}

/// Takes items until the caller finishes, fails or goes away; dropping the publication deregisters the stream.
async fn take(
    mut items: Streaming<PublishStreamRequest>,
    mut publication: Publication,
    out: Out<PublishStreamResponse>,
) -> Result<(), Gone> {
    let mut tick = tokio::time::interval(ACKNOWLEDGE);
    loop {
        tokio::select! {
            item = items.message() => {
                let taken = match item {
                    Ok(Some(PublishStreamRequest { item: Some(Item::Finish(_)) })) => {
                        publication.finish();
                        return acknowledge(&publication, &out).await;
                    }
                    Ok(Some(PublishStreamRequest { item })) => handle(&mut publication, item),
                    Ok(None) => return Ok(()),
                    Err(error) => Err(status::unreadable(&error)),
                };
                if let Err(status) = taken {
                    return out.fail(status).await;
                }
            }
            _ = tick.tick() => acknowledge(&publication, &out).await?,
        }
    }
}

fn handle(publication: &mut Publication, item: Option<Item>) -> Result<(), Status> {
    match item {
        Some(Item::Frame(frame)) => take_frame(publication, frame),
        Some(Item::Frames(Frames { frames })) if (1..=MAX_FRAMES).contains(&frames.len()) => {
            frames.into_iter().try_for_each(|frame| take_frame(publication, frame))
        }
        Some(Item::Frames(_)) => Err(status::field("frames", "takes 1 to 50 frames")),
        Some(Item::Chunk(chunk)) => publication.chunk(chunk).map_err(status::of),
        Some(Item::Title(title)) => {
            publication.title(&title);
            Ok(())
        }
        Some(Item::Open(_)) => Err(status::field("open", "must come first and once")),
        Some(Item::Finish(_)) | None => Err(status::field("item", "must be set")),
    }
}

fn take_frame(publication: &mut Publication, frame: Frame) -> Result<(), Status> {
    publication.frame(frame.data, frame.capture_us, frame.duration_us).map_err(status::of)
}

async fn acknowledge(publication: &Publication, out: &Out<PublishStreamResponse>) -> Result<(), Gone> {
    let progress = publication.progress();
    let acknowledgement = Acknowledgement {
        frames: progress.frames,
        groups: progress.groups,
        dropped: progress.dropped,
        listeners: progress.listeners,
    };
    out.send(PublishStreamResponse { event: Some(publish_stream_response::Event::Acknowledgement(acknowledgement)) })
        .await
}
