//! Messages as JSON, by the API's own descriptor: the field names of the proto, integers as numbers, bytes in base64.

use std::sync::OnceLock;

use anyhow::{Context, anyhow};
use p2pd_api::v1::DESCRIPTORS;
use prost::{Message, bytes::Bytes};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{client::Grpc, codec::Codec, transport::Channel};

use super::is_harmless;
use crate::{client::Client, exit::fail};

fn pool() -> anyhow::Result<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok()).as_ref().context("the API's descriptor is damaged")
}

fn text(message: &DynamicMessage, pretty: bool) -> anyhow::Result<String> {
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true).skip_default_fields(false);
    let mut out = Vec::new();
    if pretty {
        message.serialize_with_options(&mut serde_json::Serializer::pretty(&mut out), &options)?;
    } else {
        message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options)?;
    }
    Ok(harmless(&String::from_utf8(out)?))
}

/// The same JSON, in which also what JSON may leave as it is, and a terminal might obey, is written by its number.
pub(crate) fn harmless(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmless(c) {
            safe.push(c);
        } else {
            safe.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    safe
}

/// A message of package `p2pd.v1` as JSON.
pub(crate) fn to_json<M: Message>(name: &str, message: &M, pretty: bool) -> anyhow::Result<String> {
    let descriptor =
        pool()?.get_message_by_name(&format!("p2pd.v1.{name}")).with_context(|| format!("no message {name}"))?;
    text(&DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])?, pretty)
}

/// Calls a unary method with a JSON request, and gives its response as JSON.
pub(crate) async fn call_method(client: &Client, method: &str, request: &str, pretty: bool) -> anyhow::Result<String> {
    let wrong = || fail(2, format!("no method `{method}`; one looks like p2pd.v1.PeerService/ListPeers"));
    let (service, name) = method.split_once('/').ok_or_else(wrong)?;
    let service = pool()?.get_service_by_name(service).ok_or_else(wrong)?;
    let found = service.methods().find(|m| m.name() == name).ok_or_else(wrong)?;
    if found.is_client_streaming() || found.is_server_streaming() {
        return Err(fail(2, format!("`{method}` is a stream; rpc calls unary methods")));
    }
    let mut reader = serde_json::Deserializer::from_str(request);
    let request =
        DynamicMessage::deserialize(found.input(), &mut reader).map_err(|e| fail(2, format!("the request: {e}")))?;
    let path = format!("/{method}").parse().map_err(|e| anyhow!("{e}"))?;
    let mut grpc = Grpc::<Channel>::new(client.channel.clone());
    grpc.ready().await?;
    let codec = Dynamic(found.output());
    let answer =
        client.answer(grpc.unary(tonic::Request::new(Bytes::from(request.encode_to_vec())), path, codec)).await?;
    text(&answer, pretty)
}

/// Sends bytes as they are, reads a message of a descriptor.
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

#[cfg(test)]
mod tests {
    use prost_reflect::{Kind, Value};

    use super::*;

    /// Clears a screen, three times, and turns around what follows.
    const HOSTILE: &str = "\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{e0041}";

    /// A message whose texts are all hostile, some levels deep.
    fn hostile(descriptor: MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let value = match field.kind() {
                Kind::String => Value::String(HOSTILE.into()),
                Kind::Message(inner) if depth > 0 => Value::Message(hostile(inner, depth - 1)),
                _ => continue,
            };
            let value = if field.is_map() {
                Value::Map([(prost_reflect::MapKey::String(HOSTILE.into()), Value::String(HOSTILE.into()))].into())
            } else if field.is_list() {
                Value::List(vec![value])
            } else {
                value
            };
            message.set_field(&field, value);
        }
        message
    }

    #[test]
    fn no_text_of_any_message_can_drive_a_terminal() {
        let mut texts = 0;
        for descriptor in pool().unwrap().all_messages().filter(|message| message.package_name() == "p2pd.v1") {
            if descriptor.is_map_entry() {
                continue;
            }
            let message = hostile(descriptor, 4);
            let json = text(&message, false).unwrap();
            assert!(json.chars().all(is_harmless), "{json:?}");
            texts += usize::from(json.contains("u001b"));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            let texts_of_it = read.as_object().unwrap().values().filter_map(serde_json::Value::as_str);
            for text in texts_of_it.filter(|text| text.contains('\u{1b}')) {
                assert_eq!(text, HOSTILE, "nothing is lost");
            }
        }
        assert!(texts > 30, "{texts}");
    }
}
