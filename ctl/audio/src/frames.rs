//! Frames of MP3 and of AAC in ADTS: encoded sound without a container, which can be joined anywhere. Bytes that are no
//! frame are skipped, so that only damaged sound is lost.

use std::io::{self, Read};

/// Which codec a frame is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// MPEG layer III.
    Mp3,
    /// AAC with an ADTS header.
    Aac,
}

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) codec: Codec,
    /// Bytes before the sound: ADTS headers are no part of a packet, those of MP3 are.
    pub(crate) skip: usize,
    /// Bytes of the frame, header included.
    pub(crate) length: usize,
    pub(crate) rate: u32,
    /// 1 or 2; more in AAC.
    pub(crate) channels: u32,
    /// Samples of each channel.
    pub(crate) samples: u32,
}

/// Bytes that a header takes at most.
pub(crate) const HEADER: usize = 7;

impl Header {
    /// The header that `bytes` begin with.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        mp3(bytes).or_else(|| adts(bytes))
    }

    /// Whether both may be of one stream.
    pub(crate) fn is_like(&self, other: &Header) -> bool {
        (self.codec, self.rate, self.channels) == (other.codec, other.rate, other.channels)
    }
}

/// ISO 11172-3, 2.4.1.3, and 13818-3.
fn mp3(bytes: &[u8]) -> Option<Header> {
    const KBITS: [[usize; 14]; 2] = [
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let &[sync, b1, b2, b3] = bytes.first_chunk::<4>()?;
    // Version 1 is reserved, 1 is layer III, 2 is a reserved emphasis.
    let version = (b1 >> 3) & 3;
    if sync != 0xff || b1 & 0xe0 != 0xe0 || version == 1 || (b1 >> 1) & 3 != 1 || b3 & 3 == 2 {
        return None;
    }
    let first = version == 3;
    let kbits = KBITS.get(usize::from(!first))?.get(usize::from(b2 >> 4).checked_sub(1)?)?;
    let rate: u32 = *[44_100, 48_000, 32_000].get(usize::from((b2 >> 2) & 3))?;
    let rate = rate >> [2, 0, 1, 0].get(usize::from(version))?;
    let samples = if first { 1152 } else { 576 };
    let length = samples as usize / 8 * kbits * 1000 / rate as usize + usize::from((b2 >> 1) & 1);
    let channels = if b3 >> 6 == 3 { 1 } else { 2 };
    Some(Header { codec: Codec::Mp3, skip: 0, length, rate, channels, samples })
}

/// ISO 13818-7, 6.2.
fn adts(bytes: &[u8]) -> Option<Header> {
    const RATES: [u32; 13] =
        [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
    let &[sync, b1, b2, b3, b4, b5, b6] = bytes.first_chunk::<HEADER>()?;
    // Only one block a frame is decoded.
    if sync != 0xff || b1 & 0xf6 != 0xf0 || b6 & 3 != 0 {
        return None;
    }
    let rate = *RATES.get(usize::from((b2 >> 2) & 15))?;
    let channels = u32::from((b2 & 1) << 2 | b3 >> 6);
    let length = usize::from(b3 & 3) << 11 | usize::from(b4) << 3 | usize::from(b5 >> 5);
    let skip = if b1 & 1 == 0 { 9 } else { 7 };
    (length > skip && channels > 0).then_some(Header { codec: Codec::Aac, skip, length, rate, channels, samples: 1024 })
}

/// Length of the ID3v2, ID3v1 or APE tag that `bytes` begin with.
pub(crate) fn tag(bytes: &[u8]) -> Option<usize> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.starts_with(b"ID3") {
        let size = bytes.get(6..10)?.iter().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
        let footer = if bytes.get(5)? & 0x10 == 0 { 0 } else { 10 };
        return Some(10 + size + footer);
    }
    if bytes.starts_with(b"TAG") {
        return Some(128);
    }
    bytes.starts_with(b"APETAGEX").then_some(())?;
    usize::try_from(number(12)?).ok()?.checked_add(32)
}

/// What begins at a position.
enum Place {
    Frame(Header),
    Tag(usize),
    Nothing,
}

/// The frames of a stream.
pub(crate) struct Frames<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Where the next frame is looked for.
    at: usize,
    ended: bool,
    last: Option<Header>,
    /// Whether bytes were left out before the last frame.
    pub(crate) skipped: bool,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Frames { reader, buffer: Vec::new(), at: 0, ended: false, last: None, skipped: false }
    }

    /// The next frame; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Header, &[u8])>> {
        self.skipped = false;
        loop {
            let rest = self.have(16)?;
            if rest.len() < 4 {
                return Ok(None);
            }
            match self.place()? {
                Place::Frame(header) if self.have(header.length)?.len() < header.length => return Ok(None),
                Place::Frame(header) => {
                    self.last = Some(header);
                    let begin = self.at;
                    self.at += header.length;
                    return Ok(self.buffer.get(begin..self.at).map(|frame| (header, frame)));
                }
                Place::Tag(length) => self.leave_out(length)?,
                Place::Nothing => {
                    // From here on a frame counts only if another follows it.
                    self.last = None;
                    self.skipped = true;
                    self.at += 1;
                }
            }
        }
    }

    fn place(&mut self) -> io::Result<Place> {
        let last = self.last;
        let rest = self.have(16)?;
        let Some(header) = Header::parse(rest) else {
            return Ok(tag(rest).map_or(Place::Nothing, Place::Tag));
        };
        if last.is_some_and(|last| last.is_like(&header)) {
            return Ok(Place::Frame(header));
        }
        // One header may occur by chance; two that agree do not.
        let behind = self.have(header.length + HEADER)?.get(header.length..).unwrap_or_default();
        let confirmed = match Header::parse(behind) {
            Some(next) => next.is_like(&header),
            None => tag(behind).is_some() || behind.is_empty(),
        };
        Ok(if confirmed { Place::Frame(header) } else { Place::Nothing })
    }

    /// Reads until so many bytes are there, or to the end. Returns all bytes from the position on.
    fn have(&mut self, count: usize) -> io::Result<&[u8]> {
        let mut slice = [0; 4096];
        while !self.ended && self.buffer.len() - self.at < count {
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.reader.read(&mut slice) {
                Ok(0) => self.ended = true,
                Ok(got) => self.buffer.extend_from_slice(slice.get(..got).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    fn leave_out(&mut self, count: usize) -> io::Result<()> {
        let here = count.min(self.buffer.len() - self.at);
        self.at += here;
        io::copy(&mut self.reader.by_ref().take((count - here) as u64), &mut io::sink())?;
        Ok(())
    }
}

/// The information frame that an MP3 file may begin with, in place of sound.
pub(crate) struct Info {
    /// Frames with sound, if it says.
    pub(crate) frames: Option<u64>,
    /// Samples to drop at the start and at the end.
    pub(crate) delay: u64,
    pub(crate) padding: u64,
}

/// Samples that a decoder returns before the first sample of the sound.
const DECODER_DELAY: u64 = 529;

impl Info {
    /// The Xing or Info header, with LAME's extension, of a frame that holds one.
    pub(crate) fn of(header: &Header, frame: &[u8]) -> Option<Self> {
        let first = header.samples == 1152;
        let side = [[9, 17], [17, 32]].get(usize::from(first))?.get(header.channels as usize - 1)?;
        let number = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        // A checksum may stand before the side information.
        let at =
            [4 + side, 6 + side].into_iter().find(|at| matches!(frame.get(*at..at + 4), Some(b"Xing" | b"Info")))?;
        let flags = number(at + 4)?;
        let length = |bit: u32, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
        let frames = if flags & 1 == 0 { None } else { number(at + 8).map(u64::from).filter(|frames| *frames > 0) };
        let lame = at + 8 + length(1, 4) + length(2, 4) + length(4, 100) + length(8, 4);
        let known = matches!(frame.get(lame..lame + 4), Some(b"LAME" | b"Lavf" | b"Lavc"));
        let trim = number(lame + 20).filter(|_| known).map(|word| word & 0xff_ffff);
        let delay = trim.map_or(0, |trim| u64::from(trim >> 12) + DECODER_DELAY);
        let padding = trim.map_or(0, |trim| u64::from(trim & 0xfff).saturating_sub(DECODER_DELAY));
        Some(Info { frames, delay, padding })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of 128 kbit/s at 44.1 kHz, whose last byte is their number.
    fn stream(frames: u8, mono: bool) -> Vec<u8> {
        let frame = |n: u8| {
            let mut frame = vec![0; 417];
            frame[..4].copy_from_slice(&[0xff, 0xfb, 0x90, if mono { 0xc0 } else { 0 }]);
            frame[416] = n;
            frame
        };
        (0..frames).flat_map(frame).collect()
    }

    fn numbers(bytes: &[u8]) -> Vec<u8> {
        let mut frames = Frames::new(bytes);
        let mut out = Vec::new();
        while let Some((_, frame)) = frames.next().unwrap() {
            out.push(*frame.last().unwrap());
        }
        out
    }

    #[test]
    fn headers_say_what_they_are_of() {
        let mp3 = Header::parse(&stream(1, false)).unwrap();
        assert_eq!((mp3.codec, mp3.length, mp3.rate, mp3.channels, mp3.samples), (Codec::Mp3, 417, 44_100, 2, 1152));
        let aac = Header::parse(&[0xff, 0xf1, 0x4c, 0x80, 0x20, 0x1f, 0xfc]).unwrap();
        assert_eq!((aac.codec, aac.length, aac.rate, aac.channels, aac.skip), (Codec::Aac, 256, 48_000, 2, 7));
        assert_eq!(Header::parse(&[0xff; 7]), None);
    }

    #[test]
    fn a_stream_is_joined_anywhere_and_goes_on_behind_damage_and_tags() {
        let stereo = stream(10, false);
        assert_eq!(numbers(&stereo), (0..10).collect::<Vec<_>>());
        assert_eq!(numbers(&stereo[100..]), (1..10).collect::<Vec<_>>());
        let mut damaged = stereo.clone();
        damaged[417 * 4..417 * 4 + 40].fill(0x55);
        assert_eq!(numbers(&damaged), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let tag = [&b"ID3\x04\0\0\0\0\x01\0"[..], &[0xff; 128]].concat();
        let joined = [&stereo[..], &tag, &stream(3, true), b"TAG", &[0; 125]].concat();
        assert_eq!(numbers(&joined).len(), 13);
        assert_eq!(numbers(&stereo[..417 * 9 + 200]).len(), 9, "the last one is cut off");
    }
}
