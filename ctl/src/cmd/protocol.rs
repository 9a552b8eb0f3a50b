//! `open`, `handle`, `forward` and `expose`: streams of the users' own protocols, joined with pipes or sockets.

use std::{sync::Arc, time::Duration};

use p2pd_api::local::{self, LocalListener, LocalStream};
use p2pd_api::v1::{
    ExchangeStreamRequest, ExchangeStreamResponse, HandleProtocolRequest, OpenProtocolStream, ProtocolStream,
    exchange_stream_request::Item, exchange_stream_response::Event, protocol_service_client::ProtocolServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use super::{Context, peer_id};
use crate::{
    client,
    exit::{Failure, fail, is_connection_error, words},
    output,
};

/// Requests between us and the connection.
const AHEAD: usize = 4;
const CHUNK: usize = 64 * 1024;
/// Connections or streams that `forward` and `expose` carry at once; others wait. Each is a call of its own, of which one
/// connection to the daemon carries a limited number; a few are left for the handler.
const AT_ONCE: usize = p2pd_api::CALLS as usize - 4;
/// Between two attempts to accept a connection, as when there are no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often to look for a daemon that stopped.
const TRY_EVERY: Duration = Duration::from_millis(500);

type Client = ProtocolServiceClient<Channel>;

fn service(context: &Context) -> Client {
    ProtocolServiceClient::new(context.client.channel.clone())
}

fn new_stream(peer: &str, protocols: &[String]) -> Item {
    Item::Open(OpenProtocolStream { peer_id: peer.into(), protocols: protocols.into() })
}

/// Joins standard input and output with a new stream.
pub(super) async fn open(context: &Context, peer: &str, protocols: &[String]) -> anyhow::Result<()> {
    let stream = context.client.in_time("no stream", start(service(context), new_stream(peer, protocols))).await?;
    join(stream, tokio::io::stdin(), tokio::io::stdout()).await
}

/// Joins standard input and output with the first stream that a peer opens.
pub(super) async fn handle(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<()> {
    let handler = Handler::of(context, claim).await?;
    output::say(format_args!("waiting for a stream on {}", claim.protocol));
    let stream = handler.next(context).await?;
    output::say(format_args!("{} has opened a stream", stream.peer));
    join(stream, tokio::io::stdin(), tokio::io::stdout()).await
}

/// Joins each connection to a local address with a new stream to the peer.
pub(super) async fn forward(context: &Context, listen: &str, peer: &str, protocol: &str) -> anyhow::Result<()> {
    local::check(listen).map_err(|fault| fail(2, fault))?;
    let peer = peer_id::resolve(context, "PEER", peer).await?;
    if !protocol.starts_with('/') {
        return Err(fail(2, format!("PROTOCOL `{protocol}`: begins with /, as in /ssh/1.0.0")));
    }
    let cannot = |error| fail(1, format!("cannot listen on {listen}: {error}; choose another, or end what is there"));
    let listener = LocalListener::bind(listen).await.map_err(cannot)?;
    output::say(format_args!("{} leads to {protocol} of {peer}", listener.place()?));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut accepts = true;
    loop {
        let place = room.clone().acquire_owned().await?;
        let here = match listener.accept().await {
            Ok(here) => here,
            Err(error) => {
                if std::mem::take(&mut accepts) {
                    output::say(format_args!("p2pctl: cannot accept a connection: {error}; trying again"));
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        accepts = true;
        let (client, first) = (context.client.clone(), new_stream(&peer, &[protocol.to_owned()]));
        let service = service(context);
        tokio::spawn(async move {
            let _place = place;
            match client.in_time("no stream", start(service, first)).await {
                Ok(stream) => lead(stream, here).await,
                Err(error) => {
                    output::say(format_args!("p2pctl: {}", words(&error)));
                    local::reset(here);
                }
            }
        });
    }
}

/// Joins a stream with a local connection, which is reset if the stream is.
async fn lead(stream: Started, here: LocalStream) {
    let (mut reader, mut writer) = tokio::io::split(here);
    if let Err(error) = join(stream, &mut reader, &mut writer).await {
        output::say(format_args!("p2pctl: {}", words(&error)));
        local::reset(reader.unsplit(writer));
    }
}

/// Joins each stream that an allowed peer opens with a new connection to a local address.
pub(super) async fn expose(
    context: &Context,
    claim: &HandleProtocolRequest,
    target: &str,
    allow: &[String],
) -> anyhow::Result<()> {
    let protocol = &claim.protocol;
    local::check(target).map_err(|fault| fail(2, fault))?;
    let mut allowed = Vec::new();
    for peer in allow {
        let any = peer == "any";
        allowed.push(if any { peer.clone() } else { peer_id::resolve(context, "--allow", peer).await? });
    }
    let mut handler = Handler::of(context, claim).await?;
    output::say(format_args!("{protocol} leads to {target} for {}", allowed.join(", ")));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let place = room.clone().acquire_owned().await?;
        let stream = match handler.next(context).await {
            Ok(stream) => stream,
            Err(error) if is_away(&error) => {
                output::say(format_args!("p2pctl: {}; waiting for it", words(&error)));
                handler = Handler::again(context, claim).await?;
                output::say(format_args!("{protocol} leads to {target} again"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let peer = &stream.peer;
        if !allowed.iter().any(|a| a == peer || a == "any") {
            // Dropping the stream resets it.
            output::say(format_args!("p2pctl: {peer} is not allowed; `--allow {peer}` would let it in"));
            continue;
        }
        let target = target.to_owned();
        tokio::spawn(async move {
            let _place = place;
            match local::connect(&target).await {
                Ok(here) => lead(stream, here).await,
                Err(error) => output::say(format_args!("p2pctl: cannot connect to {target}: {error}")),
            }
        });
    }
}

/// A handled protocol; dropping it ends the handling.
struct Handler {
    id: u64,
    /// Reads the handler's events, so that the daemon is not held up.
    _told: JoinSet<()>,
}

impl Handler {
    async fn of(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<Self> {
        let mut told = context.client.answer(service(context).handle_protocol(claim.clone())).await?;
        let id = context.client.in_time("no answer", client::next(&mut told)).await?.handler_id;
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = told.message().await {} });
        Ok(Handler { id, _told: reading })
    }

    /// Handles the protocol again, once the daemon is back.
    async fn again(context: &Context, claim: &HandleProtocolRequest) -> anyhow::Result<Self> {
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            match Handler::of(context, claim).await {
                Err(error) if is_away(&error) => {}
                other => return other,
            }
        }
    }

    /// The next stream that a peer opens.
    async fn next(&self, context: &Context) -> anyhow::Result<Started> {
        start(service(context), Item::AcceptNext(self.id)).await
    }
}

/// Whether the error means that the daemon is away.
fn is_away(error: &anyhow::Error) -> bool {
    let broken =
        error.downcast_ref::<Status>().is_some_and(|s| s.code() == Code::Unavailable || is_connection_error(s));
    broken || error.downcast_ref::<Failure>().is_some_and(|failure| failure.code == 8)
}

/// An open stream.
struct Started {
    peer: String,
    items: mpsc::Sender<ExchangeStreamRequest>,
    replies: tonic::Streaming<ExchangeStreamResponse>,
}

async fn start(mut client: Client, first: Item) -> anyhow::Result<Started> {
    let (items, requests) = mpsc::channel(AHEAD);
    items.send(ExchangeStreamRequest { item: Some(first) }).await?;
    let mut replies = client.exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    match client::next(&mut replies).await?.event {
        Some(Event::Opened(ProtocolStream { peer_id: peer, .. })) => Ok(Started { peer, items, replies }),
        other => anyhow::bail!("the daemon says {other:?} of a stream before it is open"),
    }
}

/// Carries bytes both ways until both sides are closed and the daemon has sent all.
async fn join(
    stream: Started,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let Started { items, mut replies, .. } = stream;
    let sending = async move {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
            if reader.read_buf(&mut buffer).await? == 0 {
                return anyhow::Ok(());
            }
            let item = Some(Item::Data(buffer.freeze()));
            if items.send(ExchangeStreamRequest { item }).await.is_err() {
                return Ok(());
            }
        }
    };
    let receiving = async move {
        while let Some(reply) = replies.message().await? {
            match reply.event {
                Some(Event::Data(data)) => {
                    writer.write_all(&data).await?;
                    writer.flush().await?;
                }
                Some(Event::RemoteClosed(_)) => writer.shutdown().await?,
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(sending, receiving).map(|_| ())
}
