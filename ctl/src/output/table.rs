//! Tables for people, as wide as needed, up to the width of the terminal.

use super::{
    is_harmless,
    style::{Tone, columns, cut, paint, width, wrap},
};

/// Between two columns.
const GAP: usize = 2;
/// Columns for the names of a page, at least.
const NAMES: usize = 13;
/// The least width of a column, however narrow the terminal.
const LEAST: usize = 8;

/// How a column fits its texts into a narrow terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// They stay whole, as commands take them.
    Whole,
    /// They end in `…`.
    Cut,
    /// They wrap to the next line.
    Wrap,
}

/// A column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    fit: Fit,
}

impl Column {
    pub(crate) const fn whole(title: &'static str) -> Self {
        Column { title, fit: Fit::Whole }
    }

    pub(crate) const fn cut(title: &'static str) -> Self {
        Column { title, fit: Fit::Cut }
    }

    pub(crate) const fn wrap(title: &'static str) -> Self {
        Column { title, fit: Fit::Wrap }
    }
}

/// A text of a row.
#[derive(Default)]
pub(crate) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&paint(self.tone, &self.text))
    }
}

/// A text that is coloured.
pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Cell {
    Cell { text: text.into(), tone }
}

/// A table. Characters that could control the terminal are removed.
pub(crate) fn rows<const N: usize>(heads: &[Column; N], rows: impl IntoIterator<Item = [Cell; N]>) -> String {
    let titles = heads.map(|head| toned(Tone::Head, head.title));
    let mut rows: Vec<[Cell; N]> = std::iter::once(titles).chain(rows).collect();
    rows.iter_mut().flatten().for_each(|cell| cell.text.retain(|c| is_harmless(c) && c != '\n' && c != '\t'));
    let natural = |n: usize| rows.iter().map(|row| row.get(n).map_or(0, |cell| columns(&cell.text))).max().unwrap_or(0);
    let mut widths: [usize; N] = std::array::from_fn(natural);
    if let Some(room) = width() {
        narrow(&mut widths, heads, room);
    }
    rows.iter().map(|row| lines(row, heads, &widths)).collect::<Vec<_>>().join("\n")
}

/// Narrows the widest column that may be narrowed until all fit. If that is not enough, narrows the first, whose longer
/// texts then get a line of their own.
fn narrow<const N: usize>(widths: &mut [usize; N], heads: &[Column; N], room: usize) {
    let room = room.saturating_sub(GAP * N.saturating_sub(1));
    loop {
        let over = widths.iter().sum::<usize>().saturating_sub(room);
        let least = |title: &str| columns(title).max(LEAST);
        let narrowable =
            widths.iter_mut().zip(heads).filter(|(w, head)| head.fit != Fit::Whole && **w > least(head.title));
        match narrowable.map(|(width, _)| width).max() {
            Some(widest) if over > 0 => *widest -= 1,
            _ => {
                if let (Some(first), Some(head)) = (widths.first_mut(), heads.first()) {
                    *first = first.saturating_sub(over).max(least(head.title).min(*first));
                }
                return;
            }
        }
    }
}

/// A row: one line, or as many as its wrapped texts need.
fn lines<const N: usize>(row: &[Cell; N], heads: &[Column; N], widths: &[usize; N]) -> String {
    let mut pieces: Vec<Vec<String>> = row
        .iter()
        .zip(heads)
        .zip(widths)
        .map(|((cell, head), width)| match head.fit {
            Fit::Whole => vec![cell.text.clone()],
            Fit::Cut => vec![cut(&cell.text, *width)],
            Fit::Wrap => wrap(&cell.text, *width),
        })
        .collect();
    let wide = |first: &Cell| widths.first().is_some_and(|width| columns(&first.text) > *width);
    if heads.first().is_some_and(|head| head.fit == Fit::Whole) && row.first().is_some_and(wide) {
        pieces.iter_mut().skip(1).for_each(|piece| piece.insert(0, String::new()));
    }
    let height = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let line = |n: usize| {
        let (mut line, mut owed) = (String::new(), 0);
        for ((piece, cell), width) in pieces.iter().zip(row).zip(widths) {
            let text = piece.get(n).map_or("", String::as_str);
            if !text.is_empty() {
                line.push_str(&" ".repeat(owed));
                line.push_str(&paint(cell.tone, text));
                owed = 0;
            }
            owed += width.saturating_sub(columns(text)) + GAP;
        }
        line
    };
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

/// Names with a text each, one below the other. Texts of several lines keep to their column.
pub(crate) fn page<'a>(items: impl IntoIterator<Item = (&'a str, Cell)>) -> String {
    let items: Vec<(&str, Cell)> = items.into_iter().collect();
    let names = items.iter().map(|(name, _)| columns(name) + GAP).fold(NAMES, usize::max);
    let room = width().map_or(usize::MAX, |width| width.saturating_sub(names).max(LEAST));
    let mut page = Vec::new();
    for (name, mut cell) in items {
        cell.text.retain(is_harmless);
        for (n, text) in cell.text.lines().flat_map(|line| wrap(line, room)).enumerate() {
            let name = if n == 0 { name } else { "" };
            page.push(format!("{name:names$}{}", paint(cell.tone, text)));
        }
    }
    page.join("\n")
}

/// A number of things, in the singular or plural.
pub(crate) fn count(number: impl Into<u64>, thing: &str) -> String {
    let number = number.into();
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
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
    moment(ms).map(|time| time.strftime("%FT%TZ").to_string()).unwrap_or_default()
}

/// The same as a local time of day.
pub(crate) fn clock(ms: u64) -> String {
    let here = |time: jiff::Timestamp| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%T").to_string();
    moment(ms).map(here).unwrap_or_default()
}

fn moment(ms: u64) -> Option<jiff::Timestamp> {
    i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
}

/// The end of a peer id, which tells ids apart. Commands accept it.
pub(crate) fn short(peer: &str) -> String {
    let from = peer.len().saturating_sub(8);
    peer.get(from..).filter(|_| from > 0).map_or_else(|| peer.into(), |end| format!("..{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_get_narrower_where_they_may() {
        let heads = [Column::whole("ID"), Column::cut("NAME"), Column::wrap("WHY")];
        let mut widths = [10, 40, 30];
        narrow(&mut widths, &heads, 44);
        assert_eq!(widths, [10, 15, 15]);
        narrow(&mut widths, &heads, 1);
        assert_eq!(widths, [LEAST, LEAST, LEAST], "nothing is narrower than this");
        let row = ["12D3".into(), toned(Tone::Plain, "a name"), "for one reason or two".into()];
        assert_eq!(
            lines(&row, &heads, &[6, 4, 10]),
            "12D3    a n…  for one\n              reason or\n              two"
        );
    }

    #[test]
    fn a_long_name_has_a_line_of_its_own() {
        let heads = [Column::whole("STREAM"), Column::cut("NAME"), Column::whole("HEARD")];
        let mut widths = [30, 20, 5];
        narrow(&mut widths, &heads, 40);
        assert_eq!(widths, [23, 8, 5]);
        let row = |id: &str| lines(&[id.into(), "Town radio".into(), "now".into()], &heads, &widths);
        assert_eq!(
            row("a-stream-with-a-long-id-ab"),
            format!("a-stream-with-a-long-id-ab\n{}Town ra…  now", " ".repeat(25))
        );
        assert_eq!(row("town"), format!("town{}Town ra…  now", " ".repeat(21)));
    }

    #[test]
    fn one_is_one() {
        assert_eq!([0u32, 1, 2].map(|n| count(n, "listener")), ["0 listeners", "1 listener", "2 listeners"]);
    }
}
