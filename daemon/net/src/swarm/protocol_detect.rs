//! Which protocol a stream has agreed on, read off multistream-select: the side that answers repeats the one it speaks.

use p2pd_core::text;

/// Longest negotiation that is followed, and longest name that is taken.
const MAX_BYTES: usize = 1024;
const MAX_NAME: usize = 140;

/// What was read so far of the answering side.
#[derive(Debug, Default)]
pub(crate) struct Sniff(Vec<u8>);

impl Sniff {
    /// Reads on. The protocol once it is agreed; an error when this is no negotiation.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<String>, ()> {
        self.0.extend(bytes.iter().take(MAX_BYTES.saturating_sub(self.0.len())));
        let mut rest = self.0.as_slice();
        while let Some((line, behind)) = line(rest)? {
            rest = behind;
            if line.starts_with(b"/multistream/") || line == b"na" {
                continue;
            }
            let name = std::str::from_utf8(line).map_err(|_| ())?;
            return if name.starts_with('/') { Ok(Some(text::clean(name, MAX_NAME))) } else { Err(()) };
        }
        if self.0.len() < MAX_BYTES { Ok(None) } else { Err(()) }
    }
}

type Cut<'a> = (&'a [u8], &'a [u8]);

/// The first message and what is behind it; `None` while it is not whole. A message is its length as a varint, then a line.
fn line(bytes: &[u8]) -> Result<Option<Cut<'_>>, ()> {
    let (length, behind) = match bytes {
        [] => return Ok(None),
        [low, behind @ ..] if *low < 0x80 => (usize::from(*low), behind),
        [_] => return Ok(None),
        [low, high, behind @ ..] if *high < 0x80 => (usize::from(*high) << 7 | usize::from(*low & 0x7f), behind),
        _ => return Err(()),
    };
    let Some((message, behind)) = behind.split_at_checked(length) else { return Ok(None) };
    match message.split_last() {
        Some((b'\n', line)) => Ok(Some((line, behind))),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_protocol_is_told_however_it_is_cut() {
        let talk = b"\x13/multistream/1.0.0\n\x03na\n\x0d/chat/1.0.0\n\nand then bytes of its own";
        for cut in 1..talk.len() {
            let mut sniff = Sniff::default();
            let told = talk.chunks(cut).find_map(|part| sniff.feed(part).unwrap());
            assert_eq!(told.as_deref(), (cut > 0).then_some("/chat/1.0.0"), "cut {cut}");
        }
    }

    #[test]
    fn what_is_no_negotiation_ends_it() {
        for bytes in [&b"\xff\xff\xff"[..], b"\x02xy", b"\x04abc\n", &[0x80, 0x08].repeat(512)] {
            assert_eq!(Sniff::default().feed(bytes), Err(()), "{bytes:?}");
        }
        assert_eq!(Sniff::default().feed(b"\xff\x07abc"), Ok(None));
    }
}
