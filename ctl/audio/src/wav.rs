//! WAV headers that do not tell the truth: recorders that were killed leave sizes of nought, programs that write into a
//! pipe the largest number there is, and what was cut off claims more than there is.

/// Sizes from here on mean "unknown".
const UNKNOWN: u32 = 0x7fff_0000;

/// A header put right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Righted {
    /// In place of the file's first bytes.
    pub(crate) head: Vec<u8>,
    /// Bytes of sound that were claimed, where there are fewer, and those that are there.
    pub(crate) claimed: Option<(u32, u32)>,
}

/// Puts the header right of a file of `size` bytes that begins with `head`; `None` when it is right, or no WAV.
pub(crate) fn right(head: &[u8], size: u64) -> Option<Righted> {
    if head.get(..4)? != b"RIFF" || head.get(8..12)? != b"WAVE" {
        return None;
    }
    let size = u32::try_from(size).ok()?;
    let data = data_chunk(head)?;
    let (whole, said) = (number(head, 4)?, number(head, data.checked_add(4)?)?);
    let there = size.checked_sub(u32::try_from(data).ok()?.checked_add(8)?)?;
    if said > 0 && said <= there && whole >= said && whole <= size.saturating_sub(8) {
        return None;
    }
    let real = if said == 0 { there } else { said.min(there) };
    let mut righted = head.to_vec();
    righted.get_mut(4..8)?.copy_from_slice(&size.saturating_sub(8).to_le_bytes());
    righted.get_mut(data + 4..data + 8)?.copy_from_slice(&real.to_le_bytes());
    let claimed = (said > there && said < UNKNOWN).then_some((said, there));
    Some(Righted { head: righted, claimed })
}

/// Where the chunk with the sound begins.
fn data_chunk(head: &[u8]) -> Option<usize> {
    let mut at = 12usize;
    loop {
        if head.get(at..at.checked_add(4)?)? == b"data" {
            return Some(at);
        }
        let length = usize::try_from(number(head, at.checked_add(4)?)?).ok()?;
        at = at.checked_add(8)?.checked_add(length)?.checked_add(length % 2)?;
    }
}

fn number(head: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(whole: u32, data: u32) -> Vec<u8> {
        let mut head = b"RIFF".to_vec();
        head.extend(whole.to_le_bytes());
        head.extend(b"WAVEfmt ");
        head.extend(16u32.to_le_bytes());
        head.extend([0; 16]);
        head.extend(b"data");
        head.extend(data.to_le_bytes());
        head
    }

    #[test]
    fn headers_are_put_right() {
        assert_eq!(right(&header(1036, 1000), 1044), None);
        assert_eq!(right(b"fLaC", 1044), None);
        assert_eq!(right(b"RIFF\xff\xff\xff\xffWAVEfmt ", 16), None);
        for (whole, data) in [(0, 0), (u32::MAX, 0x7fff_ff00), (u32::MAX, u32::MAX), (36, 0)] {
            let righted = right(&header(whole, data), 1044).unwrap();
            assert_eq!(righted, Righted { head: header(1036, 1000), claimed: None }, "{whole} {data}");
        }
        for (whole, data) in [(4036, 4000), (1036, 4000)] {
            let righted = right(&header(whole, data), 1044).unwrap();
            assert_eq!(righted, Righted { head: header(1036, 1000), claimed: Some((4000, 1000)) });
        }
    }
}
