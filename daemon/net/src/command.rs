//! What the handle asks of the swarm task. Every command that has a reply is answered exactly once; a caller who has
//! gone away is normal.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::Multiaddr;
use p2pd_core::{group::Group, id::PeerId};
use tokio::sync::oneshot;

use crate::{NetError, dial::Reply, gossip::TopicRule, peers::PeerInfo};

pub(crate) enum Command {
    Connect { peer: libp2p::PeerId, addresses: Vec<Multiaddr>, reply: Reply<PeerId> },
    Disconnect { peer: libp2p::PeerId, reply: oneshot::Sender<Result<(), NetError>> },
    Peers { reply: oneshot::Sender<Vec<PeerInfo>> },
    Addresses { reply: oneshot::Sender<Vec<String>> },
    Subscribe { topic: String, rule: TopicRule, reply: oneshot::Sender<Result<(), NetError>> },
    Unsubscribe { topic: String },
    Publish { topic: String, data: Bytes, keep: Option<Arc<Group>>, reply: oneshot::Sender<Result<(), NetError>> },
    Topics { reply: oneshot::Sender<Vec<String>> },
    TopicPeers { topic: String, reply: oneshot::Sender<Vec<PeerId>> },
    Recent { topic: String, ms: u64, reply: oneshot::Sender<Vec<Arc<Group>>> },
}
