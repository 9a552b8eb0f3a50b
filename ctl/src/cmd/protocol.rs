//! `open`, `handle`, `forward` and `expose`: streams on protocols that programs speak themselves, and what is joined with them.

use anyhow::Context as _;
use p2pd_api::local::{self, LocalListener};
use p2pd_api::v1::{
    ExchangeStreamRequest, HandleProtocolRequest, OpenProtocolStream, exchange_stream_request::Item,
    exchange_stream_response::Event, handle_protocol_response, protocol_service_client::ProtocolServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Context;
use crate::{client, exit::fail, output};

/// Requests between us and the connection.
const AHEAD: usize = 4;
const CHUNK: usize = 64 * 1024;

type Client = ProtocolServiceClient<Channel>;

fn service(context: &Context) -> Client {
    ProtocolServiceClient::new(context.client.channel.clone())
}

fn new_stream(peer: &str, protocol: &str) -> Item {
    Item::Open(OpenProtocolStream { peer_id: peer.into(), protocols: vec![protocol.into()] })
}

/// Joins standard input and output with a new stream.
pub(super) async fn open(context: &Context, peer: &str, protocol: &str) -> anyhow::Result<()> {
    join(service(context), new_stream(peer, protocol), tokio::io::stdin(), tokio::io::stdout()).await
}

/// Joins standard input and output with the first stream that a peer opens.
pub(super) async fn handle(context: &Context, protocol: &str) -> anyhow::Result<()> {
    let mut inbound = Inbound::of(context, protocol, false).await?;
    output::say(format_args!("waiting for a stream on {protocol}"));
    let (number, peer) = inbound.next().await?;
    output::say(format_args!("{peer} has opened a stream"));
    join(service(context), Item::Accept(number), tokio::io::stdin(), tokio::io::stdout()).await
}

/// Joins each connection to a local address with a new stream to the peer.
pub(super) async fn forward(context: &Context, listen: &str, peer: &str, protocol: &str) -> anyhow::Result<()> {
    local::check(listen).map_err(|fault| fail(2, fault))?;
    let listener = LocalListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    output::say(format_args!("{} leads to {protocol} of {peer}", listener.place()?));
    loop {
        let (reader, writer) = tokio::io::split(listener.accept().await?);
        let (client, first) = (service(context), new_stream(peer, protocol));
        tokio::spawn(async move {
            if let Err(error) = join(client, first, reader, writer).await {
                output::say(format_args!("p2pctl: {error:#}"));
            }
        });
    }
}

/// Joins each stream that an allowed peer opens with a new connection to a local address.
pub(super) async fn expose(
    context: &Context,
    protocol: &str,
    target: &str,
    allow: &[String],
    share: bool,
) -> anyhow::Result<()> {
    local::check(target).map_err(|fault| fail(2, fault))?;
    if let Some(bad) = allow.iter().find(|a| *a != "any" && !a.chars().all(|c| c.is_ascii_alphanumeric())) {
        return Err(fail(2, format!("--allow {bad}: takes a peer id such as 12D3KooW..., or any")));
    }
    let mut inbound = Inbound::of(context, protocol, share).await?;
    output::say(format_args!("{protocol} leads to {target} for {}", allow.join(", ")));
    loop {
        let (number, peer) = inbound.next().await?;
        let (client, target) = (service(context), target.to_owned());
        let allowed = allow.iter().any(|a| *a == peer || a == "any");
        tokio::spawn(async move {
            let joined = async {
                if !allowed {
                    // Taken and let go: the peer sees a reset at once.
                    let _ = start(client, Item::Accept(number)).await?;
                    return Err(fail(4, format!("{peer} is not allowed; `--allow {peer}` would let it in")));
                }
                let here = local::connect(&target).await.with_context(|| format!("cannot connect to {target}"))?;
                let (reader, writer) = tokio::io::split(here);
                join(client, Item::Accept(number), reader, writer).await
            };
            if let Err(error) = joined.await {
                output::say(format_args!("p2pctl: {error:#}"));
            }
        });
    }
}

/// Inbound streams of a protocol that is ours.
struct Inbound(tonic::Streaming<p2pd_api::v1::HandleProtocolResponse>);

impl Inbound {
    async fn of(context: &Context, protocol: &str, share: bool) -> anyhow::Result<Self> {
        let request = HandleProtocolRequest { protocol: protocol.into(), share, ..Default::default() };
        let mut told = context.client.answer(service(context).handle_protocol(request)).await?;
        client::next(&mut told).await?;
        Ok(Inbound(told))
    }

    async fn next(&mut self) -> anyhow::Result<(u64, String)> {
        loop {
            if let Some(handle_protocol_response::Event::Inbound(i)) = client::next(&mut self.0).await?.event {
                return Ok((i.stream_id, i.peer_id));
            }
        }
    }
}

type Started = (mpsc::Sender<ExchangeStreamRequest>, tonic::Streaming<p2pd_api::v1::ExchangeStreamResponse>);

async fn start(mut client: Client, first: Item) -> anyhow::Result<Started> {
    let (items, requests) = mpsc::channel(AHEAD);
    items.send(ExchangeStreamRequest { item: Some(first) }).await?;
    let mut replies = client.exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    client::next(&mut replies).await?;
    Ok((items, replies))
}

/// Carries bytes both ways until both sides are closed and the daemon has sent all.
async fn join(
    client: Client,
    first: Item,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let (items, mut replies) = start(client, first).await?;
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
