//! What can go wrong with protocol streams.

use p2pd_core::id::IdError;
use p2pd_net::NetError;

use crate::peers::PeersError;

/// Why something was not done with a protocol stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// The network's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The owner of peers has not told.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// A name is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A value is out of its range.
    #[error("{field}: {fault}")]
    Field {
        /// As the API names it.
        field: &'static str,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// Nobody handles it at the moment, and it is kept for whoever did.
    #[error(
        "{protocol} is kept for another {seconds} s under a lease; a program of the same user takes it up by the lease's name \
        (HandleProtocolRequest.lease)"
    )]
    Leased {
        /// Which protocol.
        protocol: String,
        /// Until it is free.
        seconds: u64,
    },
    /// Not accepted in time, or never there.
    #[error("no inbound stream {0} waits; one is reset when it is not accepted within 10 s")]
    StreamGone(u64),
    /// Its call has ended, or never was.
    #[error("no handler {0}: it ends with its HandleProtocol call")]
    HandlerGone(u64),
    /// By the peer.
    #[error("the stream was reset: {0}")]
    Reset(std::io::Error),
    /// A bound of this daemon.
    #[error("{0}")]
    Limit(String),
}
