//! Text that a stranger wrote, made safe for a terminal and a log.

// Core cannot use the contract's crate, which has tokio; the file has no imports.
#[path = "../../../proto/hostile.rs"]
#[allow(unreachable_pub)]
mod hostile;

use hostile::is_hostile;

/// `text` without hostile characters, cut to at most `max` characters.
pub fn clean(text: &str, max: usize) -> String {
    text.chars().filter(|c| !is_hostile(*c)).take(max).collect()
}

/// Whether `clean` would leave `text` as it is.
pub fn is_clean(text: &str) -> bool {
    !text.chars().any(is_hostile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_bidi_never_pass() {
        assert_eq!(clean("\u{1b}[31mred\u{202e}\n", 80), "[31mred");
        assert!(!is_clean("a\u{200f}b"));
        assert_eq!(clean("Zürich 東京", 3), "Zür");
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        assert!(is_clean("Zürich 東京 👋") && is_clean(""));
        assert_eq!(
            (clean("Zürich 東京 👋", 80), clean("abc", 3), clean("abc", 0)),
            ("Zürich 東京 👋".into(), "abc".into(), "".into())
        );
    }
}
