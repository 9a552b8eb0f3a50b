//! The process: it starts a daemon, tells who started it, and ends as its daemon does.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use sd_notify::NotifyState;

use crate::{
    app::{Daemon, Setup},
    observe,
    signals::Signals,
    systemd, telemetry,
};

/// Exit code when a part of the daemon has died.
const PART_DIED: u8 = 70;

/// Ends the process when any part of it panics: a daemon that has lost a part, or a lock, would only look alive.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let stack = Backtrace::capture();
        match stack.status() {
            BacktraceStatus::Captured => telemetry::say(format_args!("p2pd: {panic}\n{stack}")),
            _ => telemetry::say(format_args!("p2pd: {panic}")),
        }
        std::process::exit(i32::from(PART_DIED));
    }));
}

/// Runs a daemon until it is told to stop, and says how it ended.
pub fn main(setup: Setup) -> ExitCode {
    let fail = |error: anyhow::Error, code: u8| {
        telemetry::say(format_args!("p2pd: {error:#}"));
        ExitCode::from(code)
    };
    if let Err(error) = telemetry::start(&setup.config.log) {
        return fail(error, 78);
    }
    end_on_panic();
    observe::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error.into(), 1),
    };
    let code = runtime.block_on(async {
        // Before all else, so that none ends the process out of order.
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return fail(error.into(), 1),
        };
        let started = tokio::select! {
            started = Daemon::start(setup) => started,
            () = signals.stop() => return ExitCode::SUCCESS,
        };
        match started {
            Ok(daemon) => until_stopped(daemon, signals).await,
            Err(error) => fail(error, 1),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    telemetry::flush();
    code
}

async fn until_stopped(mut daemon: Daemon, mut signals: Signals) -> ExitCode {
    let watchdog = systemd::watchdog(daemon.socket.clone(), daemon.probe.clone(), daemon.stop_api.clone());
    let watchdog = tokio::spawn(watchdog);
    systemd::notify(NotifyState::Ready);
    announce(&daemon);
    let died = tokio::select! {
        () = signals.stop() => None,
        part = daemon.part_ended() => Some(part),
    };
    if let Some(part) = died {
        telemetry::say(format_args!("p2pd: the {part} part has died; the log above says why"));
        return ExitCode::from(PART_DIED);
    }
    systemd::notify(NotifyState::Stopping);
    daemon.stop().await;
    let _ = watchdog.await;
    ExitCode::SUCCESS
}

/// Tells a terminal or a script where we are. Whoever reads it may have gone: that is no reason to stop.
fn announce(daemon: &Daemon) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "ready: socket {}", daemon.socket.display());
    for address in &daemon.addresses {
        let _ = writeln!(out, "address: {address}");
    }
    if daemon.temporary.is_some() {
        let _ = writeln!(out, "for p2pctl in another terminal: export P2PD_SOCKET={}", daemon.socket.display());
    }
    let _ = out.flush();
}
