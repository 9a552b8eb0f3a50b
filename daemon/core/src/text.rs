//! Text that a stranger wrote, made safe for a terminal and a log.

/// Whether `c` could drive a terminal or reorder what is read: control, bidirectional and invisible format characters.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

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
}
