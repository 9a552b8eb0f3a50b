//! Recognises encoded sound: its format, and the byte at which a decoder can start.

use crate::frames::{HEADER, Header, tag};

/// A format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ogg with Opus.
    Opus,
    /// Ogg with another codec.
    Ogg,
    /// RIFF or RF64.
    Wav,
    Flac,
    /// MP3 or ADTS, without a container.
    Frames,
    Mp4,
}

/// What the first bytes of a stream tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This format, from that byte on.
    At(Kind, usize),
    /// A tag of so many bytes; look behind it.
    Tag(usize),
    /// Ogg without the page that a decoder begins with.
    MiddleOfOgg,
    /// More bytes are needed.
    More,
    /// Nothing that can be decoded; says what it is.
    Nothing(&'static str),
}

/// Most bytes that are looked at.
pub(crate) const LIMIT: usize = 256 * 1024;
/// How far an identification header of Ogg reaches into its page.
const OGG_HEAD: usize = 36;
/// Consecutive frames that do not occur by chance.
const FRAMES: usize = 3;

/// The first bytes of formats that are not decoded, with their names.
const OTHERS: [(&[u8], &str); 14] = [
    (b"FORM", "AIFF"),
    (b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (b"#!AMR", "AMR"),
    (b"MThd", "MIDI, which is notes"),
    (b"\x0b\x77", "AC-3"),
    (b"\x30\x26\xb2\x75", "WMA"),
    (b"MAC ", "Monkey's Audio"),
    (b"wvpk", "WavPack"),
    (b".snd", "AU"),
    (b"caff", "CAF"),
    (b"\x1f\x8b", "gzip: unpack it first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
];

/// Looks at the first bytes of a stream. If it has `ended`, no more will come.
pub(crate) fn detect(head: &[u8], ended: bool) -> Found {
    if let Some(length) = tag(head) {
        return Found::Tag(length);
    }
    if head.len() < OGG_HEAD && !ended {
        return Found::More;
    }
    if head.get(4..8) == Some(b"ftyp") {
        return Found::At(Kind::Mp4, 0);
    }
    let mut ogg = false;
    for at in 0..head.len() {
        let rest = head.get(at..).unwrap_or_default();
        match rest {
            [b'O', b'g', b'g', b'S', 0, ..] => {
                ogg = true;
                match first_page(rest) {
                    Some(kind) => return Found::At(kind, at),
                    None if rest.len() < OGG_HEAD && !ended => return Found::More,
                    None => {}
                }
            }
            [b'R', b'I' | b'F', b'F' | b'6', b'F' | b'4', ..] | [b'B', b'W', b'6', b'4', ..]
                if rest.get(8..12) == Some(b"WAVE") =>
            {
                return Found::At(Kind::Wav, at);
            }
            // Stream information of 34 bytes is always the first.
            [b'f', b'L', b'a', b'C', 0 | 0x80, 0, 0, 34, ..] => return Found::At(Kind::Flac, at),
            [0xff, ..] if is_frames(rest, at == 0 && ended) => return Found::At(Kind::Frames, at),
            _ => {}
        }
    }
    if ogg {
        return Found::MiddleOfOgg;
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Found::Nothing(name);
    }
    if (ended || head.len() >= 4096) && is_text(head) {
        return Found::Nothing("text");
    }
    if ended || head.len() >= LIMIT { Found::Nothing("no encoded sound") } else { Found::More }
}

/// The format of a stream that begins with this Ogg page (RFC 3533, 6); `None` if no stream does.
pub(crate) fn first_page(page: &[u8]) -> Option<Kind> {
    if !page.starts_with(b"OggS\0") || page.get(5)? & 2 == 0 {
        return None;
    }
    Some(if page.get(28..OGG_HEAD)? == b"OpusHead" { Kind::Opus } else { Kind::Ogg })
}

/// Whether consecutive frames begin here. A `whole` file may hold fewer than are needed to be sure.
fn is_frames(bytes: &[u8], whole: bool) -> bool {
    let (mut at, mut count) = (0, 0);
    let mut first = None;
    while let Some(header) = bytes.get(at..).and_then(Header::parse) {
        if first.is_some_and(|first: Header| !first.is_like(&header)) {
            return false;
        }
        first = Some(header);
        (at, count) = (at + header.length, count + 1);
        if count == FRAMES {
            return true;
        }
    }
    whole && count > 0 && at + HEADER > bytes.len()
}

fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Cut within a character.
        Err(error) if error.valid_up_to() + 4 > head.len() => {
            std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\u{c}' | '\u{1b}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sound_has_a_name() {
        for (bytes, name) in
            [(&b"Dear listeners,"[..], "text"), (b"\x1f\x8b\x08", "gzip"), (&[7; 64], "no encoded sound")]
        {
            let Found::Nothing(said) = detect(bytes, true) else { panic!("{name}") };
            assert!(said.starts_with(name), "{said}");
        }
        assert_eq!(detect(&[7; 64], false), Found::More);
    }

    #[test]
    fn no_frames_are_seen_in_noise() {
        let mut state = 1u64;
        let mut noise = Vec::new();
        while noise.len() < LIMIT {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.extend_from_slice(&state.to_be_bytes()[..4]);
        }
        assert_eq!(detect(&noise, true), Found::Nothing("no encoded sound"));
    }
}
