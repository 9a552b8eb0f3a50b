//! The signals by which a user ends a command: Ctrl-C, SIGTERM as `timeout` sends it, SIGHUP of a terminal that closes.

use std::{sync::OnceLock, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::Exit;

/// How long a clean shutdown may take. Telling listeners the end of a stream takes two seconds at most.
const ORDERLY: Duration = Duration::from_secs(4);

/// Waits for the user to end the command. May be called several times; a signal that came between two calls counts.
pub(crate) async fn asked_to_stop() {
    static ASKED: OnceLock<CancellationToken> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let asked = CancellationToken::new();
        tokio::spawn(watch(asked.clone()));
        asked
    });
    asked.cancelled().await;
}

async fn watch(asked: CancellationToken) {
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
    std::process::exit(Exit::Interrupted as i32);
}

/// Whether SIGHUP, the first bit of the mask, is ignored, as nohup has it (proc(5), status).
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
