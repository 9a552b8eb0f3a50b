//! What the network tells the daemon.

use std::sync::Arc;

use bytes::Bytes;
use p2pd_core::{
    announce::DirectoryMessage,
    audio_json::AudioMessage,
    group::Group,
    id::{PeerId, StreamId, StreamKey},
    multiaddr::Multiaddr,
    time::UnixMs,
};

use crate::TopicRule;

/// A message that was refused because it is larger than its topic takes.
#[derive(Clone, Debug)]
pub struct TooLarge {
    /// Of which topic.
    pub topic: String,
    /// What that carries.
    pub rule: TopicRule,
    /// Who signed it, if anybody.
    pub sender: Option<PeerId>,
    /// How large it is, in bytes.
    pub bytes: usize,
    /// How large it may be.
    pub most: usize,
}

/// An admitted message.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// Of the stream directory.
    Directory {
        /// The neighbour that brought it.
        via: PeerId,
        /// Who signed it.
        sender: PeerId,
        /// What it says.
        message: DirectoryMessage,
        /// When, by the sender's clock.
        time: UnixMs,
    },
    /// Audio in the native format.
    Group {
        /// Of this stream.
        key: StreamKey,
        /// Its publisher is proven; its own signature not yet, where gossip brought it.
        group: Arc<Group>,
        /// Gossip did not bring it; a peer was asked for it.
        repaired: bool,
    },
    /// Audio in the old format.
    Audio {
        /// Who signed it.
        sender: PeerId,
        /// Of this stream.
        stream: StreamId,
        /// What it says.
        message: AudioMessage,
    },
    /// Of a program's own topic.
    Message {
        /// The topic.
        topic: String,
        /// Who signed it, if anybody.
        sender: Option<PeerId>,
        /// The payload.
        data: Bytes,
        /// What tells it apart from others.
        id: Bytes,
    },
    /// In the place of a message that was not admitted.
    TooLarge(TooLarge),
}

impl Incoming {
    /// Bytes it holds, roughly.
    pub fn weight(&self) -> usize {
        match self {
            Incoming::Directory { .. } => p2pd_core::announce::MAX_MESSAGE,
            Incoming::Group { group, .. } => group.signed.len(),
            Incoming::Audio { message, .. } => message.weight(),
            Incoming::TooLarge(_) => 0,
            Incoming::Message { data, .. } => data.len(),
        }
    }
}

/// A change of the network's state.
#[derive(Clone, Debug)]
pub enum Event {
    /// First connection to a peer.
    Connected(PeerId),
    /// Last connection to a peer closed.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// This daemon has hung up, and does not want the peer back.
        for_good: bool,
    },
    /// Messages of a topic were lost, because the daemon was too slow for them.
    Lost {
        /// Of which.
        topic: String,
        /// How many.
        count: u64,
    },
    /// A peer told who it is.
    Identified(PeerId),
    /// A peer cannot be connected for what it lacks.
    Incompatible {
        /// Its id, or where it is.
        who: String,
        /// What.
        why: String,
    },
    /// Listening on an address.
    Listening(Multiaddr),
    /// Not listening on it any more.
    ListeningNoMore(Multiaddr),
    /// The gossip stream with a peer had ended, so its connections are closed and made anew.
    GossipEnded(PeerId),
    /// A peer follows a topic from now on.
    Joined {
        /// Who.
        peer: PeerId,
        /// What.
        topic: String,
    },
    /// A peer follows a topic no more.
    Left {
        /// Who.
        peer: PeerId,
        /// What.
        topic: String,
    },
}
