//! The messages of AutoNAT v2, as <https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md> has them.

use std::io;

use prost::Message;

use crate::{reach::delimited, streams::ByteStream};

pub(super) const DIAL_REQUEST: &str = "/libp2p/autonat/2/dial-request";
pub(super) const DIAL_BACK: &str = "/libp2p/autonat/2/dial-back";

/// Largest message, of which the specification says 8 KiB.
pub(super) const MAX_MESSAGE: usize = 8 << 10;

/// `DialResponse.ResponseStatus`.
pub(super) mod status {
    pub(in super::super) const INTERNAL_ERROR: i32 = 0;
    pub(in super::super) const REQUEST_REJECTED: i32 = 100;
    pub(in super::super) const DIAL_REFUSED: i32 = 101;
    pub(in super::super) const OK: i32 = 200;
}

/// `DialStatus`.
pub(super) mod dial_status {
    pub(in super::super) const UNUSED: i32 = 0;
    pub(in super::super) const DIAL_ERROR: i32 = 100;
    pub(in super::super) const DIAL_BACK_ERROR: i32 = 101;
    pub(in super::super) const OK: i32 = 200;
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(message, tag = "1")]
    Request(DialRequest),
    #[prost(message, tag = "2")]
    Response(DialResponse),
    #[prost(message, tag = "3")]
    DataRequest(DialDataRequest),
    #[prost(message, tag = "4")]
    DataResponse(DialDataResponse),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DialRequest {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) addresses: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    pub(super) nonce: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DialResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
    #[prost(uint32, tag = "2")]
    pub(super) address: u32,
    #[prost(int32, tag = "3")]
    pub(super) dial_status: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DialDataRequest {
    #[prost(uint32, tag = "1")]
    pub(super) address: u32,
    #[prost(uint64, tag = "2")]
    pub(super) bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DialDataResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DialBack {
    #[prost(fixed64, tag = "1")]
    pub(super) nonce: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct DialBackResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

pub(super) async fn send(stream: &mut ByteStream, kind: Kind) -> io::Result<()> {
    delimited::write(stream, &Envelope { kind: Some(kind) }).await
}

pub(super) async fn receive(stream: &mut ByteStream) -> io::Result<Kind> {
    let Envelope { kind } = delimited::read(stream, MAX_MESSAGE).await?;
    kind.ok_or_else(|| io::Error::other("a message of no kind"))
}
