//! The one table of characters that could drive a terminal or reorder what is read. A file without imports, since two
//! crates that may not know each other compile it: this one, for programs that print, and `daemon/core`, for the daemon.

/// Whether `c` is a control, bidirectional or invisible format character.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}
