//! The old audio format: JSON messages that carry slices of an encoded file, base64, unsigned but for gossipsub's own
//! signature. Read always, written on request, so that the existing JavaScript peers and p2pd hear each other.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use p2pd_core::{id::StreamId, time::UnixMs};

/// Largest message read, in bytes: others send a slice as their source delivers it, such as 60 KiB.
pub(crate) const MAX_MESSAGE: usize = 256 * 1024;
/// Most bytes of audio in a chunk that is written, so that the message fits the 64 KiB that most peers take.
pub(crate) const MAX_CHUNK: usize = 32 * 1024;

/// One message of the format.
#[derive(Clone, Debug, PartialEq)]
pub enum AudioMessage {
    /// Describes the stream.
    Metadata(Map<String, Value>),
    /// A slice of the encoded file.
    Audio(Bytes),
    /// Raw samples of a radio receiver.
    Iq(Bytes),
    /// The stream is over, with the publisher's reason.
    End(Option<String>),
}

impl AudioMessage {
    /// Bytes it holds, roughly.
    pub(crate) fn weight(&self) -> usize {
        match self {
            AudioMessage::Audio(chunk) | AudioMessage::Iq(chunk) => chunk.len(),
            AudioMessage::Metadata(fields) => fields.iter().map(field_weight).sum(),
            AudioMessage::End(reason) => reason.as_ref().map_or(0, String::len),
        }
    }
}

fn field_weight((name, value): (&String, &Value)) -> usize {
    size_of::<String>() + name.len() + value_weight(value)
}

/// Parsed, `[[],[],…]` takes ten times the bytes of its text.
fn value_weight(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(value_weight).sum(),
        Value::Object(fields) => fields.iter().map(field_weight).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

/// Reads a message about `stream`; `None` if it is malformed, oversized or about another stream.
pub(crate) fn decode(data: &[u8], stream: &StreamId) -> Option<(AudioMessage, UnixMs)> {
    if data.len() > MAX_MESSAGE {
        return None;
    }
    let Value::Object(mut fields) = serde_json::from_slice(data).ok()? else { return None };
    if fields.get("streamId")?.as_str()? != stream.as_str() {
        return None;
    }
    let time = UnixMs(fields.get("timestamp")?.as_u64()?);
    let base64 = |name: &str| STANDARD.decode(fields.get(name)?.as_str()?).ok().map(Bytes::from);
    let message = match fields.get("type")?.as_str()? {
        "audio" => AudioMessage::Audio(base64("chunk")?),
        "iq_data" => AudioMessage::Iq(base64("data")?),
        "end" => AudioMessage::End(fields.get("reason").and_then(Value::as_str).map(str::to_owned)),
        "metadata" => match fields.remove("metadata")? {
            Value::Object(metadata) => AudioMessage::Metadata(metadata),
            _ => return None,
        },
        _ => return None,
    };
    Some((message, time))
}

/// Writes a message about `stream`.
pub(crate) fn encode(message: &AudioMessage, stream: &StreamId, now: UnixMs) -> Vec<u8> {
    let (kind, name, value) = match message {
        AudioMessage::Metadata(map) => ("metadata", "metadata", Value::Object(map.clone())),
        AudioMessage::Audio(chunk) => ("audio", "chunk", STANDARD.encode(chunk).into()),
        AudioMessage::Iq(data) => ("iq_data", "data", STANDARD.encode(data).into()),
        AudioMessage::End(reason) => ("end", "reason", reason.clone().into()),
    };
    let mut message = json!({ "type": kind, "streamId": stream.as_str(), name: value, "timestamp": now.0 });
    if let Value::Object(fields) = &mut message {
        fields.retain(|_, value| !value.is_null());
    }
    message.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_strangers_do_not() {
        let stream: StreamId = "town".parse().unwrap();
        for message in [
            AudioMessage::Audio(Bytes::from_static(b"\xff\xfbmp3")),
            AudioMessage::Iq(Bytes::from_static(b"iq")),
            AudioMessage::End(Some("done".into())),
            AudioMessage::Metadata(Map::from_iter([("name".to_owned(), "Town".into())])),
        ] {
            let bytes = encode(&message, &stream, UnixMs(9));
            assert_eq!(decode(&bytes, &stream), Some((message, UnixMs(9))));
            assert_eq!(decode(&bytes, &"city".parse().unwrap()), None);
        }
        let nested = json!({ "name": "x".repeat(200_000), "more": vec![Value::Array(Vec::new()); 1_000] });
        let Value::Object(nested) = nested else { unreachable!() };
        assert!(AudioMessage::Metadata(nested).weight() > 200_000 + 1_000 * size_of::<Value>());
        for bad in ["", "[]", "{}", r#"{"type":"audio","streamId":"town","chunk":"!","timestamp":1}"#] {
            assert_eq!(decode(bad.as_bytes(), &stream), None, "{bad}");
        }
    }

    #[test]
    fn what_a_message_weighs_is_what_it_holds() {
        let name = size_of::<String>() + 4;
        let metadata = |value: Value| AudioMessage::Metadata(Map::from_iter([("name".to_owned(), value)])).weight();
        assert_eq!(metadata(Value::Null), name + size_of::<Value>());
        assert_eq!(metadata("Town".into()), name + size_of::<Value>() + 4);
        assert_eq!(metadata(json!([[], 1, true])), name + 4 * size_of::<Value>());
        assert_eq!(metadata(json!({ "name": "Town" })), 2 * name + 2 * size_of::<Value>() + 4);
        assert_eq!(AudioMessage::Audio(Bytes::from_static(b"abc")).weight(), 3);
        assert_eq!(AudioMessage::Iq(Bytes::from_static(b"abcd")).weight(), 4);
        assert_eq!([AudioMessage::End(Some("done!".into())), AudioMessage::End(None)].map(|end| end.weight()), [5, 0]);
    }

    #[test]
    fn a_message_of_a_quarter_of_a_mebibyte_is_read() {
        let stream: StreamId = "town".parse().unwrap();
        let mut bytes = encode(&AudioMessage::End(None), &stream, UnixMs(9));
        assert_eq!(bytes, br#"{"streamId":"town","timestamp":9,"type":"end"}"#);
        bytes.resize(262_144, b' ');
        assert_eq!(decode(&bytes, &stream), Some((AudioMessage::End(None), UnixMs(9))));
        bytes.push(b' ');
        assert_eq!(decode(&bytes, &stream), None);
        assert_eq!(MAX_CHUNK, 32_768, "with its base64 it fits 64 KiB");
    }
}
