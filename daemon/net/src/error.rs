//! The one error of this floor.

/// Why the network could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not a multiaddr, or one without the peer id that is needed.
    #[error("`{address}` is not a usable address: {fault}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it, and what one looks like.
        fault: String,
    },
    /// No way to the peer was found.
    #[error("cannot reach {peer}: {fault}")]
    Unreachable {
        /// The peer or address.
        peer: String,
        /// Why, and what to do about it.
        fault: String,
    },
    /// Not connected to the peer.
    #[error("not connected to {0}")]
    NotConnected(String),
    /// Not a protocol's name.
    #[error("{0}")]
    Protocol(String),
    /// The peer speaks none of the protocols.
    #[error("{peer} does not speak {protocols}; PeerService.ListPeers lists what it does")]
    Unsupported {
        /// The peer.
        peer: String,
        /// As they were asked for.
        protocols: String,
    },
    /// Another program handles the protocol.
    #[error(
        "another program of this machine handles {0}; several may, where each asks to share it (HandleProtocolRequest.share)"
    )]
    Taken(String),
    /// Nobody who is connected follows the topic.
    #[error("no connected peer follows this topic yet")]
    NoListeners,
    /// Every queue toward the topic's peers is full, or more is published here than is kept for others, and was when it was tried again.
    #[error("the connections to all peers of this topic are full, or programs here publish more than 24 MiB a second")]
    Busy,
    /// What messages may have of the line is used up, and was when it was tried again.
    #[error("the bandwidth that messages may have is used up; BandwidthService.GetBandwidth tells the bounds")]
    Bandwidth,
    /// Larger than the network takes.
    #[error("the message is larger than a peer takes")]
    TooLarge,
    /// The topic takes each content once, and this one was there.
    #[error("a message with this content was sent on this topic within the last minute")]
    Duplicate,
    /// A bound of this process.
    #[error("{0}")]
    Limit(&'static str),
    /// The identity file cannot be used.
    #[error("identity: {0}")]
    Identity(String),
    /// Another program has the port.
    #[error(
        "cannot listen on {0}: another program has that port, perhaps another p2pd. Take free ports with \
         `--listen /ip4/0.0.0.0/tcp/0` or `network.listen`, or use the daemon that is there; the machine's answers at \
         /run/p2pd/api.sock"
    )]
    InUse(String),
    /// The swarm could not be built or cannot listen.
    #[error("{0}")]
    Setup(String),
    /// The swarm task has ended.
    #[error("the network task has stopped")]
    Stopped,
}

/// The last cause of an error; the ones above it only say that something below failed.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
