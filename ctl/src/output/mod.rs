//! What goes to standard output: tables for people, the API's own JSON for programs. Everything else goes to standard error.

mod json;
// Only audio commands show progress.
#[cfg_attr(not(feature = "audio"), allow(dead_code))]
mod progress;
mod style;
mod table;

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    time::Duration,
};

use anstream::AutoStream;
use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;
use tonic::Streaming;

use crate::error::closed;

pub(crate) use json::{dynamic, harmless as harmless_json, pool, to_json};
#[cfg(feature = "audio")]
pub(crate) use progress::{level, minutes, progress, shows_progress};
pub(crate) use style::{Tone, paint, width};
pub(crate) use table::{Cell, Column, age, clock, count, page, rows, short, time, toned};

/// Shape of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The API's message as JSON.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// How often the reader of a pipe is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// A peer id in a line of an endless list: shortened where the width is limited.
pub(crate) fn id(peer: &str) -> String {
    if width().is_some() { short(peer) } else { peer.into() }
}

/// Tells the user something beside the results. Errors are ignored: a closed standard error is no reason to stop.
pub(crate) fn say(text: impl Display) {
    progress::end_progress();
    let text = harmless(&text.to_string());
    let text = match text.strip_prefix("p2pctl: ") {
        Some(fault) => format!("{} {fault}", paint(Tone::Bad, "p2pctl:")),
        None => text,
    };
    let _ = writeln!(AutoStream::auto(io::stderr().lock()), "{text}");
}

/// Whether a character can be shown without controlling the terminal or turning the text around.
pub(crate) fn is_harmless(c: char) -> bool {
    c == '\t' || c == '\n' || !p2pd_api::is_hostile(c)
}

/// Removes the characters that could control the terminal, except our own colours. Much of the text comes from peers.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = style::colour_at(rest).unwrap_or(c.len_utf8());
        let (piece, after) = rest.split_at(taken);
        if taken > c.len_utf8() || is_harmless(c) {
            clean.push_str(piece);
        }
        rest = after;
    }
    clean
}

/// Writes text for people, without its colours where nobody would see them.
pub(crate) fn show(text: &str) -> io::Result<()> {
    progress::end_progress();
    let mut out = AutoStream::auto(io::stdout().lock());
    writeln!(out, "{}", harmless(text))?;
    out.flush()
}

/// Writes one line as it is.
pub(crate) fn line(text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() {
        progress::end_progress();
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a message in the user's format; `table` makes the text for people.
pub(crate) fn message<M: Message>(
    format: Format,
    name: &str,
    message: &M,
    table: impl FnOnce(&M) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Table => show(table(message).trim_end())?,
        Format::Json => line(&to_json(name, message, true)?)?,
        Format::Jsonl => line(&to_json(name, message, false)?)?,
    }
    Ok(())
}

/// A list as the API has it.
pub(crate) struct List<'a, M, I> {
    /// The whole answer, and the name of its message.
    pub(crate) answer: &'a M,
    pub(crate) answer_name: &'a str,
    /// What it lists, and the name of their message.
    pub(crate) items: &'a [I],
    pub(crate) item_name: &'a str,
    /// What people are told if it is empty: how to fill it.
    pub(crate) empty: &'a str,
}

/// Writes a list in the user's format: as JSON lines, an item a line.
pub(crate) fn list<M: Message, I: Message>(
    format: Format,
    list: &List<'_, M, I>,
    table: impl FnOnce(&[I]) -> String,
) -> anyhow::Result<()> {
    if format == Format::Table && list.items.is_empty() {
        say(list.empty);
        return Ok(());
    }
    if format != Format::Jsonl {
        return message(format, list.answer_name, list.answer, |_| table(list.items));
    }
    list.items.iter().try_for_each(|item| Ok(line(&to_json(list.item_name, item, false)?)?))
}

/// The next answer of a call; an error once the reader of standard output has gone.
pub(crate) async fn next<M>(answers: &mut Streaming<M>) -> anyhow::Result<Option<M>> {
    tokio::select! {
        answer = answers.message() => Ok(answer?),
        () = reader_gone() => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
    }
}

/// The same for a call that runs until stopped: its end is an error.
pub(crate) async fn watch<M>(answers: &mut Streaming<M>) -> anyhow::Result<M> {
    next(answers).await?.ok_or_else(closed)
}

/// Waits until the reader of a pipe has gone. A write would notice only at the next output.
async fn reader_gone() {
    loop {
        tokio::time::sleep(LOOK).await;
        if is_unread(&io::stdout()) {
            return;
        }
    }
}

/// Whether the reader of a pipe has gone.
pub(crate) fn is_unread(pipe: &impl AsFd) -> bool {
    let mut pipe = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    let asked = poll(&mut pipe, PollTimeout::ZERO);
    asked.is_ok() && pipe.iter().filter_map(PollFd::revents).any(|found| found.contains(PollFlags::POLLERR))
}

/// Writes each answer of a call as it comes, a line each.
pub(crate) async fn each<M: Message + Default>(
    format: Format,
    name: &str,
    mut answers: Streaming<M>,
    text: impl Fn(&M) -> String,
) -> anyhow::Result<u64> {
    let mut count = 0;
    while let Some(answer) = next(&mut answers).await? {
        one(format, name, &answer, &text)?;
        count += 1;
    }
    Ok(count)
}

/// Writes one of many answers, in one line as JSON.
pub(crate) fn one<M: Message>(
    format: Format,
    name: &str,
    answer: &M,
    text: impl FnOnce(&M) -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Table => show(&text(answer))?,
        Format::Json | Format::Jsonl => line(&to_json(name, answer, false)?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_colours_reach_the_terminal() {
        let name = "a\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}8m\u{202e}b\r";
        let text = format!("{} {name}\n", paint(Tone::Bad, "no"));
        assert_eq!(harmless(&text), format!("{} a[2J]0;x8mb\n", paint(Tone::Bad, "no")));
    }
}
