//! Tables for people.

use comfy_table::{Table, presets};

/// A table without lines, as wide as it needs.
pub(crate) fn rows(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heads);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// How long ago, in the largest unit that fits.
pub(crate) fn age(ms: u64) -> String {
    match ms / 1000 {
        0 => "now".into(),
        s @ 1..60 => format!("{s}s ago"),
        s @ 60..3600 => format!("{}m ago", s / 60),
        s @ 3600..86_400 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86_400),
    }
}

/// Milliseconds since 1970 as a time in UTC.
pub(crate) fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.strftime("%FT%TZ").to_string()).unwrap_or_default()
}

/// The end of a peer id, which is where they differ.
pub(crate) fn short(peer: &str) -> String {
    let from = peer.len().saturating_sub(8);
    peer.get(from..).map_or_else(|| peer.into(), |end| format!("..{end}"))
}
