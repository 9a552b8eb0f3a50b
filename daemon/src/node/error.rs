//! The one error of this floor.

use p2pd_core::id::{IdError, StreamKey};
use p2pd_live::LiveError;
use p2pd_net::NetError;
use p2pd_node::{
    dht::DhtError, disk::DiskError, events::EventsError, peers::PeersError, pubsub::PubSubError, streams::StreamsError,
    tasks::Ended,
};
use p2pd_store::StoreError;

/// Why the daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The network's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// Not in the directory.
    #[error("no stream `{0}` in the directory; StreamService.ListStreams lists what is there")]
    StreamNotFound(String),
    /// In the directory more than once.
    #[error("several publishers use `{}`; name one: {}", .0.first().map_or("?", |k| k.stream.as_str()), names(.0))]
    StreamAmbiguous(Vec<StreamKey>),
    /// Nobody knows where it is.
    #[error(
        "no peer that was asked knows {0}; one that nobody has dialled yet is in no table, and reached by its address alone"
    )]
    PeerNotFound(String),
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
    /// Judged by another program.
    #[error("another program of this machine judges the messages of `{0}`")]
    TopicTaken(String),
    /// Nothing is kept of it.
    #[error("`{0}` has neither settings nor a log; PubSubService.ListTopics lists what there is")]
    TopicNotFound(String),
    /// Not pinned.
    #[error("{0} is not pinned; PeerService.ListPins lists those that are")]
    PeerNotPinned(String),
    /// Nothing is ruled of it.
    #[error("there is no rule for {0}; PeerService.ListRules lists them")]
    RuleNotFound(String),
    /// Nobody gets it.
    #[error("nobody follows `{0}` yet; PublishRequest.wait_ms waits for somebody")]
    NoListeners(String),
    /// Published by this daemon already.
    #[error("this daemon publishes `{0}` already; end that first or choose another id")]
    StreamExists(String),
    /// Not accepted in time, or never there.
    #[error("no inbound stream {0} waits; one is reset when it is not accepted within 10 s")]
    StreamGone(u64),
    /// Its call has ended, or never was.
    #[error("no handler {0}: it ends with its HandleProtocol call")]
    HandlerGone(u64),
    /// By the peer.
    #[error("the stream was reset: {0}")]
    Reset(std::io::Error),
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
    /// A task of ours died.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<DiskError> for NodeError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Store(error) => error.into(),
            DiskError::Ended(why) => NodeError::Internal(why),
        }
    }
}

impl From<Ended> for NodeError {
    fn from(Ended(why): Ended) -> Self {
        NodeError::Internal(why)
    }
}

impl From<EventsError> for NodeError {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::CursorExpired { asked, oldest } => NodeError::CursorExpired { asked, oldest },
            EventsError::Disk(error) => error.into(),
        }
    }
}

impl From<PeersError> for NodeError {
    fn from(error: PeersError) -> Self {
        match error {
            PeersError::Net(error) => error.into(),
            PeersError::Disk(error) => error.into(),
            PeersError::Field { field, fault } => NodeError::Field { field, fault },
            PeersError::NotPinned(peer) => NodeError::PeerNotPinned(peer),
            PeersError::RuleNotFound(subject) => NodeError::RuleNotFound(subject),
            PeersError::Reset(error) => NodeError::Reset(error),
            PeersError::Limit(fault) => NodeError::Limit(fault),
        }
    }
}

impl From<LiveError> for NodeError {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::Net(error) => error.into(),
            LiveError::Disk(error) => error.into(),
            LiveError::Peers(error) => error.into(),
            LiveError::Field { field, fault } => NodeError::Field { field, fault },
            LiveError::StreamNotFound(stream) => NodeError::StreamNotFound(stream),
            LiveError::StreamAmbiguous(keys) => NodeError::StreamAmbiguous(keys),
            LiveError::StreamExists(stream) => NodeError::StreamExists(stream),
            LiveError::Limit(fault) => NodeError::Limit(fault),
            LiveError::Internal(fault) => NodeError::Internal(fault),
        }
    }
}

impl From<StreamsError> for NodeError {
    fn from(error: StreamsError) -> Self {
        match error {
            StreamsError::Net(error) => error.into(),
            StreamsError::Peers(error) => error.into(),
            StreamsError::Id(error) => error.into(),
            StreamsError::Field { field, fault } => NodeError::Field { field, fault },
            StreamsError::Leased { protocol, seconds } => NodeError::Leased { protocol, seconds },
            StreamsError::StreamGone(number) => NodeError::StreamGone(number),
            StreamsError::HandlerGone(number) => NodeError::HandlerGone(number),
            StreamsError::Reset(error) => NodeError::Reset(error),
            StreamsError::Limit(fault) => NodeError::Limit(fault),
        }
    }
}

impl From<DhtError> for NodeError {
    fn from(error: DhtError) -> Self {
        match error {
            DhtError::Net(error) => error.into(),
            DhtError::Peers(error) => error.into(),
            DhtError::Field { field, fault } => NodeError::Field { field, fault },
            DhtError::PeerNotFound(peer) => NodeError::PeerNotFound(peer),
        }
    }
}

impl From<PubSubError> for NodeError {
    fn from(error: PubSubError) -> Self {
        match error {
            PubSubError::Net(error) => error.into(),
            PubSubError::Disk(error) => error.into(),
            PubSubError::Field { field, fault } => NodeError::Field { field, fault },
            PubSubError::Judged(topic) => NodeError::TopicTaken(topic),
            PubSubError::NotFound(topic) => NodeError::TopicNotFound(topic),
            PubSubError::NoListeners(topic) => NodeError::NoListeners(topic),
            PubSubError::CursorExpired { asked, oldest } => NodeError::CursorExpired { asked, oldest },
            PubSubError::NoLog { topic, asked } => NodeError::NoLog { topic, asked },
            PubSubError::Limit(fault) => NodeError::Limit(fault),
            PubSubError::Internal(fault) => NodeError::Internal(fault),
        }
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
        let told = |count: u16| NodeError::StreamAmbiguous((0..count).map(key).collect()).to_string();
        assert!(
            told(549).len() < 2_000 && told(549).ends_with("and 541 more; StreamService.ListStreams lists them"),
            "{}",
            told(549)
        );
        assert!(told(2).ends_with(&key(1).to_string()));
    }
}
