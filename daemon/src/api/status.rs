//! The one map from errors of the node to gRPC statuses, without a catch-all arm.

use p2pd_api::{DOMAIN, Reason};
use p2pd_core::id::{IdError, PeerId};
use p2pd_net::NetError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::node::NodeError;

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
    status(Code::Aborted, Reason::StreamReset, format!("the stream was reset: {error}"))
}

pub(super) fn no_value(name: &str, peer: &PeerId) -> Status {
    let name = p2pd_core::text::clean(name, 64);
    status(Code::NotFound, Reason::ValueNotFound, format!("no peer that was asked has a value `{name}` of {peer}"))
}

pub(super) fn lagged() -> Status {
    status(Code::ResourceExhausted, Reason::WatchLagged, "this reader fell behind; watch again for a fresh snapshot")
}

pub(super) fn of(error: impl Into<NodeError>) -> Status {
    let error = error.into();
    let message = error.to_string();
    match error {
        NodeError::Net(error) => of_net(error, message),
        NodeError::Store(_) => {
            tracing::error!(error = message, "a call failed for the disk");
            let what = format!("{message}; NodeService.GetState tells what to do, and when it is over");
            status(Code::Unavailable, Reason::StorageFailed, what)
        }
        NodeError::Internal(_) => {
            tracing::error!(error = message, "call failed");
            status(Code::Internal, Reason::Internal, "internal error; the daemon's log says more")
        }
        NodeError::Id(IdError::Peer(_)) => field("peer_id", &message),
        NodeError::Id(IdError::Stream(_)) => field("stream", &message),
        NodeError::Field { field: name, fault } => field(name, &fault),
        NodeError::StreamNotFound(_) => status(Code::NotFound, Reason::StreamNotFound, message),
        NodeError::StreamAmbiguous(_) => status(Code::FailedPrecondition, Reason::StreamAmbiguous, message),
        NodeError::PeerNotPinned(_) | NodeError::PeerNotFound(_) => {
            status(Code::NotFound, Reason::PeerNotFound, message)
        }
        NodeError::RuleNotFound(_) => status(Code::NotFound, Reason::RuleNotFound, message),
        NodeError::NoListeners(_) => status(Code::FailedPrecondition, Reason::NoListeners, message),
        NodeError::Leased { .. } => status(Code::AlreadyExists, Reason::ProtocolTaken, message),
        NodeError::TopicTaken(_) => status(Code::AlreadyExists, Reason::TopicTaken, message),
        NodeError::TopicNotFound(_) => status(Code::NotFound, Reason::TopicNotFound, message),
        NodeError::StreamExists(_) => status(Code::AlreadyExists, Reason::StreamExists, message),
        NodeError::StreamGone(_) | NodeError::HandlerGone(_) => status(Code::NotFound, Reason::StreamReset, message),
        NodeError::Reset(error) => reset(&error),
        NodeError::CursorExpired { oldest, .. } => {
            status_with(Code::OutOfRange, Reason::CursorExpired, message, &[("oldest", oldest.to_string())])
        }
        NodeError::NoLog { .. } => status(Code::OutOfRange, Reason::CursorExpired, message),
        NodeError::Limit(_) => status(Code::ResourceExhausted, Reason::LimitReached, message),
    }
}

fn of_net(error: NetError, message: String) -> Status {
    match error {
        NetError::Address { .. } => field("address", &message),
        NetError::Unreachable { .. } => status(Code::Unavailable, Reason::PeerUnreachable, message),
        NetError::NotConnected(_) => status(Code::NotFound, Reason::PeerNotConnected, message),
        NetError::Protocol(_) => field("protocol", &message),
        NetError::Unsupported { .. } => status(Code::FailedPrecondition, Reason::ProtocolUnsupported, message),
        NetError::Taken(_) => status(Code::AlreadyExists, Reason::ProtocolTaken, message),
        NetError::NoListeners => status(Code::FailedPrecondition, Reason::NoListeners, message),
        NetError::Duplicate => status(Code::AlreadyExists, Reason::DuplicateMessage, message),
        NetError::Busy => status(Code::Unavailable, Reason::NetworkBusy, message),
        NetError::TooLarge => field("data", &message),
        NetError::Limit(_) => status(Code::ResourceExhausted, Reason::LimitReached, message),
        NetError::Stopped => stopping(),
        NetError::Identity(_) | NetError::InUse(_) | NetError::Setup(_) => {
            tracing::error!(error = message, "call failed");
            status(Code::Internal, Reason::Internal, "internal error; the daemon's log says more")
        }
    }
}
