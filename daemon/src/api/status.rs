//! What the owners could not do, as gRPC statuses: one map, without a catch-all arm.

use p2pd_api::{DOMAIN, Reason};
use p2pd_core::id::{IdError, PeerId};
use p2pd_live::LiveError;
use p2pd_net::NetError;
use p2pd_node::{
    dht::DhtError, disk::DiskError, events::EventsError, peers::PeersError, pubsub::PubSubError, streams::StreamsError,
    tasks::Ended,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A status with a reason.
pub(super) fn status(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    status_with(code, reason, message, &[])
}

/// The same with metadata, names and values.
fn status_with(code: Code, reason: Reason, message: impl Into<String>, metadata: &[(&str, String)]) -> Status {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.as_str(), DOMAIN, metadata.collect::<std::collections::HashMap<_, _>>());
    Status::with_error_details(code, message, details)
}

/// For a message of a call's stream that could not be read: mostly one that is too large, with the library's words for it. An error of
/// ours says itself why.
pub(super) fn unreadable(error: &Status) -> Status {
    if p2pd_api::reason_of(error).is_some() {
        return error.clone();
    }
    field("request", &format!("could not be read, and the call ends: {}", error.message()))
}

/// A status that names a field.
pub(super) fn field(field: &str, fault: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(Reason::FieldInvalid.as_str(), DOMAIN, std::collections::HashMap::new());
    details.add_bad_request_violation(field, fault);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {fault}"), details)
}

pub(super) fn stopping() -> Status {
    status(Code::Unavailable, Reason::Stopping, "the daemon is stopping; grpc.health.v1.Health tells when it is back")
}

pub(super) fn reset(error: &std::io::Error) -> Status {
    if p2pd_net::refused(error) {
        let message = "the peer has said that it speaks this protocol, and does not any more; try again in a minute";
        return status(Code::FailedPrecondition, Reason::ProtocolUnsupported, message);
    }
    let message = format!(
        "the stream was reset: {error}; the connection to the peer was lost, or its program has failed or refused, as its own output tells"
    );
    status(Code::Aborted, Reason::StreamReset, message)
}

pub(super) fn no_value(name: &str, peer: &PeerId) -> Status {
    let name = p2pd_core::text::clean(name, 64);
    status(Code::NotFound, Reason::ValueNotFound, format!("no peer that was asked has a value `{name}` of {peer}"))
}

pub(super) fn lagged() -> Status {
    status(Code::ResourceExhausted, Reason::WatchLagged, "this reader fell behind; watch again for a fresh snapshot")
}

/// An error of an owner, of the disk or of the network.
pub(super) trait Refusal {
    /// What its caller is told.
    fn status(self) -> Status;
}

pub(super) fn of(error: impl Refusal) -> Status {
    error.status()
}

/// For a change that is made whole, whoever goes away.
pub(super) fn whole<T>(made: Result<Result<T, impl Refusal>, Ended>) -> Result<T, Status> {
    made.map_err(of)?.map_err(of)
}

pub(super) fn internal(fault: &str) -> Status {
    tracing::error!(error = fault, "a call failed");
    status(Code::Internal, Reason::Internal, "internal error; the daemon's log says more")
}

pub(super) fn limit(fault: String) -> Status {
    status(Code::ResourceExhausted, Reason::LimitReached, fault)
}

pub(super) fn cursor_expired(message: String, oldest: u64) -> Status {
    status_with(Code::OutOfRange, Reason::CursorExpired, message, &[("oldest", oldest.to_string())])
}

impl Refusal for DiskError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            DiskError::Store(_) => {
                tracing::error!(error = message, "a call failed for the disk");
                let what = format!("{message}; NodeService.GetState tells what to do, and when it is over");
                status(Code::Unavailable, Reason::StorageFailed, what)
            }
            DiskError::Ended(_) => internal(&message),
        }
    }
}

impl Refusal for Ended {
    fn status(self) -> Status {
        internal(&self.to_string())
    }
}

impl Refusal for IdError {
    fn status(self) -> Status {
        let name = match self {
            IdError::Peer(_) => "peer_id",
            IdError::Stream(_) => "stream",
        };
        field(name, &self.to_string())
    }
}

impl Refusal for EventsError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            EventsError::CursorExpired { oldest, .. } => cursor_expired(message, oldest),
            EventsError::Disk(error) => error.status(),
        }
    }
}

