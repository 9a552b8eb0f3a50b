//! `rpc`: any unary method of the API, by the API's own descriptor.

use anyhow::anyhow;
use prost::{Message, bytes::Bytes};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::{client::Grpc, codec::Codec, transport::Channel};

use super::context::Context;
use crate::{
    error::{Exit, fail},
    output::{self, Format},
};

/// Calls a method with a JSON request, and prints its response as JSON.
pub(super) async fn run(context: &Context, method: &str, request: &str) -> anyhow::Result<()> {
    let wrong = || fail(Exit::Usage, format!("no method `{method}`; one looks like p2pd.v1.PeerService/ListPeers"));
    let (service, name) = method.split_once('/').ok_or_else(wrong)?;
    let service = output::pool()?.get_service_by_name(service).ok_or_else(wrong)?;
    let found = service.methods().find(|m| m.name() == name).ok_or_else(wrong)?;
    if found.is_client_streaming() || found.is_server_streaming() {
        return Err(fail(Exit::Usage, format!("`{method}` is a stream; rpc calls unary methods")));
    }
    let mut reader = serde_json::Deserializer::from_str(request);
    let request = DynamicMessage::deserialize(found.input(), &mut reader)
        .map_err(|e| fail(Exit::Usage, format!("the request: {e}")))?;
    let path = format!("/{method}").parse().map_err(|e| anyhow!("{e}"))?;
    let mut grpc = Grpc::<Channel>::new(context.client.channel.clone());
    grpc.ready().await?;
    let codec = Dynamic(found.output());
    let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
    let answer = context.client.answer(grpc.unary(request, path, codec)).await?;
    Ok(output::line(&output::dynamic(&answer, context.format != Format::Jsonl)?)?)
}

/// A gRPC codec: the request is encoded already, the answer is decoded by its descriptor.
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = Bytes;
    type Decode = DynamicMessage;
    type Encoder = Plain;
    type Decoder = Dynamic;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Dynamic {
        Dynamic(self.0.clone())
    }
}

struct Plain;

impl tonic::codec::Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<DynamicMessage>, tonic::Status> {
        let message = DynamicMessage::decode(self.0.clone(), buffer);
        message.map(Some).map_err(|e| tonic::Status::internal(format!("the answer cannot be read: {e}")))
    }
}
