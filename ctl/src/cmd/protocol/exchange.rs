//! An open stream, and its bytes both ways.

use p2pd_api::v1::{
    ExchangeStreamRequest, ExchangeStreamResponse, OpenProtocolStream, ProtocolStream, exchange_stream_request::Item,
    exchange_stream_response::Event, protocol_service_client::ProtocolServiceClient,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{self, Client};

/// Requests queued in front of the gRPC connection.
const AHEAD: usize = 4;
const CHUNK: usize = 64 * 1024;

/// An open stream.
pub(super) struct Started {
    pub(super) peer: String,
    items: mpsc::Sender<ExchangeStreamRequest>,
    replies: tonic::Streaming<ExchangeStreamResponse>,
}

/// Opens a stream to a peer, on the first of the protocols that it speaks.
pub(super) async fn open(client: &Client, peer: &str, protocols: &[String]) -> anyhow::Result<Started> {
    start(client, Item::Open(OpenProtocolStream { peer_id: peer.into(), protocols: protocols.into() })).await
}

/// Waits for the next stream that a peer opens to this handler.
pub(super) async fn accept(client: &Client, handler_id: u64) -> anyhow::Result<Started> {
    start(client, Item::AcceptNext(handler_id)).await
}

async fn start(client: &Client, first: Item) -> anyhow::Result<Started> {
    let mut service = ProtocolServiceClient::new(client.channel.clone());
    let (items, requests) = mpsc::channel(AHEAD);
    items.send(ExchangeStreamRequest { item: Some(first) }).await?;
    let mut replies = service.exchange_stream(ReceiverStream::new(requests)).await?.into_inner();
    match client::next(&mut replies).await?.event {
        Some(Event::Opened(ProtocolStream { peer_id: peer, .. })) => Ok(Started { peer, items, replies }),
        other => anyhow::bail!("the daemon says {other:?} of a stream before it is open"),
    }
}

/// Carries bytes both ways until both sides are closed and the daemon has sent all.
pub(super) async fn join(
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
