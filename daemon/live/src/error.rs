//! What can go wrong with streams.

use p2pd_core::id::StreamKey;
use p2pd_net::NetError;
use p2pd_node::{disk::DiskError, peers::PeersError};
use p2pd_store::StoreError;

/// Why something was not done with a stream.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The network's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The disk's.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The owner of peers has not told.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// A value is out of its range.
    #[error("{field}: {fault}")]
    Field {
        /// As the API names it.
        field: &'static str,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// Not in the directory.
    #[error("no stream `{0}` in the directory")]
    StreamNotFound(String),
    /// In the directory more than once.
    #[error("several publishers use one id")]
    StreamAmbiguous(Vec<StreamKey>),
    /// Published by this daemon already.
    #[error("this daemon publishes `{0}` already")]
    StreamExists(String),
    /// A bound of this daemon.
    #[error("{0}")]
    Limit(String),
    /// What cannot be.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<StoreError> for LiveError {
    fn from(error: StoreError) -> Self {
        LiveError::Disk(error.into())
    }
}
