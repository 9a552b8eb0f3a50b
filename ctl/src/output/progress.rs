//! The progress line: on standard error, if that is a terminal that can erase a line.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use terminal_size::terminal_size_of;

use super::{
    style::{Tone, columns, cut, paint},
    table::{Cell, toned},
};

/// Erases from the cursor to the end of the line.
const ERASE: &str = "\x1b[K";

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether progress can be shown.
pub(crate) fn shows_progress() -> bool {
    static SHOWS: LazyLock<bool> =
        LazyLock::new(|| io::stderr().is_terminal() && env::var("TERM").is_ok_and(|term| term != "dumb"));
    *SHOWS
}

/// Replaces the progress line by these texts, cut to the width.
pub(crate) fn progress(texts: &[Cell]) {
    if !shows_progress() {
        return;
    }
    let mut room = terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0)).saturating_sub(1);
    let mut line = String::new();
    for Cell { text, tone } in texts {
        let text = cut(text, room);
        room = room.saturating_sub(columns(&text));
        line.push_str(&paint(*tone, text));
    }
    SHOWN.store(true, Ordering::Relaxed);
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let line = if colours { line } else { anstream::adapter::strip_str(&line).to_string() };
    let _ = write!(io::stderr(), "\r{line}{ERASE}");
}

/// Erases the progress line before other output.
pub(super) fn end_progress() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r{ERASE}");
    }
}

/// Columns of a level, from -48 dB to 0 dB.
const LEVEL: usize = 16;

/// The peak of sound, 1.0 at most, as a bar and a number.
pub(crate) fn level(peak: f32) -> [Cell; 2] {
    let decibels = 20.0 * peak.max(1e-6).log10();
    let filled = ((decibels / 48.0 + 1.0).clamp(0.0, 1.0) * LEVEL as f32).round() as usize;
    let tone = match decibels {
        -1.0.. => Tone::Bad,
        -3.0.. => Tone::Warning,
        _ => Tone::Good,
    };
    let number = if decibels < -99.0 { "silent".into() } else { format!("{decibels:.0} dB") };
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(LEVEL.saturating_sub(filled)));
    [toned(tone, bar), toned(Tone::Plain, format!(" {number:>6}"))]
}

/// Minutes and seconds, as players show them.
pub(crate) fn minutes(seconds: f64) -> String {
    let whole = seconds as u64;
    format!("{}:{:02}", whole / 60, whole % 60)
}
