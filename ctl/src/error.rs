//! The errors of p2pctl: each has one line of words that says what to do, and an exit code. This file prints nothing and
//! knows no command.

use std::io;

use p2pd_api::{ConnectError, reason_of};
#[cfg(feature = "audio")]
use p2pd_audio::AudioError;
use tonic::{Code, Status};

use crate::api_words::with_commands;

const CLOSED: &str = "the daemon has stopped or closed the connection; see `p2pctl status`";
const UNKNOWN_CALL: &str = "this daemon does not know what was asked; is it older than p2pctl?";

/// How p2pctl ends when it did not do what was asked. `--help` lists the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NoDaemon = 3,
    NoPermission = 4,
    NotFound = 5,
    TimedOut = 6,
    Refused = 7,
    TryLater = 8,
    Interrupted = 130,
}

/// A failure that knows its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Empty where nothing is left to say.
    pub(crate) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with this exit code.
pub(crate) fn fail(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// The error when the daemon ends the connection.
pub(crate) fn closed() -> anyhow::Error {
    fail(Exit::TryLater, CLOSED)
}

/// Whether tonic made this status here because the connection broke; the daemon's own have no source and a message.
pub(crate) fn is_connection_error(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().is_empty()
}

/// An error in words for people, with the daemon's reason for programs.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let Some(status) = error.downcast_ref::<Status>() else { return format!("{error:#}") };
    if status.code() == Code::Unimplemented {
        return UNKNOWN_CALL.into();
    }
    if is_connection_error(status) {
        return CLOSED.into();
    }
    let reason = reason_of(status).map(|reason| format!(" [{}]", reason.as_str())).unwrap_or_default();
    format!("{}{reason}", with_commands(status.message()))
}

/// The exit code of an error.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    if let Some(status) = error.downcast_ref::<Status>() {
        return of_status(status);
    }
    match error.downcast_ref::<ConnectError>() {
        Some(ConnectError::Denied(..) | ConnectError::Refused(_)) => Exit::NoPermission,
        Some(ConnectError::Full(..)) => Exit::TryLater,
        Some(_) => Exit::NoDaemon,
        #[cfg(feature = "audio")]
        None if matches!(error.downcast_ref(), Some(AudioError::Value(_))) => Exit::Usage,
        None => Exit::Failed,
    }
}

fn of_status(status: &Status) -> Exit {
    match status.code() {
        Code::Unimplemented => Exit::Failed,
        _ if is_connection_error(status) => Exit::TryLater,
        Code::PermissionDenied | Code::Unauthenticated => Exit::NoPermission,
        Code::NotFound => Exit::NotFound,
        Code::DeadlineExceeded => Exit::TimedOut,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => Exit::Refused,
        Code::Unavailable | Code::ResourceExhausted => Exit::TryLater,
        Code::InvalidArgument => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// Whether the reader of our output has closed its pipe. The daemon's socket breaks with the same error, which is a failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_socket = error.is::<Status>() || error.is::<ConnectError>();
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    !of_socket && error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