impl Refusal for PeersError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            PeersError::Net(error) => error.status(),
            PeersError::Disk(error) => error.status(),
            PeersError::Field { field: name, fault } => field(name, &fault),
            PeersError::NotPinned(_) => status(Code::NotFound, Reason::PeerNotFound, message),
            PeersError::RuleNotFound(_) => status(Code::NotFound, Reason::RuleNotFound, message),
            PeersError::Reset(error) => reset(&error),
            PeersError::Limit(fault) => limit(fault),
        }
    }
}

impl Refusal for DhtError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            DhtError::Net(error) => error.status(),
            DhtError::Peers(error) => error.status(),
            DhtError::Field { field: name, fault } => field(name, &fault),
            DhtError::PeerNotFound(_) => status(Code::NotFound, Reason::PeerNotFound, message),
        }
    }
}

impl Refusal for PubSubError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            PubSubError::Net(error) => error.status(),
            PubSubError::Disk(error) => error.status(),
            PubSubError::Field { field: name, fault } => field(name, &fault),
            PubSubError::Judged(_) => status(Code::AlreadyExists, Reason::TopicTaken, message),
            PubSubError::NotFound(_) => status(Code::NotFound, Reason::TopicNotFound, message),
            PubSubError::NoListeners(_) => status(Code::FailedPrecondition, Reason::NoListeners, message),
            PubSubError::CursorExpired { oldest, .. } => cursor_expired(message, oldest),
            PubSubError::NoLog { .. } => status(Code::OutOfRange, Reason::CursorExpired, message),
            PubSubError::Limit(fault) => limit(fault),
            PubSubError::Internal(_) => internal(&message),
        }
    }
}

impl Refusal for StreamsError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            StreamsError::Net(error) => error.status(),
            StreamsError::Peers(error) => error.status(),
            StreamsError::Id(error) => error.status(),
            StreamsError::Field { field: name, fault } => field(name, &fault),
            StreamsError::Leased { .. } => status(Code::AlreadyExists, Reason::ProtocolTaken, message),
            StreamsError::StreamGone(_) | StreamsError::HandlerGone(_) => {
                status(Code::NotFound, Reason::StreamReset, message)
            }
            StreamsError::Reset(error) => reset(&error),
            StreamsError::Limit(fault) => limit(fault),
        }
    }
}

impl Refusal for LiveError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            LiveError::Net(error) => error.status(),
            LiveError::Disk(error) => error.status(),
            LiveError::Peers(error) => error.status(),
            LiveError::Field { field: name, fault } => field(name, &fault),
            LiveError::StreamNotFound(_) => status(Code::NotFound, Reason::StreamNotFound, message),
            LiveError::StreamAmbiguous(_) => status(Code::FailedPrecondition, Reason::StreamAmbiguous, message),
            LiveError::StreamExists(_) => status(Code::AlreadyExists, Reason::StreamExists, message),
            LiveError::Limit(fault) => limit(fault),
            LiveError::Internal(_) => internal(&message),
        }
    }
}

impl Refusal for NetError {
    fn status(self) -> Status {
        let message = self.to_string();
        match self {
            NetError::Address { .. } => field("address", &message),
            NetError::Unreachable { .. } => status(Code::Unavailable, Reason::PeerUnreachable, message),
            NetError::NotConnected(_) => status(Code::NotFound, Reason::PeerNotConnected, message),
            NetError::Protocol(_) => field("protocol", &message),
            NetError::Unsupported { .. } => status(Code::FailedPrecondition, Reason::ProtocolUnsupported, message),
            NetError::Taken(_) => status(Code::AlreadyExists, Reason::ProtocolTaken, message),
            NetError::NoListeners => status(Code::FailedPrecondition, Reason::NoListeners, message),
            NetError::Duplicate => status(Code::AlreadyExists, Reason::DuplicateMessage, message),
            NetError::Busy | NetError::Bandwidth => status(Code::Unavailable, Reason::NetworkBusy, message),
            NetError::TooLarge => field("data", &message),
            NetError::Limit(_) => status(Code::ResourceExhausted, Reason::LimitReached, message),
            NetError::Stopped => stopping(),
            NetError::Identity(_) | NetError::InUse(_) | NetError::Setup(_) => internal(&message),
        }
    }
}
