//! What the handle asks of the swarm task. Every command that has a reply is answered exactly once; a caller who has
//! gone away is normal.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::StreamProtocol;
use p2pd_core::{
    access::Rules, clock::Judgement, contract::TopicSettings, group::Group, id::PeerId, keep::Pins,
    multiaddr::Multiaddr,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    NetError,
    dial::{BootstrapFault, Reply, Ways},
    gossip::TopicRule,
    lookup::Question,
    peers::{Closed, PeerInfo},
    substreams::{Arrived, OpenReply},
    validators::{Ruling, ValidatorEvent},
};

/// Who of those connected follows a topic.
#[derive(Clone, Debug, Default)]
pub struct TopicPeers {
    /// All of them.
    pub followers: Vec<PeerId>,
    /// How many exchange whole messages with this peer; the others hear of them.
    pub mesh: usize,
}

/// A message that went out.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// What tells it apart from others.
    pub id: Bytes,
    /// How many connected peers follow its topic.
    pub followers: usize,
    /// How many of those are so much slower than others that they may miss it.
    pub behind: usize,
}

/// Why this daemon closes the connections to a peer, and whether it wants none for now.
#[derive(Clone, Copy)]
pub(crate) struct HangUp {
    pub(crate) why: &'static str,
    pub(crate) for_good: bool,
}

pub(crate) enum Command {
    Connect { peer: libp2p::PeerId, ways: Ways, reply: Reply<PeerId> },
    Disconnect { peer: libp2p::PeerId, why: HangUp, reply: oneshot::Sender<Result<(), NetError>> },
    Peers { reply: oneshot::Sender<Vec<PeerInfo>> },
    Addresses { reply: oneshot::Sender<Vec<Multiaddr>> },
    Subscribe { topic: String, rule: TopicRule, reply: oneshot::Sender<Result<(), NetError>> },
    Unsubscribe { topic: String },
    Publish { topic: String, data: Bytes, also_to: Vec<PeerId>, reply: oneshot::Sender<Result<Sent, NetError>> },
    PublishAhead { topic: String, data: Bytes, reply: oneshot::Sender<Result<Sent, NetError>> },
    PublishGroup { topic: String, group: Arc<Group>, reply: oneshot::Sender<Result<(), NetError>> },
    Topics { reply: oneshot::Sender<Vec<String>> },
    TopicPeers { topic: String, reply: oneshot::Sender<TopicPeers> },
    SetTopic { topic: String, settings: Option<TopicSettings> },
    Validate { topic: String, reply: oneshot::Sender<Option<mpsc::Receiver<ValidatorEvent>>> },
    Rule { topic: String, number: u64, ruling: Ruling },
    OpenStream { peer: libp2p::PeerId, protocols: Vec<StreamProtocol>, reply: OpenReply },
    AcceptStreams { protocol: StreamProtocol, reply: Reply<mpsc::Receiver<Arrived>> },
    ProtocolsChanged,
    Lookup { question: Question, reply: Reply<()> },
    PutValue { key: Bytes, signed: Bytes, holds: Duration, reply: Reply<()> },
    Provide { key: Vec<u8>, reply: Reply<()> },
    StopProviding { key: Vec<u8> },
    SetRules { rules: Rules },
    SetPins { pins: Pins },
    Clocks { reply: oneshot::Sender<Judgement> },
    Faults { reply: oneshot::Sender<Vec<BootstrapFault>> },
    Closed { reply: oneshot::Sender<Vec<Closed>> },
    Recent { topic: String, ms: u64, reply: oneshot::Sender<Vec<Arc<Group>>> },
}
