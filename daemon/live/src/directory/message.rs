//! Messages of the stream directory: JSON over gossipsub, shared with the JavaScript peers that already speak it.
//!
//! Who announces is the message's signed sender; a `publisher` inside the JSON that says otherwise makes the message a
//! lie. Unknown fields of an entry are kept and passed on.

use serde_json::{Map, Value, json};

use crate::group::StreamConfig;
use p2pd_core::{
    id::{PeerId, StreamId},
    text,
    time::UnixMs,
};

/// Largest message read or written, in bytes.
pub const MAX_MESSAGE: usize = 8 * 1024;
/// Most streams in one response.
const MAX_RESPONSE: usize = 64;

/// What an entry says of its stream: the JSON object as it was announced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub Map<String, Value>);

impl Metadata {
    /// A text field, clean of control characters and at most `max` characters long.
    pub fn text(&self, name: &str, max: usize) -> String {
        self.0.get(name).and_then(Value::as_str).map(|s| text::clean(s, max)).unwrap_or_default()
    }

    /// A number field.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// Sets a field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The addresses of the publisher, at most 8.
    pub fn addresses(&self) -> Vec<String> {
        let list = self.0.get("publisherAddrs").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).take(8).map(|s| text::clean(s, 256)).collect()
    }

    /// How native frames are encoded; `None` for a stream of the old format.
    pub fn config(&self) -> Option<StreamConfig> {
        let config = self.0.get("config")?.as_object()?;
        let number = |name: &str| config.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        Some(StreamConfig {
            codec: text::clean(config.get("codec")?.as_str()?, 32),
            sample_rate: number("sampleRate")?,
            channels: number("channels")?,
            frame_us: number("frameUs")?,
            frames_per_group: number("framesPerGroup")?,
            pre_skip: number("preSkip").unwrap_or(0),
            bitrate: number("bitrate").unwrap_or(0),
        })
    }

    /// Sets how native frames are encoded.
    pub fn set_config(&mut self, config: &StreamConfig) {
        self.set(
            "config",
            json!({
                "codec": config.codec, "sampleRate": config.sample_rate, "channels": config.channels,
                "frameUs": config.frame_us, "framesPerGroup": config.frames_per_group,
                "preSkip": config.pre_skip, "bitrate": config.bitrate,
            }),
        );
    }
}

/// Which entries a query asks for; absent fields match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Publisher's peer id.
    pub publisher: Option<String>,
    /// Value of `metadata.system_name`.
    pub system: Option<String>,
    /// Value of `metadata.category`.
    pub category: Option<String>,
}

impl Filter {
    /// Whether an entry of `publisher` with this metadata is asked for.
    pub fn matches(&self, publisher: &PeerId, metadata: &Metadata) -> bool {
        let field = |name: &str| metadata.0.get(name).and_then(Value::as_str);
        self.publisher.as_ref().is_none_or(|p| *p == publisher.to_string())
            && self.system.as_deref().is_none_or(|s| field("system_name") == Some(s))
            && self.category.as_deref().is_none_or(|c| field("category") == Some(c))
    }
}

/// A message of the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum DirectoryMessage {
    /// A stream is available.
    Announce {
        /// Its name.
        stream: StreamId,
        /// What it is.
        metadata: Metadata,
    },
    /// It is still there.
    Heartbeat {
        /// Its name.
        stream: StreamId,
        /// How many listen, where the publisher says.
        listeners: Option<u32>,
    },
    /// It is gone.
    Deregister {
        /// Its name.
        stream: StreamId,
    },
    /// Who has streams like this?
    Query {
        /// Like what.
        filter: Filter,
        /// Comes back in the response.
        request: String,
    },
    /// The sender's own streams that a query asked for.
    Response {
        /// From the query.
        request: String,
        /// The streams.
        streams: Vec<(StreamId, Metadata)>,
    },
}

/// Why bytes are no message of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Over `MAX_MESSAGE`.
    #[error("larger than a directory message may be")]
    Oversized,
    /// Not JSON, a field is missing or of the wrong kind.
    #[error("malformed")]
    Malformed,
    /// Speaks for a peer that did not sign it.
    #[error("speaks for another peer")]
    Impostor,
}

