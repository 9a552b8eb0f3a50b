//! The control protocol of the Go p2pd: messages of protobuf, each with its length before it.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::OwnedReadHalf,
};

/// `Request.Type` of its protocol, and what each takes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(int32, required, tag = 1)]
    pub(super) kind: i32,
    #[prost(message, optional, tag = 2)]
    pub(super) connect: Option<Connect>,
    #[prost(message, optional, tag = 3)]
    pub(super) open: Option<Open>,
    #[prost(message, optional, tag = 4)]
    pub(super) handle: Option<Handle>,
    #[prost(message, optional, tag = 8)]
    pub(super) pubsub: Option<PubSub>,
}

pub(super) const IDENTIFY: i32 = 0;
pub(super) const CONNECT: i32 = 1;
pub(super) const OPEN: i32 = 2;
pub(super) const HANDLE: i32 = 3;
pub(super) const PUBSUB: i32 = 8;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Connect {
    #[prost(bytes = "vec", required, tag = 1)]
    pub(super) peer: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = 2)]
    pub(super) addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Open {
    #[prost(bytes = "vec", required, tag = 1)]
    pub(super) peer: Vec<u8>,
    #[prost(string, repeated, tag = 2)]
    pub(super) protocols: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Handle {
    /// Multiaddr of the socket that it dials for each stream.
    #[prost(bytes = "vec", required, tag = 1)]
    pub(super) address: Vec<u8>,
    #[prost(string, repeated, tag = 2)]
    pub(super) protocols: Vec<String>,
    /// Whether others may handle it too.
    #[prost(bool, required, tag = 3)]
    pub(super) shared: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PubSub {
    #[prost(int32, required, tag = 1)]
    pub(super) kind: i32,
    #[prost(string, required, tag = 2)]
    pub(super) topic: String,
    #[prost(bytes = "vec", optional, tag = 3)]
    pub(super) data: Option<Vec<u8>>,
}

pub(super) const PUBLISH: i32 = 2;
pub(super) const SUBSCRIBE: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    /// 0 when all is well.
    #[prost(int32, required, tag = 1)]
    pub(super) kind: i32,
    #[prost(message, optional, tag = 4)]
    pub(super) identify: Option<Identity>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Identity {
    #[prost(bytes = "vec", required, tag = 1)]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = 2)]
    pub(super) addresses: Vec<Vec<u8>>,
}

/// What comes before the bytes of a stream.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StreamInfo {
    #[prost(bytes = "vec", required, tag = 1)]
    pub(super) peer: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Heard {
    #[prost(bytes = "vec", optional, tag = 2)]
    pub(super) data: Option<Vec<u8>>,
}

/// Messages with their lengths before them.
pub struct Frames<M>(OwnedReadHalf, BytesMut, PhantomData<M>);

impl<M: Message + Default> Frames<M> {
    pub(super) fn new(source: OwnedReadHalf) -> Self {
        Frames(source, BytesMut::new(), PhantomData)
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> M {
        let Frames(source, buffer, _) = self;
        loop {
            if let Ok(length) = prost::decode_length_delimiter(&buffer[..]) {
                let whole = prost::length_delimiter_len(length) + length;
                if buffer.len() >= whole {
                    let mut frame = buffer.split_to(whole);
                    frame.advance(whole - length);
                    return M::decode(frame).unwrap();
                }
                buffer.reserve(whole - buffer.len());
            }
            assert_ne!(source.read_buf(buffer).await.unwrap(), 0, "the Go p2pd hung up");
        }
    }

    /// What comes from now on is no message any more.
    pub(super) fn bytes(self) -> impl AsyncRead + Unpin {
        AsyncReadExt::chain(std::io::Cursor::new(self.1), self.0)
    }

    /// What comes from now on is of another kind.
    pub(super) fn then<N>(self) -> Frames<N> {
        Frames(self.0, self.1, PhantomData)
    }
}
