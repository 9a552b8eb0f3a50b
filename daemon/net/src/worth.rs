//! What speaks for a peer when there are more than wanted.

use std::time::Duration;

use libp2p::gossipsub::TopicHash;
use p2pd_core::keep::{Worth, surplus};

use crate::{WaterMarks, dial::Dial, peers::Peers, settings::Gossipsub};

/// Topics of ours that a peer follows, and those in whose mesh it is.
fn topics(gossipsub: &Gossipsub, peer: &libp2p::PeerId) -> (u32, u32) {
    let ours: Vec<&TopicHash> = gossipsub.topics().collect();
    let followed = gossipsub.all_peers().find(|(id, _)| *id == peer);
    let followed = followed.map_or(0, |(_, topics)| topics.iter().filter(|topic| ours.contains(topic)).count());
    let meshes = ours.iter().filter(|topic| gossipsub.mesh_peers(topic).any(|id| id == peer)).count();
    (u32::try_from(followed).unwrap_or(u32::MAX), u32::try_from(meshes).unwrap_or(u32::MAX))
}

/// What gossip says for a peer.
pub(crate) fn why(gossipsub: &Gossipsub, peer: &libp2p::PeerId) -> Vec<&'static str> {
    match topics(gossipsub, peer) {
        (_, 1..) => vec!["mesh"],
        (1.., 0) => vec!["topic"],
        (0, 0) => Vec::new(),
    }
}

/// Whom to let go of.
pub(crate) fn let_go(peers: &Peers, dial: &Dial, gossipsub: &Gossipsub, marks: &WaterMarks) -> Vec<libp2p::PeerId> {
    let worth = |peer: libp2p::PeerId, age: Duration| {
        let (followed, meshes) = topics(gossipsub, &peer);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let (kept, young) = (!dial.why(&peer).is_empty(), age_ms < marks.grace_ms);
        let score = gossipsub.peer_score(&peer).unwrap_or(0.0);
        (
            peer,
            Worth { kept, young, busy: peers.is_busy(&peer), topics: followed.saturating_add(meshes), score, age_ms },
        )
    };
    if peers.len() <= marks.high {
        return Vec::new();
    }
    let all: Vec<_> = peers.ages().map(|(peer, age)| worth(peer, age)).collect();
    surplus(&all, marks.high, marks.low)
}
