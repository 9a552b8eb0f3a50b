//! The signals that stop a daemon, and the one that does not.

use std::{
    fs::{self, File},
    io,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process, from its start on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Nothing where whoever started the process had it ignored, as nohup does.
    hangup: Option<Signal>,
    /// Whether the process began on a terminal.
    terminal: bool,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let hangup = if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
            terminal: has_terminal(),
        })
    }

    /// Waits until the daemon is to stop: SIGTERM, SIGINT, or SIGHUP of a terminal that has closed. Any other SIGHUP asks
    /// for the settings to be read anew, which this daemon cannot do.
    pub(crate) async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                () = hung_up(&mut self.hangup) => {}
            }
            if self.terminal && terminal_closes().await {
                tracing::info!("the terminal has closed");
                return;
            }
            tracing::warn!("SIGHUP changes nothing: settings are read at the start; restart p2pd for new ones");
        }
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the terminal is gone. The kernel signals its end a moment before it takes it away.
async fn terminal_closes() -> bool {
    const MOMENT: Duration = Duration::from_millis(50);
    for _ in 0..20 {
        if !has_terminal() {
            return true;
        }
        tokio::time::sleep(MOMENT).await;
    }
    false
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether SIGHUP, the first bit of the mask, is ignored (proc(5), status).
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
