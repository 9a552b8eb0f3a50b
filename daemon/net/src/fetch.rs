//! `/p2pd/stream/1`: groups of a stream on request, for a newcomer's burst and for what gossip did not bring.
//!
//! A request and its response are one protobuf message each, the stream's end is the message's end.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use prost::Message;

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/p2pd/stream/1");
const MAX_REQUEST: u64 = 1024;
const MAX_RESPONSE: u64 = 2 * 1024 * 1024 + 64 * 1024;

/// Asks for groups: the last `last_ms` milliseconds where that is not zero, else numbers `from` to `to` of `epoch`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) stream: Bytes,
    #[prost(uint32, tag = "2")]
    pub(crate) last_ms: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) to: u64,
}

/// Encoded `SignedGroup`s, oldest first; empty when none is kept.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) groups: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) stream: Bytes,
}

#[derive(Clone)]
pub(crate) struct Codec;

async fn read<M: Message + Default>(io: &mut (impl AsyncRead + Unpin + Send), max: u64) -> io::Result<M> {
    let mut bytes = Vec::new();
    io.take(max).read_to_end(&mut bytes).await?;
    M::decode(Bytes::from(bytes)).map_err(io::Error::other)
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), message: impl Message) -> io::Result<()> {
    io.write_all(&message.encode_to_vec()).await?;
    io.close().await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Request> {
        read(io, MAX_REQUEST).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Response> {
        read(io, MAX_RESPONSE).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()> {
        write(io, request).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()> {
        write(io, response).await
    }
}
