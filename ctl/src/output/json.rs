//! Messages as JSON, by the API's own descriptor: the field names of the proto, integers as numbers, bytes in base64.

use std::sync::OnceLock;

use anyhow::Context;
use p2pd_api::v1::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::is_harmless;

/// Messages and services of the API, as this p2pctl knows them.
pub(crate) fn pool() -> anyhow::Result<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok()).as_ref().context("the API's descriptor is damaged")
}

/// A message as JSON.
pub(crate) fn dynamic(message: &DynamicMessage, pretty: bool) -> anyhow::Result<String> {
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

/// Escapes the characters that JSON allows as they are, but that a terminal could obey.
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
    dynamic(&DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])?, pretty)
}

#[cfg(test)]
mod tests {
    use prost_reflect::{Kind, MessageDescriptor, Value};

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
            let json = dynamic(&message, false).unwrap();
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
