//! Where a stream that is kept as it comes begins: an Ogg stream at the next page that begins one, since a file from its
//! middle cannot be played (RFC 3533, 6); others at once.

/// How much of an Ogg stream is passed over before it is kept all the same.
const LIMIT: usize = 4 << 20;
/// A page's mark, version and flags.
const PAGE: usize = 6;

/// A stream that is being joined.
#[derive(Default)]
pub struct Join {
    joined: bool,
    ogg: bool,
    passed: usize,
    head: Vec<u8>,
}

impl Join {
    /// What of the next bytes is to be kept.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.joined {
            return bytes.to_vec();
        }
        self.head.extend_from_slice(bytes);
        self.ogg |= self.head.windows(4).any(|mark| mark == b"OggS");
        let begins = |page: &[u8]| page.starts_with(b"OggS\0") && page.last().is_some_and(|flags| flags & 2 == 2);
        let start = match self.ogg {
            true => self.head.windows(PAGE).position(begins).or((self.passed > LIMIT).then_some(0)),
            false => Some(0),
        };
        let keep = start.unwrap_or(self.head.len().saturating_sub(PAGE - 1));
        self.passed = self.passed.saturating_add(keep);
        self.head.drain(..keep);
        self.joined = start.is_some();
        if self.joined { std::mem::take(&mut self.head) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ogg_stream_begins_with_a_first_page_and_others_at_once() {
        assert_eq!(Join::default().take(b"\xff\xfb mp3"), b"\xff\xfb mp3");
        let stream = [&b"tail OggS\0\0middle"[..], b"OggS\0\x02first", b"OggS\0\0more"].concat();
        for split in 9..stream.len() {
            let mut join = Join::default();
            let (one, other) = stream.split_at(split);
            assert_eq!([join.take(one), join.take(other)].concat(), b"OggS\0\x02firstOggS\0\0more", "{split}");
        }
        let mut endless = Join::default();
        let kept = (0..300).map(|_| endless.take(&[&b"OggS\0\0"[..], &[7; 20_000]].concat()).len()).sum::<usize>();
        assert!(kept > 300 * 20_006 - LIMIT - 40_000 && endless.head.is_empty(), "{kept}");
    }
}
