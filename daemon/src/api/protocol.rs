//! `ProtocolService`.

use std::time::Duration;

use bytes::Bytes;
use p2pd_api::v1::{
    CallProtocolRequest, CallProtocolResponse, ExchangeStreamRequest, ExchangeStreamResponse, HandleProtocolRequest,
    HandleProtocolResponse, InboundStream, ProtocolCall, ProtocolStream, ServeProtocolRequest, ServeProtocolResponse,
    exchange_stream_request::Item, exchange_stream_response, handle_protocol_response, protocol_answer::Outcome,
    protocol_service_server::ProtocolService, serve_protocol_request, serve_protocol_response,
};
use p2pd_core::id::{IdError, PeerId};
use p2pd_net::{ByteStream, PeerStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller::Caller,
    reply::{self, Gone, Out, Replies},
    status,
};
use p2pd_node::streams::{Answered, Arrived, Claim, Lease, MAX_CALL, Served, Serving, Streams};
use tokio_util::sync::CancellationToken;

pub(super) struct Service {
    pub(super) streams: Streams,
    pub(super) stop: CancellationToken,
}

/// Bytes read from a peer at once.
const CHUNK: usize = 64 * 1024;
/// A program that drops its call says first that it sends no more, and cancels behind that. Closing our side at once would
/// make an orderly end of the first, and yamux cannot reset a stream any more that it has closed for writing.
const CANCEL_WITHIN: Duration = Duration::from_millis(2);

fn event(event: exchange_stream_response::Event) -> ExchangeStreamResponse {
    ExchangeStreamResponse { event: Some(event) }
}

#[tonic::async_trait]
impl ProtocolService for Service {
    type ExchangeStreamStream = Replies<ExchangeStreamResponse>;

    async fn exchange_stream(
        &self,
        request: Request<Streaming<ExchangeStreamRequest>>,
    ) -> Result<Response<Self::ExchangeStreamStream>, Status> {
        let mut items = request.into_inner();
        let PeerStream { stream, peer, address, protocol, .. } =
            match items.message().await?.and_then(|first| first.item) {
                Some(Item::Open(open)) => {
                    let peer: PeerId =
                        open.peer_id.parse().map_err(|e: IdError| status::field("open.peer_id", &e.to_string()))?;
                    self.streams.open_stream(&peer, &open.protocols).await.map_err(status::of)?
                }
                Some(Item::Accept(number)) => self.streams.take_stream(number).map_err(status::of)?,
                Some(Item::AcceptNext(handler)) => tokio::select! {
                    // Before the handler's own end, which the stop brings about.
                    biased;
                    () = self.stop.cancelled() => Err(status::stopping()),
                    next = self.streams.next_stream(handler) => next.map_err(status::of),
                }?,
                _ => return Err(status::field("item", "the first message is `open`, `accept` or `accept_next`")),
            };
        let opened = ProtocolStream { peer_id: peer.to_string(), protocol, address: address.to_string() };
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            out.send(event(exchange_stream_response::Event::Opened(opened))).await?;
            exchange(stream, items, &out).await
        })))
    }

    type HandleProtocolStream = Replies<HandleProtocolResponse>;

    async fn handle_protocol(
        &self,
        request: Request<HandleProtocolRequest>,
    ) -> Result<Response<Self::HandleProtocolStream>, Status> {
        use handle_protocol_response::Event;
        let claim = claim(Caller::of(request.extensions()).uid, request.into_inner())?;
        let mut handler = self.streams.handle_protocol(claim).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            let send =
                async |event, handler_id| out.send(HandleProtocolResponse { event: Some(event), handler_id }).await;
            send(Event::Handling(true), handler.number()).await?;
            while let Some(Arrived { number, peer, address }) = handler.next().await {
                let inbound =
                    InboundStream { stream_id: number, peer_id: peer.to_string(), address: address.to_string() };
                send(Event::Inbound(inbound), 0).await?;
            }
            Ok(())
        })))
    }

    async fn call_protocol(
        &self,
        request: Request<CallProtocolRequest>,
    ) -> Result<Response<CallProtocolResponse>, Status> {
        let CallProtocolRequest { peer_id, protocols, data } = request.into_inner();
        let peer: PeerId = peer_id.parse().map_err(|e: IdError| status::field("peer_id", &e.to_string()))?;
        let called = self.streams.call(&peer, &protocols, &data);
        let Answered { data, protocol, address } = reply::unless_stopped(&self.stop, called).await?;
        Ok(Response::new(CallProtocolResponse { data, protocol, address: address.to_string() }))
    }

    type ServeProtocolStream = Replies<ServeProtocolResponse>;

    async fn serve_protocol(
        &self,
        request: Request<Streaming<ServeProtocolRequest>>,
    ) -> Result<Response<Self::ServeProtocolStream>, Status> {
        let owner = Caller::of(request.extensions()).uid;
        let mut items = request.into_inner();
        let Some(serve_protocol_request::Item::Open(open)) = items.message().await?.and_then(|first| first.item) else {
            return Err(status::field("item", "the first message is `open`"));
        };
        let serving = self.streams.serve(claim(owner, open)?).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| serve(serving, items, &out).await)))
    }
}

