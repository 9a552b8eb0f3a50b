//! What can go wrong with topics.

use p2pd_net::NetError;
use p2pd_store::StoreError;

use crate::disk::DiskError;

/// Why something was not done with a topic.
#[derive(Debug, thiserror::Error)]
pub enum PubSubError {
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
    /// Judged by another program.
    #[error("another program of this machine judges the messages of `{0}`")]
    Judged(String),
    /// Nothing is kept of it.
    #[error("`{0}` has neither settings nor a log; PubSubService.ListTopics lists what there is")]
    NotFound(String),
    /// Nobody gets it.
    #[error("nobody follows `{0}` yet; PublishRequest.wait_ms waits for somebody")]
    NoListeners(String),
    /// A cursor before the oldest that is kept, or after the newest.
    #[error(
        "cursor {asked} is kept no more, or is not there yet: begin anew without one, or with the oldest left, {oldest}, by \
        `from_oldest`"
    )]
    CursorExpired {
        /// As asked.
        asked: u64,
        /// What is left.
        oldest: u64,
    },
    /// A cursor of a topic that has no log.
    #[error("`{topic}` has no log that cursor {asked} could be of: begin without a cursor")]
    NoLog {
        /// The topic.
        topic: String,
        /// As asked.
        asked: u64,
    },
    /// A bound of this daemon.
    #[error("{0}")]
    Limit(String),
    /// What cannot be.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<StoreError> for PubSubError {
    fn from(error: StoreError) -> Self {
        PubSubError::Disk(error.into())
    }
}
