//! What can go wrong with peers.

use p2pd_net::NetError;
use p2pd_store::StoreError;

use crate::disk::DiskError;

/// Why something was not done with a peer.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The network's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The disk's.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A value is out of its range.
    #[error("{field}: {fault}")]
    Field {
        /// As the API names it.
        field: &'static str,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// Not pinned.
    #[error("{0} is not pinned; PeerService.ListPins lists those that are")]
    NotPinned(String),
    /// Nothing is ruled of it.
    #[error("there is no rule for {0}; PeerService.ListRules lists them")]
    RuleNotFound(String),
    /// By the peer.
    #[error("the stream was reset: {0}")]
    Reset(std::io::Error),
    /// A bound of this daemon.
    #[error("{0}")]
    Limit(String),
}

impl From<StoreError> for PeersError {
    fn from(error: StoreError) -> Self {
        PeersError::Disk(error.into())
    }
}
