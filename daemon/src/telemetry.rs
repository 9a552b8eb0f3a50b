//! Logs go to standard error, where journald or the terminal takes them.

use std::{
    env,
    io::{self, IsTerminal},
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// A part of a library that is heard only when the filter names it.
const QUIET: &str = "libp2p_gossipsub";

/// Starts logging. A second start in one process (as in tests) changes nothing.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter `{}`", log.filter))?;
    if !log.filter.contains(QUIET) {
        // It tells the whole message each time a connection is full, which it is for a moment whenever a program is fast.
        filter = filter.add_directive(format!("{QUIET}=error").parse()?);
    }
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
