//! Logs go to standard error, where journald or the terminal takes them. A reader that is slow, or gone, costs log lines
//! and nothing else.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// A part of a library that is heard only when the filter names it.
const QUIET: &str = "libp2p_gossipsub";
/// Lines that wait for standard error; what comes then is lost.
const LINES: usize = 4096;

/// Starts logging; what waits is written when the guard is dropped. A second start in one process (as in tests) changes
/// nothing.
pub(crate) fn start(log: &Log) -> anyhow::Result<WorkerGuard> {
    let mut filter = EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter `{}`", log.filter))?;
    if !log.filter.contains(QUIET) {
        // It tells the whole message each time a connection is full, which it is for a moment whenever a program is fast.
        filter = filter.add_directive(format!("{QUIET}=error").parse()?);
    }
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        // It would report a line that cannot be written by another one, and panic.
        .log_internal_errors(false);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(guard)
}

/// A last word to standard error. That nobody takes it is no fault.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}
