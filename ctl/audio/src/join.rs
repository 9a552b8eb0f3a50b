//! Where a recording of an undecoded stream begins: an Ogg stream at its next first page, since players cannot start in the
//! middle (RFC 3533, 6); other streams at once.

use crate::detect::{self, Found, Kind};

/// After so many bytes without a first page an Ogg stream is kept all the same.
const LIMIT: usize = 4 << 20;
/// A page's mark, version and flags.
const PAGE: usize = 6;
/// Bytes of the longest page, and the mark of the next. A stream without a mark in so many bytes is not Ogg.
const LONGEST: usize = 27 + 255 + 255 * 255 + 4;

/// A stream that is being joined.
#[derive(Default)]
pub struct Join {
    joined: bool,
    ogg: bool,
    passed: usize,
    head: Vec<u8>,
}

impl Join {
    /// Takes the next bytes. Returns the bytes to keep.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.joined {
            return bytes.to_vec();
        }
        self.head.extend_from_slice(bytes);
        self.ogg |= self.head.windows(4).any(|mark| mark == b"OggS");
        let begins = |page: &[u8]| page.starts_with(b"OggS\0") && page.last().is_some_and(|flags| flags & 2 == 2);
        let start = if self.ogg {
            self.head.windows(PAGE).position(begins).or((self.passed > LIMIT).then_some(0))
        } else {
            (self.head.len() >= LONGEST || is_other(&self.head)).then_some(0)
        };
        let keep = start.unwrap_or(if self.ogg { self.head.len().saturating_sub(PAGE - 1) } else { 0 });
        self.passed = self.passed.saturating_add(keep);
        self.head.drain(..keep);
        self.joined = start.is_some();
        if self.joined { std::mem::take(&mut self.head) } else { Vec::new() }
    }

    /// Called at the end of the stream. Returns the rest to keep: all of a stream that was shorter than a page.
    pub fn finish(&mut self) -> Vec<u8> {
        if self.ogg { Vec::new() } else { std::mem::take(&mut self.head) }
    }
}

/// Whether these bytes begin sound of another format than Ogg.
fn is_other(head: &[u8]) -> bool {
    match detect::detect(head, false) {
        Found::At(kind, _) => !matches!(kind, Kind::Opus | Kind::Ogg),
        found => matches!(found, Found::Tag(_)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ogg_stream_begins_with_a_first_page_and_others_at_once() {
        let mp3 = [&[0xff, 0xfb, 0x90, 0][..], &[0; 413]].concat().repeat(3);
        assert_eq!(Join::default().take(&mp3), mp3);
        let stream = [&b"tail OggS\0\0middle"[..], b"OggS\0\x02first", b"OggS\0\0more"].concat();
        for split in 0..stream.len() {
            let mut join = Join::default();
            let (one, other) = stream.split_at(split);
            assert_eq!([join.take(one), join.take(other)].concat(), b"OggS\0\x02firstOggS\0\0more", "{split}");
        }
        let mut endless = Join::default();
        let kept = (0..300).map(|_| endless.take(&[&b"OggS\0\0"[..], &[7; 20_000]].concat()).len()).sum::<usize>();
        assert!(kept > 300 * 20_006 - LIMIT - 40_000 && endless.head.is_empty(), "{kept}");
    }

    #[test]
    fn what_is_not_ogg_is_known_after_a_longest_page_or_at_its_end() {
        let long: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let mut join = Join::default();
        let kept: Vec<usize> = long.chunks(4096).map(|slice| join.take(slice).len()).collect();
        assert_eq!(kept.iter().position(|kept| *kept > 0), Some(15), "{kept:?}");
        assert_eq!((kept.iter().sum::<usize>(), join.finish().len()), (long.len(), 0));
        assert_eq!((join.take(b"more"), Join::default().take(b"short").len()), (b"more".to_vec(), 0));
        let mut short = Join::default();
        assert_eq!([short.take(b"sho"), short.take(b"rt"), short.finish()].concat(), b"short");
        let mut late = Join::default();
        late.take(b"OggS\0\0middle");
        assert_eq!(late.finish(), b"", "no decoder can begin with it");
    }

    #[test]
    fn a_page_of_which_only_the_tail_comes_first_is_passed_over() {
        let stream = [&[7; 65_000][..], b"OggS\0\0middle OggS\0\x02first"].concat();
        let mut join = Join::default();
        let kept: Vec<u8> = stream.chunks(4096).flat_map(|slice| join.take(slice)).collect();
        assert_eq!(kept, b"OggS\0\x02first");
    }
}
