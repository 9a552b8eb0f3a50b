//! What a stranger says whose words are all in form: in the name of publishers that it invents, of streams that nobody has, and as
//! control messages of gossipsub.

use std::time::{SystemTime, UNIX_EPOCH};

use p2pd_core::{id::PeerId, time::UnixMs};
use p2pd_live::{
    directory::message::{self, DirectoryMessage, Filter, Metadata},
    topic,
};

use crate::raw_peer::{Control, Have, Published, Rpc, Signer, Want};

/// As many words of one signer as are taken at once.
pub const AT_ONCE: usize = 40;

pub fn directory() -> String {
    topic::directory(topic::DEFAULT_NETWORK)
}

/// A word of the directory, whoever signs it.
fn word(signer: &Signer, number: u64, message: &DirectoryMessage) -> Published {
    let me = PeerId::from_bytes(&signer.id().to_bytes()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    signer.sign(&directory(), number, message::encode(message, &me, UnixMs(now)).unwrap())
}

/// So many streams of a publisher that exists for nothing else.
pub fn invented_streams(count: usize) -> Vec<Rpc> {
    let signer = Signer::invent();
    let announcement = |n: usize| DirectoryMessage::Announce {
        stream: format!("flood-{n}").parse().unwrap(),
        metadata: Metadata::default(),
    };
    let words: Vec<_> = (0..count).map(|n| word(&signer, n as u64, &announcement(n))).collect();
    words.chunks(8).map(|words| Rpc::publish(words.to_vec())).collect()
}

/// Questions of somebody invented, who asks them all at once.
pub fn questions() -> Rpc {
    let asking = Signer::invent();
    let query = DirectoryMessage::Query { filter: Filter::default(), request: "again".into() };
    Rpc::publish((0..30).map(|number| word(&asking, number, &query)).collect())
}

/// Heartbeats of streams that nobody has.
pub fn heartbeats() -> Rpc {
    let beat = DirectoryMessage::Heartbeat { stream: "nobody-s".parse().unwrap(), listeners: None };
    Rpc::publish((0..10).map(|number| word(&Signer::invent(), number, &beat)).collect())
}

/// Offers, requests, grafts and subscriptions, in round `n` others than before.
pub fn control(n: u64) -> Vec<Rpc> {
    let ids = || (0..5_000_u64).map(|id| [n, id].map(u64::to_be_bytes).concat()).collect::<Vec<_>>();
    let control = |control| Rpc { control: Some(control), ..Rpc::default() };
    let topics: Vec<String> = (0..40).map(|topic| format!("{n} {topic}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    vec![
        control(Control { have: vec![Have { topic: directory(), ids: ids() }], ..Control::default() }),
        control(Control { want: vec![Want { ids: ids() }], ..Control::default() }),
        Rpc::graft(&topics),
        Rpc::follow(&topics),
    ]
}
