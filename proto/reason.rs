//! Machine-readable reasons of errors, as `google.rpc.ErrorInfo` with domain `p2pd`. Texts may change, these do not.

use tonic::Status;
use tonic_types::StatusExt;

/// Domain of every reason.
pub const DOMAIN: &str = "p2pd";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a call failed, beyond its gRPC code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// As it stands in `ErrorInfo`.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// A field of the request is out of its range; `BadRequest` names it.
    FieldInvalid = "FIELD_INVALID",
    /// No peer could be reached there.
    PeerUnreachable = "PEER_UNREACHABLE",
    /// The peer is not connected.
    PeerNotConnected = "PEER_NOT_CONNECTED",
    /// Nobody who was asked knows the peer, or it is not pinned.
    PeerNotFound = "PEER_NOT_FOUND",
    /// Nobody who was asked has such a value.
    ValueNotFound = "VALUE_NOT_FOUND",
    /// No such stream in the directory.
    StreamNotFound = "STREAM_NOT_FOUND",
    /// Several publishers use the id; name one.
    StreamAmbiguous = "STREAM_AMBIGUOUS",
    /// This daemon publishes the id already.
    StreamExists = "STREAM_EXISTS",
    /// The peer speaks none of the protocols.
    ProtocolUnsupported = "PROTOCOL_UNSUPPORTED",
    /// Another program handles the protocol.
    ProtocolTaken = "PROTOCOL_TAKEN",
    /// The peer or the network reset the stream.
    StreamReset = "STREAM_RESET",
    /// Nobody connected follows the topic.
    NoListeners = "NO_LISTENERS",
    /// The reader fell behind; watch again.
    WatchLagged = "WATCH_LAGGED",
    /// Another program judges the topic's messages.
    TopicTaken = "TOPIC_TAKEN",
    /// The topic has neither settings nor a log.
    TopicNotFound = "TOPIC_NOT_FOUND",
    /// Nothing is ruled of the peer or the addresses.
    RuleNotFound = "RULE_NOT_FOUND",
    /// A message with this content was there within the last minute.
    DuplicateMessage = "DUPLICATE_MESSAGE",
    /// The cursor is older than what is kept, or newer than what is there.
    CursorExpired = "CURSOR_EXPIRED",
    /// A bound of this daemon is reached.
    LimitReached = "LIMIT_REACHED",
    /// The network's queues are full; try again.
    NetworkBusy = "NETWORK_BUSY",
    /// The disk of the daemon takes nothing, or what is on it cannot be read.
    StorageFailed = "STORAGE_FAILED",
    /// The daemon is stopping.
    Stopping = "STOPPING",
    /// The caller's user does not have the role of the method.
    CallerDenied = "CALLER_DENIED",
    /// A fault of the daemon; its log says more.
    Internal = "INTERNAL",
}

/// The reason that an error carries, if p2pd gave it one.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let details = status.get_error_details();
    let info = details.error_info()?;
    Reason::ALL.iter().copied().find(|reason| info.domain == DOMAIN && info.reason == reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained() {
        let page = include_str!("../docs/services.md");
        for reason in Reason::ALL {
            assert!(page.contains(&format!("| {} |", reason.as_str())), "docs/services.md: {}", reason.as_str());
        }
    }
}
