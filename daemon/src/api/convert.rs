//! Conversions between the API's messages and the words of the domain: infallible outward, naming the field inward.

use p2pd_api::v1 as pb;
use p2pd_core::{
    id::PeerId,
    multiaddr::Multiaddr,
    text,
    topic_settings::{Identity, TopicSettings},
};
use p2pd_live::{
    Listed, Opening, Wire,
    directory::message::Metadata,
    group::{Group, StreamConfig},
};
use p2pd_net::PeerInfo;
use p2pd_node::pubsub::{LogStatus, TopicStatus};
use tonic::Status;

use super::status;

pub(super) fn peer_id(text: &str) -> Result<PeerId, Status> {
    text.parse().map_err(|e: p2pd_core::id::IdError| status::field("peer_id", &e.to_string()))
}

pub(super) fn connection(c: p2pd_net::Connection) -> pb::Connection {
    let streams = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    pb::Connection {
        address: c.address.to_string(),
        inbound: c.inbound,
        opened_ms: c.opened.0,
        transport: c.address.transport().to_string(),
        security: c.security.into(),
        muxer: c.muxer.into(),
        received: c.traffic.received,
        sent: c.traffic.sent,
        streams_in: streams(c.streams.inbound),
        streams_out: streams(c.streams.outbound),
        relayed: c.address.is_circuit(),
    }
}

/// Addresses, as the API writes them.
pub(super) fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    addresses.iter().map(Multiaddr::to_string).collect()
}

fn traffic((protocol, traffic): (String, p2pd_net::Traffic)) -> pb::ProtocolTraffic {
    pb::ProtocolTraffic { protocol, received: traffic.received, sent: traffic.sent }
}

pub(super) fn peer(info: PeerInfo, tags: Vec<String>, clock_ahead_ms: Option<i64>) -> pb::Peer {
    pb::Peer {
        peer_id: info.peer.to_string(),
        connections: info.connections.into_iter().map(connection).collect(),
        agent: info.agent,
        protocols: info.protocols,
        rtt_us: info.rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        score: info.score,
        addresses: texts(&info.addresses),
        kept: info.kept.into_iter().map(str::to_owned).collect(),
        tags,
        traffic: info.by_protocol.into_iter().map(traffic).collect(),
        messages_lost: info.lost,
        clock_ahead_ms,
    }
}

pub(super) fn config(config: StreamConfig) -> pb::StreamConfig {
    pb::StreamConfig {
        codec: config.codec,
        sample_rate: config.sample_rate,
        channels: config.channels,
        frame_us: config.frame_us,
        frames_per_group: config.frames_per_group,
        pre_skip: config.pre_skip,
        bitrate: config.bitrate,
    }
}

fn config_in(config: pb::StreamConfig) -> StreamConfig {
    StreamConfig {
        codec: config.codec,
        sample_rate: config.sample_rate,
        channels: config.channels,
        frame_us: config.frame_us,
        frames_per_group: config.frames_per_group,
        pre_skip: config.pre_skip,
        bitrate: config.bitrate,
    }
}

pub(super) fn stream(listed: Listed) -> pb::Stream {
    let metadata = &listed.entry.metadata;
    let config = metadata.config().map(config);
    let wire = if config.is_some() { pb::WireFormat::Native } else { pb::WireFormat::Json };
    pb::Stream {
        stream_id: listed.key.stream.to_string(),
        publisher: listed.key.publisher.to_string(),
        name: metadata.text("name", 200),
        category: metadata.text("category", 64),
        wire: wire.into(),
        config,
        listeners: listed.entry.listeners,
        age_ms: listed.age_ms,
        confirmed: listed.entry.confirmed,
        publisher_addresses: metadata.addresses(),
        metadata_json: text::clean(&serde_json::to_string(&metadata.0).unwrap_or_default(), usize::MAX),
        local: listed.local,
        old_listeners: listed.old_listeners,
    }
}

