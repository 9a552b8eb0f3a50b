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
    #[error("no stream `{0}` in the directory; StreamService.ListStreams lists what is there")]
    StreamNotFound(String),
    /// In the directory more than once.
    #[error("several publishers use `{}`; name one: {}", .0.first().map_or("?", |k| k.stream.as_str()), names(.0))]
    StreamAmbiguous(Vec<StreamKey>),
    /// Published by this daemon already.
    #[error("this daemon publishes `{0}` already; end that first or choose another id")]
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

fn names(keys: &[StreamKey]) -> String {
    /// An error travels in the head of an answer, which has 16 KiB.
    const NAMED: usize = 8;
    let named = keys.iter().take(NAMED).map(StreamKey::to_string).collect::<Vec<_>>().join(", ");
    let more = keys.len().saturating_sub(NAMED);
    if more == 0 { named } else { format!("{named} and {more} more; StreamService.ListStreams lists them") }
}

#[cfg(test)]
mod tests {
    use p2pd_core::id::PeerId;

    use super::*;

    #[test]
    fn however_many_use_a_name_the_error_fits_the_head_of_an_answer() {
        let key = |n: u16| {
            let mut public = [0; 32];
            public[..2].copy_from_slice(&n.to_be_bytes());
            StreamKey { publisher: PeerId::from_ed25519(&public), stream: "town".parse().unwrap() }
        };
        let told = |count: u16| LiveError::StreamAmbiguous((0..count).map(key).collect()).to_string();
        assert!(
            told(549).len() < 2_000 && told(549).ends_with("and 541 more; StreamService.ListStreams lists them"),
            "{}",
            told(549)
        );
        assert!(told(2).ends_with(&key(1).to_string()));
    }
}
