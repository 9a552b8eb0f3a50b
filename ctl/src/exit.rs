//! How p2pctl ends: exit codes, and one line on standard error that says what to do.

use std::{io, process::ExitCode, sync::OnceLock, time::Duration};

use p2pd_api::{ConnectError, reason_of};
#[cfg(feature = "audio")]
use p2pd_audio::AudioError;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{cli::Cli, client, cmd, output};

/// For `--help`.
pub(crate) const CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon reachable, 4 no permission, \
5 not found, 6 timed out, 7 refused as things stand, 8 try again later, 130 interrupted. SIGINT kills commands that run \
until stopped; serve, listen and publish-stream shut down cleanly.";

/// How long a clean shutdown may take. Telling listeners the end of a stream takes two seconds at most.
const ORDERLY: Duration = Duration::from_secs(4);

/// A failure that knows its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with this exit code.
pub(crate) fn fail(code: u8, message: impl Into<String>) -> anyhow::Error {
    Failure { code, message: message.into() }.into()
}

/// Waits for the user to end the command: Ctrl-C, SIGTERM as `timeout` sends it, or SIGHUP of a terminal that closes. May
/// be called several times; a signal that came between two calls counts.
pub(crate) async fn asked_to_stop() {
    static ASKED: OnceLock<CancellationToken> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let asked = CancellationToken::new();
        tokio::spawn(watch_signals(asked.clone()));
        asked
    });
    asked.cancelled().await;
}

async fn watch_signals(asked: CancellationToken) {
    let comes = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    // Read before our own handler replaces it.
    let hangup_ignored = is_hangup_ignored();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = comes(SignalKind::terminate()) => {}
        () = comes(SignalKind::hangup()), if !hangup_ignored => {}
    }
    asked.cancel();
    // A write to a pipe that nobody reads would wait for ever.
    tokio::time::sleep(ORDERLY).await;
    std::process::exit(130);
}

/// Whether SIGHUP, the first bit of the mask, is ignored, as nohup has it (proc(5), status).
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Runs the command and turns its end into an exit code.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(format_args!("p2pctl: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(cmd::run(cli));
    // A thread that waits for standard input must not hold up the end.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Whether a status was not sent by the daemon, but made here of a connection that broke.
pub(crate) fn is_connection_error(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().is_empty()
}

/// An error in words for people, with the daemon's reason for programs.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let Some(status) = error.downcast_ref::<Status>() else { return format!("{error:#}") };
    if is_connection_error(status) {
        return client::closed().to_string();
    }
    let reason = reason_of(status).map(|reason| format!(" [{}]", reason.as_str())).unwrap_or_default();
    format!("{}{reason}", status.message())
}

fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        if !failure.message.is_empty() {
            output::say(format_args!("p2pctl: {}", failure.message));
        }
        return ExitCode::from(failure.code);
    }
    if let Some(status) = error.downcast_ref::<Status>() {
        if status.code() == Code::Unimplemented {
            output::say("p2pctl: this daemon does not know what was asked; is it older than p2pctl?");
            return ExitCode::FAILURE;
        }
        if is_connection_error(status) {
            return report(&client::closed());
        }
        output::say(format_args!("p2pctl: {}", words(error)));
        return ExitCode::from(of_code(status.code()));
    }
    output::say(format_args!("p2pctl: {}", words(error)));
    ExitCode::from(match error.downcast_ref::<ConnectError>() {
        Some(ConnectError::Denied(..) | ConnectError::Refused(_)) => 4,
        Some(ConnectError::Full(..)) => 8,
        Some(_) => 3,
        #[cfg(feature = "audio")]
        None if matches!(error.downcast_ref(), Some(AudioError::Value(_))) => 2,
        None => 1,
    })
}

fn of_code(code: Code) -> u8 {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => 4,
        Code::NotFound => 5,
        Code::DeadlineExceeded => 6,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => 7,
        Code::Unavailable | Code::ResourceExhausted => 8,
        Code::InvalidArgument => 2,
        _ => 1,
    }
}

/// Whether the reader of our output has closed its pipe. The daemon's socket breaks with the same error, which is a failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_socket = error.is::<Status>() || error.is::<ConnectError>();
    let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    !of_socket && error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