/// Reads a message that `sender` signed.
pub fn decode(data: &[u8], sender: &PeerId) -> Result<(DirectoryMessage, UnixMs), AnnounceError> {
    if data.len() > MAX_MESSAGE {
        return Err(AnnounceError::Oversized);
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(data) else { return Err(AnnounceError::Malformed) };
    let kind = string(&fields, "type")?.to_owned();
    let own = |fields: &Map<String, Value>, name| match fields.get(name).and_then(Value::as_str) {
        Some(peer) if peer != sender.to_string() => Err(AnnounceError::Impostor),
        _ => Ok(()),
    };
    own(&fields, "publisher")?;
    own(&fields, "from")?;
    let message = match kind.as_str() {
        "announce" => {
            let metadata = object(fields.remove("metadata"))?;
            own(&metadata, "publisher")?;
            let time = metadata.get("timestamp").or(fields.get("timestamp")).and_then(Value::as_u64);
            let time = UnixMs(time.ok_or(AnnounceError::Malformed)?);
            let metadata = Metadata(metadata);
            return Ok((DirectoryMessage::Announce { stream: stream_id(&fields)?, metadata }, time));
        }
        "heartbeat" => {
            let listeners = fields.get("listeners").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            DirectoryMessage::Heartbeat { stream: stream_id(&fields)?, listeners }
        }
        "deregister" => DirectoryMessage::Deregister { stream: stream_id(&fields)? },
        "query" => {
            let filter = fields.get("filter").and_then(Value::as_object);
            let field = |name: &str| Some(text::clean(filter?.get(name)?.as_str()?, 128));
            let filter = Filter { publisher: field("publisher"), system: field("system"), category: field("category") };
            DirectoryMessage::Query { filter, request: text::clean(string(&fields, "requestId")?, 128) }
        }
        "response" => {
            let Some(Value::Array(list)) = fields.remove("streams") else { return Err(AnnounceError::Malformed) };
            let mut streams = Vec::new();
            for item in list.into_iter().take(MAX_RESPONSE) {
                let mut item = object(Some(item))?;
                let metadata = object(item.remove("metadata"))?;
                own(&metadata, "publisher")?;
                streams.push((stream_id(&item)?, Metadata(metadata)));
            }
            DirectoryMessage::Response { request: text::clean(string(&fields, "requestId")?, 128), streams }
        }
        _ => return Err(AnnounceError::Malformed),
    };
    let time = fields.get("timestamp").and_then(Value::as_u64).ok_or(AnnounceError::Malformed)?;
    Ok((message, UnixMs(time)))
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, AnnounceError> {
    fields.get(name).and_then(Value::as_str).ok_or(AnnounceError::Malformed)
}

fn stream_id(fields: &Map<String, Value>) -> Result<StreamId, AnnounceError> {
    string(fields, "streamId")?.parse().map_err(|_| AnnounceError::Malformed)
}

fn object(value: Option<Value>) -> Result<Map<String, Value>, AnnounceError> {
    match value {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(AnnounceError::Malformed),
    }
}

/// Writes a message that `sender` will sign. Fails if it would be larger than peers accept.
pub fn encode(message: &DirectoryMessage, sender: &PeerId, now: UnixMs) -> Result<Vec<u8>, AnnounceError> {
    let me = sender.to_string();
    let entry = |metadata: &Metadata| {
        let mut fields = metadata.0.clone();
        fields.insert("publisher".into(), me.clone().into());
        fields.insert("timestamp".into(), now.0.into());
        Value::Object(fields)
    };
    let value = match message {
        DirectoryMessage::Announce { stream, metadata } => {
            json!({ "type": "announce", "streamId": stream.as_str(), "metadata": entry(metadata) })
        }
        DirectoryMessage::Heartbeat { stream, listeners } => json!({
            "type": "heartbeat", "streamId": stream.as_str(), "publisher": me, "timestamp": now.0, "listeners": listeners,
        }),
        DirectoryMessage::Deregister { stream } => {
            json!({ "type": "deregister", "streamId": stream.as_str(), "publisher": me, "timestamp": now.0 })
        }
        DirectoryMessage::Query { filter, request } => {
            let fields = [("publisher", &filter.publisher), ("system", &filter.system), ("category", &filter.category)];
            let filter: Map<String, Value> =
                fields.into_iter().filter_map(|(name, value)| Some((name.into(), value.clone()?.into()))).collect();
            json!({ "type": "query", "filter": filter, "requestId": request, "from": me, "timestamp": now.0 })
        }
        DirectoryMessage::Response { request, streams } => {
            let streams: Vec<Value> = streams
                .iter()
                .map(|(stream, metadata)| json!({ "streamId": stream.as_str(), "metadata": entry(metadata) }))
                .collect();
            json!({ "type": "response", "requestId": request, "streams": streams, "from": me, "timestamp": now.0 })
        }
    };
    let bytes = value.to_string().into_bytes();
    if bytes.len() > MAX_MESSAGE { Err(AnnounceError::Oversized) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n; 32])
    }

    #[test]
    fn every_kind_round_trips_and_keeps_unknown_fields() {
        let stream: StreamId = "town".parse().unwrap();
        let mut metadata = Metadata::default();
        metadata.set("name", "Town");
        metadata.set("talkgroup_id", 4711);
        metadata.set("publisher", peer(1).to_string());
        metadata.set("timestamp", 5);
        let config = StreamConfig {
            codec: "opus".into(),
            sample_rate: 48_000,
            channels: 2,
            frame_us: 20_000,
            frames_per_group: 5,
            pre_skip: 312,
            bitrate: 96_000,
        };
        metadata.set_config(&config);
        assert_eq!(metadata.config(), Some(config));
        let filter = Filter { category: Some("news".into()), ..Filter::default() };
        for message in [
            DirectoryMessage::Announce { stream: stream.clone(), metadata: metadata.clone() },
            DirectoryMessage::Heartbeat { stream: stream.clone(), listeners: Some(3) },
            DirectoryMessage::Deregister { stream: stream.clone() },
            DirectoryMessage::Query { filter, request: "r-1".into() },
            DirectoryMessage::Response { request: "r-1".into(), streams: vec![(stream, metadata)] },
        ] {
            let bytes = encode(&message, &peer(1), UnixMs(5)).unwrap();
            assert_eq!(decode(&bytes, &peer(1)), Ok((message.clone(), UnixMs(5))));
            assert_eq!(decode(&bytes, &peer(2)), Err(AnnounceError::Impostor), "{message:?}");
        }
    }

    #[test]
    fn sizes_and_shapes_are_checked() {
        let huge = format!("{{\"type\":\"query\",\"x\":\"{}\"}}", "x".repeat(MAX_MESSAGE));
        assert_eq!(decode(huge.as_bytes(), &peer(1)), Err(AnnounceError::Oversized));
        for bad in [
            "",
            "null",
            "{}",
            r#"{"type":"heartbeat","streamId":"","timestamp":1}"#,
            r#"{"type":"announce","streamId":"a","metadata":[]}"#,
        ] {
            assert_eq!(decode(bad.as_bytes(), &peer(1)), Err(AnnounceError::Malformed), "{bad}");
        }
    }

    #[test]
    fn fields_of_an_entry_are_read_as_what_they_are() {
        let mut metadata = Metadata::default();
        metadata.set("name", "\u{1b}Town");
        metadata.set("count", 7);
        metadata.set("publisherAddrs", (0..9).map(|n| format!("/dns4/{n}\u{7}")).collect::<Vec<_>>());
        assert_eq!(
            (metadata.text("name", 3), metadata.text("count", 9), metadata.text("none", 9)),
            ("Tow".into(), "".into(), "".into())
        );
        assert_eq!((metadata.number("count"), metadata.number("name")), (Some(7), None));
        assert_eq!(metadata.addresses(), (0..8).map(|n| format!("/dns4/{n}")).collect::<Vec<_>>());
        assert_eq!(Metadata::default().addresses(), [""; 0]);
    }

    #[test]
    fn a_filter_matches_what_has_all_that_it_names() {
        let mut metadata = Metadata::default();
        metadata.set("system_name", "north");
        metadata.set("category", "news");
        let some = |text: &str| Some(text.to_owned());
        let me = peer(1).to_string();
        for (publisher, system, category, matches) in [
            (None, None, None, true),
            (some(&me), some("north"), some("news"), true),
            (some(&peer(2).to_string()), some("north"), some("news"), false),
            (some(&me), some("south"), some("news"), false),
            (some(&me), some("north"), some("music"), false),
            (None, some("north"), None, true),
            (None, None, some("music"), false),
        ] {
            let filter = Filter { publisher, system, category };
            assert_eq!(filter.matches(&peer(1), &metadata), matches, "{filter:?}");
        }
        assert!(!Filter { system: some("north"), ..Filter::default() }.matches(&peer(1), &Metadata::default()));
    }

    #[test]
    fn a_message_may_have_eight_kibibytes() {
        // Of blanks, which JSON does not mind.
        let padded = |size: usize| {
            let message = DirectoryMessage::Deregister { stream: "town".parse().unwrap() };
            let mut bytes = encode(&message, &peer(1), UnixMs(5)).unwrap();
            bytes.resize(size, b' ');
            decode(&bytes, &peer(1)).map(|_| ())
        };
        assert_eq!([padded(8_192), padded(8_193)], [Ok(()), Err(AnnounceError::Oversized)]);
        let written = |filler: usize| {
            let mut metadata = Metadata::default();
            metadata.set("filler", "x".repeat(filler));
            encode(&DirectoryMessage::Announce { stream: "town".parse().unwrap(), metadata }, &peer(1), UnixMs(5))
        };
        let around = written(0).unwrap().len();
        assert_eq!(written(8_192 - around).map(|bytes| bytes.len()), Ok(8_192));
        assert_eq!(written(8_193 - around), Err(AnnounceError::Oversized));
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "\\PC{0,200}") { let _ = decode(text.as_bytes(), &peer(1)); }
    }
}