fn claim(owner: u32, request: HandleProtocolRequest) -> Result<Claim, Status> {
    let HandleProtocolRequest { protocol, share, lease_ms, lease } = request;
    let keep = Duration::from_millis(lease_ms.into());
    if keep.is_zero() && !lease.is_empty() {
        return Err(status::field("lease_ms", "takes 1 to 600000 where a lease is named"));
    }
    Ok(Claim { protocol, share, lease: (!keep.is_zero()).then_some(Lease { owner, name: lease, keep }) })
}

/// Hands calls to the program and its answers back, until it goes away.
async fn serve(
    mut serving: Serving,
    mut items: Streaming<ServeProtocolRequest>,
    out: &Out<ServeProtocolResponse>,
) -> Result<(), Gone> {
    use serve_protocol_request::Item;
    use serve_protocol_response::Event;
    let send = async |event| out.send(ServeProtocolResponse { event: Some(event) }).await;
    send(Event::Handling(true)).await?;
    loop {
        tokio::select! {
            served = serving.next() => match served {
                None => return Ok(()),
                Some(Served::Cancelled(number)) => send(Event::Cancelled(number)).await?,
                Some(Served::Call { number, peer, address, data }) => {
                    let call = ProtocolCall { call_id: number, peer_id: peer.to_string(), address: address.to_string(), data };
                    send(Event::Call(call)).await?;
                }
            },
            item = items.message() => match item {
                Ok(Some(ServeProtocolRequest { item: Some(Item::Answer(answer)) })) => match answer.outcome {
                    Some(Outcome::Data(data)) if data.len() > MAX_CALL => {
                        serving.refuse(answer.call_id);
                        send(Event::TooLarge(answer.call_id)).await?;
                    }
                    Some(Outcome::Data(data)) => serving.answer(answer.call_id, data),
                    Some(Outcome::Refused(_)) | None => serving.refuse(answer.call_id),
                },
                Ok(Some(_)) => return out.fail(status::field("item", "after the first message only `answer`")).await,
                Ok(None) => return Err(Gone),
                Err(error) => return out.fail(status::unreadable(&error)).await,
            },
        }
    }
}

/// Carries bytes both ways until both sides are closed. Dropping the stream before that resets it.
async fn exchange(
    stream: ByteStream,
    items: Streaming<ExchangeStreamRequest>,
    out: &Out<ExchangeStreamResponse>,
) -> Result<(), Gone> {
    let (reader, writer) = tokio::io::split(stream);
    match tokio::try_join!(send(writer, items, out), receive(reader, out)) {
        Ok(_) => Ok(()),
        Err(Some(status)) => out.fail(status).await,
        Err(None) => Err(Gone),
    }
}

/// From the program to the peer. `None` when the program went away.
async fn send(
    mut writer: WriteHalf<ByteStream>,
    mut items: Streaming<ExchangeStreamRequest>,
    out: &Out<ExchangeStreamResponse>,
) -> Result<(), Option<Status>> {
    loop {
        match items.message().await.map_err(|e| Some(status::unreadable(&e)))?.map(|next| next.item) {
            Some(Some(Item::Data(data))) => writer.write_all(&data).await.map_err(|e| Some(status::reset(&e)))?,
            Some(_) => return Err(Some(status::field("item", "after the first message only `data`"))),
            None if tokio::time::timeout(CANCEL_WITHIN, out.gone()).await.is_ok() => return Err(None),
            None => return writer.shutdown().await.map_err(|e| Some(status::reset(&e))),
        }
    }
}

/// From the peer to the program.
async fn receive(mut reader: ReadHalf<ByteStream>, out: &Out<ExchangeStreamResponse>) -> Result<(), Option<Status>> {
    // Once: the stream under it would have a new buffer zeroed for each read, however little comes.
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).await.map_err(|e| Some(status::reset(&e)))?;
        let next = if count == 0 {
            exchange_stream_response::Event::RemoteClosed(true)
        } else {
            exchange_stream_response::Event::Data(Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default()))
        };
        out.send(event(next)).await.map_err(|_| None)?;
        if count == 0 {
            return Ok(());
        }
    }
}
