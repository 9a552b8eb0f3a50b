//! What goes to standard output: tables for people, the API's own JSON for programs. Everything else goes to standard error.

mod json;
mod table;

use std::{
    fmt::Display,
    io::{self, Write},
};

use p2pd_api::v1 as pb;
use prost::Message;
use tonic::Streaming;

use crate::cli::Format;

pub(crate) use json::{call_method, to_json};
pub(crate) use table::{age, rows, short, time};

/// Tells the user something beside the results. Whoever reads it may have gone, which is no reason to stop.
pub(crate) fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether a character can be shown without controlling the terminal or turning the text around.
pub(crate) fn is_harmless(c: char) -> bool {
    let hidden = matches!(c,
        '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}');
    c == '\t' || c == '\n' || !(c.is_control() || hidden)
}

/// Writes one line.
pub(crate) fn line(text: &str) -> io::Result<()> {
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
        Format::Table => line(table(message).trim_end())?,
        Format::Json => line(&to_json(name, message, true)?)?,
        Format::Jsonl => line(&to_json(name, message, false)?)?,
    }
    Ok(())
}

/// Writes a list in the user's format: as JSON lines, an item a line.
pub(crate) fn list<M: Message, I: Message>(
    format: Format,
    (name, whole): (&str, &M),
    (item_name, items): (&str, &[I]),
    table: impl FnOnce(&[I]) -> String,
) -> anyhow::Result<()> {
    if format != Format::Jsonl {
        return message(format, name, whole, |_| table(items));
    }
    items.iter().try_for_each(|item| Ok(line(&to_json(item_name, item, false)?)?))
}

/// Writes each answer of a call as it comes, a line each.
pub(crate) async fn each<M: Message + Default>(
    format: Format,
    name: &str,
    mut answers: Streaming<M>,
    text: impl Fn(&M) -> String,
) -> anyhow::Result<u64> {
    let mut count = 0;
    while let Some(answer) = answers.message().await? {
        line(&if format == Format::Table { text(&answer) } else { to_json(name, &answer, false)? })?;
        count += 1;
    }
    Ok(count)
}

/// Rows of a table of streams.
pub(crate) fn stream_row(stream: &pb::Stream) -> Vec<String> {
    let codec = match &stream.config {
        Some(config) => {
            let sound = if config.channels == 1 { "mono" } else { "stereo" };
            // Of packets that are passed through as they are, nobody says a rate.
            match config.bitrate / 1000 {
                0 => format!("{} {sound}", config.codec),
                kbits => format!("{} {kbits}k {sound}", config.codec),
            }
        }
        None => "json".into(),
    };
    // It goes to listeners of the old format, too.
    let codec = if stream.old_listeners > 0 { codec + " +json" } else { codec };
    let fresh = if stream.confirmed { age(stream.age_ms) } else { "not heard yet".into() };
    let listeners = stream.listeners.map_or_else(|| "-".into(), |n| n.to_string());
    vec![
        stream.stream_id.clone(),
        short(&stream.publisher),
        stream.name.clone(),
        stream.category.clone(),
        codec,
        listeners,
        fresh,
    ]
}

/// Heads of a table of streams.
pub(crate) const STREAM_HEADS: [&str; 7] = ["STREAM", "PUBLISHER", "NAME", "CATEGORY", "CODEC", "LISTENERS", "HEARD"];
