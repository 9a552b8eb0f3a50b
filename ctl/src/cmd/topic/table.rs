//! How topics and their settings are shown to people.

use p2pd_api::v1::{MessageIdentity, Topic, TopicSettings};

use crate::output::{self, Cell, Column, Tone, count, toned};

pub(super) fn topics(topics: &[Topic]) -> String {
    let heads = ["TOPIC", "PEERS", "MESH", "READERS", "LOG", "VALIDATED"].map(Column::whole);
    let row = |topic: &Topic| {
        let log = topic.log.as_ref().map_or_else(|| "-".into(), |log| format!("{} kB", log.bytes.div_ceil(1000)));
        let validated = if topic.validated { toned(Tone::Good, "yes") } else { Cell::from("-") };
        let [peers, mesh, readers] = [topic.peers, topic.mesh_peers, readers(topic)].map(|n| Cell::from(n.to_string()));
        [topic.name.as_str().into(), peers, mesh, readers, log.into(), validated]
    };
    output::rows(&heads, topics.iter().map(row))
}

/// Live readers of this daemon and those of the log.
fn readers(topic: &Topic) -> u32 {
    topic.readers.saturating_add(topic.log.as_ref().map_or(0, |log| log.readers))
}

/// Who follows a topic.
pub(super) fn who(topic: &Topic) -> String {
    format!("{}, {} here", count(topic.peers, "peer"), count(readers(topic), "reader"))
}

pub(super) fn page(topic: &Topic) -> String {
    let log = topic.log.as_ref().map_or_else(
        || "none".into(),
        |log| {
            let (bytes, readers) = (count(log.bytes, "byte"), count(log.readers, "reader"));
            format!("messages {} to {}, {bytes}, {readers}", log.oldest, log.newest)
        },
    );
    let judged = if topic.validated { toned(Tone::Good, "by a program") } else { "by nobody".into() };
    let mut items: Vec<(&str, Cell)> = vec![
        ("topic", topic.name.as_str().into()),
        ("followers", format!("{}, {} in the mesh", who(topic), topic.mesh_peers).into()),
        ("log", log.into()),
        ("judged", judged),
    ];
    items.extend(topic.settings.iter().flat_map(settings_items));
    if topic.too_large > 0 {
        let refused = format!("{} of peers refused", count(topic.too_large, "message"));
        items.push(("too large", toned(Tone::Warning, refused)));
    }
    output::page(items)
}

pub(super) fn settings(settings: &TopicSettings) -> String {
    output::page(settings_items(settings))
}

fn settings_items(s: &TopicSettings) -> [(&'static str, Cell); 4] {
    let identity = match s.identity() {
        MessageIdentity::Content => "content",
        MessageIdentity::Sender => "sender",
        MessageIdentity::Key | MessageIdentity::Unspecified => "key",
    };
    let age = match s.max_age_ms {
        0 => String::new(),
        ms => format!(", at most {ms} ms old"),
    };
    let unsigned = if s.allow_unsigned { ", signed or not" } else { "" };
    let (bytes, unjudged) = (s.max_message_bytes, if s.fail_closed { "refused" } else { "accepted" });
    [
        ("messages", format!("up to {bytes} bytes{age}{unsigned}, told apart by {identity}").into()),
        ("not judged", format!("{unjudged} after {} ms", s.judging_ms).into()),
        ("log keeps", format!("{} s and {} bytes", s.keep_s, s.keep_bytes).into()),
        ("mesh", count(s.mesh, "peer").into()),
    ]
}
