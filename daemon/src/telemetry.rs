//! Logs go to standard error, where journald or the terminal takes them. A thread of its own writes them: a reader that is
//! slow, or gone, costs log lines and nothing else.

mod rate;

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use p2pd_core::text;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use self::rate::Rate;
use crate::config::{Log, LogFormat};

/// A part of a library that is heard only when the filter names it.
const QUIET: &str = "libp2p_gossipsub";
/// Lines that wait for standard error; what comes then is lost.
const LINES: usize = 4096;
/// How long an end of the process waits for the last lines to be taken.
const LAST: Duration = Duration::from_secs(1);

static LOG: OnceLock<SyncSender<Entry>> = OnceLock::new();

enum Entry {
    Line(Vec<u8>),
    /// Answered when what came before it is written.
    Flush(SyncSender<()>),
}

/// Starts logging. A second start in one process (as in tests) changes nothing.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter `{}`", log.filter))?;
    if !log.filter.contains(QUIET) {
        // It tells the whole message each time a connection is full, which it is for a moment whenever a program is fast.
        filter = filter.add_directive(format!("{QUIET}=error").parse()?);
    }
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Queue).with_ansi(colours);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let rate = Rate::new(matches!(log.format, LogFormat::Json));
    let _ = tracing_subscriber::registry().with(filter).with(lines.with_filter(rate)).try_init();
    LOG.get_or_init(|| {
        let (log, entries) = mpsc::sync_channel(LINES);
        thread::spawn(move || write(&entries));
        log
    });
    Ok(())
}

fn write(entries: &Receiver<Entry>) {
    for entry in entries {
        // That nobody takes a line is no fault.
        let _ = match entry {
            Entry::Line(line) => io::stderr().write_all(&line).ok(),
            Entry::Flush(done) => done.send(()).ok(),
        };
    }
}

/// The way of a line to the thread that writes.
struct Queue;

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match LOG.get().map(|log| log.try_send(Entry::Line(line.into()))) {
            Some(Ok(()) | Err(TrySendError::Full(_))) => {}
            Some(Err(TrySendError::Disconnected(_))) | None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A last word to standard error, behind the log. It may quote a file that somebody else has written.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let lines: String = words.to_string().lines().map(|line| text::clean(line, usize::MAX) + "\n").collect();
    // In one piece: other threads log meanwhile.
    let _ = Queue.write_all(lines.as_bytes());
    flush();
}

/// Waits until the log is written, a moment at most.
pub(crate) fn flush() {
    let (done, written) = mpsc::sync_channel(1);
    if LOG.get().is_some_and(|log| log.try_send(Entry::Flush(done)).is_ok()) {
        let _ = written.recv_timeout(LAST);
    }
}
