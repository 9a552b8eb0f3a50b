//! `/p2pd/stream/1`: groups of a stream on request, for a newcomer's burst and for what gossip did not bring.
//!
//! A request and its response are one protobuf message each, the stream's end is the message's end.

use std::{io, time::Duration};

use bytes::Bytes;
use p2pd_core::id::PeerId;
use p2pd_net::{ByteStream, NetError, streams};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Its name.
pub(crate) const PROTOCOL: &str = "/p2pd/stream/1";
const MAX_REQUEST: u64 = 1024;
const MAX_RESPONSE: u64 = 2 * 1024 * 1024 + 64 * 1024;
/// How long a request and its response may take together.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for groups: the last `last_ms` milliseconds where that is not zero, else numbers `from` to `to` of `epoch`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) stream: Bytes,
    #[prost(uint32, tag = "2")]
    pub(super) last_ms: u32,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(super) from: u64,
    #[prost(uint64, tag = "5")]
    pub(super) to: u64,
}

/// Encoded `SignedGroup`s, oldest first; empty when none is kept.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) groups: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) stream: Bytes,
}

/// Asks a peer.
pub(super) async fn fetch(streams: &streams::Handle, peer: &PeerId, request: Request) -> Result<Response, Fault> {
    let exchange = async {
        let mut stream = streams.open(peer, &[PROTOCOL.to_owned()]).await?.stream;
        write(&mut stream, &request).await?;
        Ok(read(&mut stream, MAX_RESPONSE).await?)
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| Fault::Io(io::ErrorKind::TimedOut.into()))?
}

/// Answers a peer.
pub(super) async fn serve(mut stream: ByteStream, answer: impl FnOnce(&Request) -> Response) -> io::Result<()> {
    let exchange = async {
        let request = read(&mut stream, MAX_REQUEST).await?;
        write(&mut stream, &answer(&request)).await
    };
    tokio::time::timeout(TIMEOUT, exchange).await?
}

/// Why a peer gave no answer.
#[derive(Debug)]
pub(super) enum Fault {
    Net(NetError),
    Io(io::Error),
}

impl From<NetError> for Fault {
    fn from(error: NetError) -> Self {
        Fault::Net(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Net(error) => error.fmt(f),
            Fault::Io(error) => error.fmt(f),
        }
    }
}

async fn read<M: Message + Default>(stream: &mut ByteStream, most: u64) -> io::Result<M> {
    let mut bytes = Vec::new();
    stream.take(most).read_to_end(&mut bytes).await?;
    M::decode(Bytes::from(bytes)).map_err(io::Error::other)
}

async fn write(stream: &mut ByteStream, message: &impl Message) -> io::Result<()> {
    stream.write_all(&message.encode_to_vec()).await?;
    stream.shutdown().await
}
