//! Colours and the widths of terminals. Colours are always written; anstream removes them for pipes, with NO_COLOR and on
//! TERM=dumb.

use std::{env, fmt::Display, io};

use anstyle::{AnsiColor, Style};
use terminal_size::terminal_size_of;
use unicode_width::UnicodeWidthChar;

/// The meaning of a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Head,
    Dim,
    Good,
    Warning,
    Bad,
}

fn style(tone: Tone) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match tone {
        Tone::Plain => Style::new(),
        Tone::Head => Style::new().bold(),
        Tone::Dim => Style::new().dimmed(),
        Tone::Good => colour(AnsiColor::Green),
        Tone::Warning => colour(AnsiColor::Yellow),
        Tone::Bad => colour(AnsiColor::Red),
    }
}

/// The text in its colour.
pub(crate) fn paint(tone: Tone, text: impl Display) -> String {
    let style = style(tone);
    format!("{style}{text}{style:#}")
}

/// The length of the colour, or its end, that a text begins with.
pub(crate) fn colour_at(text: &str) -> Option<usize> {
    if !text.starts_with('\u{1b}') {
        return None;
    }
    let tones = [Tone::Head, Tone::Dim, Tone::Good, Tone::Warning, Tone::Bad].map(style);
    let codes = tones.iter().flat_map(|style| [format!("{style}"), format!("{style:#}")]);
    codes.filter(|code| text.starts_with(code)).map(|code| code.len()).max()
}

/// The width for results: the terminal's, else that of COLUMNS; `None` means no limit.
pub(crate) fn width() -> Option<usize> {
    let told = || env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
    terminal_size_of(io::stdout()).map(|(columns, _)| columns.0.into()).or_else(told)
}

/// How many columns a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The beginning of a text that fits; `…` stands for the rest.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.into();
    }
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let taken = c.width().unwrap_or(0);
        let fits = taken <= room;
        room = room.saturating_sub(taken);
        fits
    };
    text.chars().take_while(fits).chain((width > 0).then_some('…')).collect()
}

/// The text in lines that fit, broken between words; a word that is longer stays whole.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if columns(line) + 1 + columns(word) <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.into());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_wrapped_by_the_columns_they_take() {
        assert_eq!(cut("radio", 5), "radio");
        assert_eq!(cut("radios", 5), "radi…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("x", 0), "");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("/ip4/127.0.0.1 b", 4), ["/ip4/127.0.0.1", "b"]);
    }
}