pub(super) fn group(group: &Group, repaired: bool) -> pb::AudioGroup {
    let body = group.body.clone();
    pb::AudioGroup {
        epoch: body.epoch,
        seq: body.seq,
        pts: body.pts,
        capture_us: body.capture_us,
        frames: body.frames,
        config: body.config.map(config),
        title: body.title.map(|title| pb::Title { text: title.text, pts: title.pts }),
        signed: group.signed.clone(),
        repaired,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn topic(topic: TopicStatus) -> pb::Topic {
    let log = |log: LogStatus| pb::TopicLog {
        oldest: log.oldest,
        newest: log.newest,
        bytes: log.bytes,
        readers: count(log.readers),
    };
    pb::Topic {
        name: topic.name,
        peers: count(topic.peers),
        mesh_peers: count(topic.mesh_peers),
        readers: count(topic.readers),
        validated: topic.validated,
        log: topic.log.map(log),
        settings: Some(settings(topic.settings)),
        too_large: topic.too_large,
    }
}

pub(super) fn settings(settings: TopicSettings) -> pb::TopicSettings {
    let identity = match settings.identity {
        Identity::Sender => pb::MessageIdentity::Sender,
        Identity::Key => pb::MessageIdentity::Key,
        Identity::Content => pb::MessageIdentity::Content,
    };
    pb::TopicSettings {
        max_message_bytes: settings.max_message,
        identity: identity.into(),
        fail_closed: settings.closed,
        judging_ms: settings.judging_ms,
        keep_s: settings.keep_s,
        keep_bytes: settings.keep_bytes,
        mesh: settings.mesh,
        max_age_ms: settings.max_age_ms,
        allow_unsigned: settings.allow_unsigned,
    }
}

pub(super) fn settings_in(settings: pb::TopicSettings) -> Result<TopicSettings, Status> {
    let usual = TopicSettings::default();
    let or = |value: u32, usual: u32| if value == 0 { usual } else { value };
    let identity = match pb::MessageIdentity::try_from(settings.identity) {
        Ok(pb::MessageIdentity::Unspecified | pb::MessageIdentity::Key) => Identity::Key,
        Ok(pb::MessageIdentity::Sender) => Identity::Sender,
        Ok(pb::MessageIdentity::Content) => Identity::Content,
        Err(_) => return Err(status::field("settings.identity", "is none this daemon knows")),
    };
    Ok(TopicSettings {
        max_message: or(settings.max_message_bytes, usual.max_message),
        identity,
        closed: settings.fail_closed,
        judging_ms: or(settings.judging_ms, usual.judging_ms),
        keep_s: or(settings.keep_s, usual.keep_s),
        keep_bytes: if settings.keep_bytes == 0 { usual.keep_bytes } else { settings.keep_bytes },
        mesh: or(settings.mesh, usual.mesh),
        max_age_ms: settings.max_age_ms,
        allow_unsigned: settings.allow_unsigned,
    })
}

pub(super) fn opening(open: pb::OpenStream) -> Result<Opening, Status> {
    let stream = open.stream_id.parse();
    let stream = stream.map_err(|e: p2pd_core::id::IdError| status::field("open.stream_id", &e.to_string()))?;
    if open.name.chars().count() > 200 {
        return Err(status::field("open.name", "takes at most 200 characters"));
    }
    if open.category.chars().count() > 64 {
        return Err(status::field("open.category", "takes at most 64 characters"));
    }
    let wire = match pb::WireFormat::try_from(open.wire) {
        Ok(pb::WireFormat::Json) => Wire::Json,
        Ok(pb::WireFormat::Native | pb::WireFormat::Unspecified) => {
            let config = open.config.ok_or_else(|| status::field("open.config", "is required for a native stream"))?;
            Wire::Native(config_in(config))
        }
        Err(_) => return Err(status::field("open.wire", "is not a format this daemon knows")),
    };
    Ok(Opening { stream, name: open.name, category: open.category, wire, metadata: metadata(&open.metadata_json)? })
}

fn metadata(json: &str) -> Result<Metadata, Status> {
    if json.is_empty() {
        return Ok(Metadata::default());
    }
    if json.len() > 4096 {
        return Err(status::field("open.metadata_json", "takes at most 4 KiB"));
    }
    serde_json::from_str(json)
        .map(Metadata)
        .map_err(|e| status::field("open.metadata_json", &format!("is not a JSON object: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_says_what_carries_it_and_whether_a_relay_is_between() {
        let tcp = p2pd_net::Connection {
            address: "/ip4/192.0.2.1/tcp/4001".parse().unwrap(),
            inbound: false,
            opened: p2pd_core::time::UnixMs(0),
            security: "noise",
            muxer: "yamux",
            traffic: p2pd_net::Traffic::default(),
            streams: p2pd_net::Streams::default(),
        };
        for (more, transport, relayed) in [
            ("", "tcp", false),
            ("/ws", "ws", false),
            ("/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit", "tcp", true),
        ] {
            let address = format!("{}{more}", tcp.address).parse().unwrap();
            let connection = connection(p2pd_net::Connection { address, ..tcp.clone() });
            assert_eq!((connection.transport.as_str(), connection.relayed), (transport, relayed), "{more}");
        }
    }
}
