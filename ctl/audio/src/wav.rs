//! Headers of WAV and RF64 (EBU Tech 3306). Many are wrong: killed recorders leave sizes of 0, programs that write to a pipe
//! put the largest number, and truncated files claim more than they hold. So the decoder gets a header of ours, and the
//! length of the sound is returned beside it.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Sizes from here on may mean "unknown".
const UNKNOWN: u64 = 0x7fff_0000;
/// A size that stands in another chunk.
const ELSEWHERE: u32 = u32::MAX;
/// The longest format chunk that anybody writes is 40 bytes.
const FORMAT: u32 = 1024;
/// Limits of channels and bits per sample: symphonia's arithmetic overflows with larger values.
const CHANNELS: u16 = 32;
const BITS: u16 = 64;
/// Most bytes before the sound: covers and lists may have some mebibytes.
pub(crate) const BEFORE: u64 = 64 << 20;

/// A header as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// A header in its place, of unknown length.
    pub(crate) head: Vec<u8>,
    /// Bytes of one sample of all channels.
    pub(crate) frame: u16,
    /// Bytes of sound by the header, if it knows.
    said: Option<u64>,
}

impl Head {
    /// Reads up to the first sample; `None` where the header is cut off, or has no format that sound can have.
    pub(crate) fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 12];
        reader.read_exact(&mut head)?;
        let (mut format, mut long) = (Vec::new(), None);
        let mut skipped = 0;
        while skipped < BEFORE {
            let mut chunk = [0; 8];
            reader.read_exact(&mut chunk)?;
            let [id @ .., a, b, c, d] = chunk;
            let size = u32::from_le_bytes([a, b, c, d]);
            let mut body = reader.by_ref().take(u64::from(size) + u64::from(size & 1));
            match &id {
                b"fmt " if size <= FORMAT => {
                    format.clear();
                    body.read_to_end(&mut format)?;
                }
                b"ds64" => {
                    let mut sizes = [0; 16];
                    body.read_exact(&mut sizes)?;
                    long = sizes.last_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                }
                b"data" if !is_possible(&format) => return Ok(None),
                b"data" => {
                    let said = if size == ELSEWHERE { long } else { Some(size.into()) };
                    let said = said.filter(|size| *size > 0);
                    let length = u32::try_from(format.len()).unwrap_or_default().to_le_bytes();
                    let all = ELSEWHERE.to_le_bytes();
                    let head = [b"RIFF", &all[..], b"WAVEfmt ", &length, &format, b"data", &all].concat();
                    return Ok(Some(Head { head, frame: number(&format, 12).unwrap_or_default(), said }));
                }
                _ => {}
            }
            skipped += chunk.len() as u64 + u64::from(size);
            if skipped < BEFORE {
                io::copy(&mut body, &mut io::sink())?;
            }
        }
        Ok(None)
    }

    /// Bytes of sound, if the header knows them. `left` is what is left of a file.
    pub(crate) fn length(&self, left: Option<u64>) -> Option<u64> {
        let largest = |said: &u64| (UNKNOWN..=ELSEWHERE.into()).contains(said);
        self.said.filter(|said| !largest(said) || left.is_some_and(|left| *said <= left))
    }
}

fn number(format: &[u8], at: usize) -> Option<u16> {
    format.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn is_possible(format: &[u8]) -> bool {
    let (channels, bits) = (number(format, 2), number(format, 14));
    channels.is_some_and(|channels| (1..=CHANNELS).contains(&channels)) && bits.is_some_and(|bits| bits <= BITS)
}

/// Bytes of the header that is written.
const HEADER: u64 = 80;

/// Writes a WAV of 16 bit samples whose header tells the truth whenever it is refreshed. Beyond 4 GiB it is RF64, for
/// which room is kept from the start.
pub struct WavWriter<W: Write + Seek> {
    out: W,
    channels: u32,
    rate: u32,
    /// Bytes of sound.
    length: u64,
}

impl<W: Write + Seek> WavWriter<W> {
    /// Writes the header.
    pub fn new(mut out: W, channels: u32, rate: u32) -> io::Result<Self> {
        out.write_all(&header(channels, rate, 0))?;
        Ok(WavWriter { out, channels, rate, length: 0 })
    }

    /// Adds interleaved samples. After a failed write the header still counts only the earlier ones.
    pub fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        self.out.write_all(&bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Tells in the header how much sound there is.
    pub fn refresh(&mut self) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header(self.channels, self.rate, self.length))?;
        self.out.seek(SeekFrom::Start(HEADER + self.length))?;
        Ok(())
    }

    /// Bytes of sound.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Gives back where it was written to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

fn header(channels: u32, rate: u32, length: u64) -> Vec<u8> {
    let whole = length + HEADER - 8;
    let block = channels * 2;
    let short = |size: u64| u32::try_from(size).unwrap_or(ELSEWHERE).to_le_bytes();
    let long = whole >= ELSEWHERE.into();
    let mut head = Vec::new();
    let mut put = |bytes: &[u8]| head.extend_from_slice(bytes);
    put(if long { b"RF64" } else { b"RIFF" });
    put(&short(if long { ELSEWHERE.into() } else { whole }));
    put(b"WAVE");
    put(if long { b"ds64" } else { b"JUNK" });
    put(&28u32.to_le_bytes());
    for size in [whole, length, length / u64::from(block.max(1))] {
        put(&if long { size } else { 0 }.to_le_bytes());
    }
    put(&[0; 4]);
    put(b"fmt \x10\0\0\0\x01\0");
    put(&(channels as u16).to_le_bytes());
    put(&rate.to_le_bytes());
    put(&(rate * block).to_le_bytes());
    put(&(block as u16).to_le_bytes());
    put(&16u16.to_le_bytes());
    put(b"data");
    put(&short(if long { ELSEWHERE.into() } else { length }));
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const PCM: &[u8] = b"\x01\0\x01\0\x80\xbb\0\0\0\x77\x01\0\x02\0\x10\0";

    fn file(whole: u32, chunks: &[(&[u8], &[u8])], data: u32) -> Vec<u8> {
        let mut file = [b"RIFF", &whole.to_le_bytes()[..], b"WAVE"].concat();
        for (id, body) in chunks {
            file.extend([id, &(body.len() as u32).to_le_bytes()[..], body, &vec![0; body.len() % 2]].concat());
        }
        [&file[..], b"data", &data.to_le_bytes()].concat()
    }

    fn read(file: &[u8]) -> Option<Head> {
        Head::read(&mut Cursor::new(file)).unwrap()
    }

    #[test]
    fn a_format_that_no_sound_has_is_none() {
        let with = |at: usize, bytes: [u8; 2]| {
            let mut format = PCM.to_vec();
            format[at..at + 2].copy_from_slice(&bytes);
            read(&file(0, &[(b"fmt ", &format)], 8000))
        };
        assert!(with(2, [6, 0]).is_some(), "refused by its channels, in words");
        for (at, bytes) in [(2, [0, 0]), (2, [201, 0]), (2, [0xff, 0xff]), (14, [0xff, 0xff])] {
            assert_eq!(with(at, bytes), None, "{at} {bytes:?}");
        }
        assert_eq!(read(&file(0, &[(b"fmt ", &PCM[..9])], 8000)), None);
        // Chunks of gibibytes are not waited for.
        let endless = [&b"RIFF\xff\xff\xff\xffWAVEjunk\xff\xff\xff\x7f"[..], &[0; 64]].concat();
        assert_eq!(Head::read(&mut Cursor::new(endless).chain(io::repeat(0))).unwrap(), None);
        // Nor are chunks of no bytes, one after the other.
        let empty = b"RIFF\xff\xff\xff\xffWAVE";
        assert_eq!(Head::read(&mut empty.chain(io::repeat(0))).unwrap(), None);
    }

    #[test]
    fn the_last_format_chunk_counts_alone() {
        let once = read(&file(0, &[(b"fmt ", PCM)], 8)).unwrap();
        assert_eq!(read(&file(0, &[(b"fmt ", &[1; 16]), (b"fmt ", PCM)], 8)), Some(once));
    }

    #[test]
    fn the_length_is_what_is_there() {
        let head = |whole, data| read(&file(whole, &[(b"LIST", b"abc"), (b"fmt ", PCM)], data)).unwrap();
        // Recorders that were killed, ffmpeg and arecord into a pipe, RIFF sizes that are a few bytes off.
        for (whole, data) in [(0, 0), (u32::MAX, u32::MAX), (u32::MAX, 0x7fff_ff00), (1030, 1000), (36, 1000)] {
            for left in [Some(1000), None] {
                assert_eq!(head(whole, data).length(left), (data == 1000).then_some(1000), "{whole} {data}");
            }
        }
        assert_eq!(head(u32::MAX, 0x8000_0000).length(Some(3 << 30)), Some(1 << 31), "a large file");
        assert_eq!(head(4036, 4000).length(Some(1000)), Some(4000), "it was cut off");
        assert_eq!(read(&file(0, &[(b"LIST", b"abc")], 9)), None);
        assert!(Head::read(&mut Cursor::new(b"RIFF\xff\xff\xff\xffWAVEfmt ")).is_err());
    }

    /// Keeps what is written into the first bytes and forgets the rest.
    struct Abyss {
        head: Vec<u8>,
        at: u64,
    }

    impl Write for Abyss {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            for (at, byte) in (self.at..HEADER).zip(bytes) {
                self.head[at as usize] = *byte;
            }
            self.at += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Abyss {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            let SeekFrom::Start(at) = to else { panic!("from the start") };
            self.at = at;
            Ok(at)
        }
    }

    #[test]
    fn beyond_four_gibibytes_it_goes_on_as_rf64() {
        let mut writer = WavWriter::new(Abyss { head: vec![0; 80], at: 0 }, 2, 48_000).unwrap();
        let samples = vec![0; 1 << 20];
        for (count, magic) in [(2047, b"RIFF"), (1, b"RF64"), (1000, b"RF64")] {
            (0..count).for_each(|_| writer.write(&samples).unwrap());
            writer.refresh().unwrap();
            let head = &writer.out.head;
            assert!(head.starts_with(magic));
            assert_eq!(read(head).unwrap().length(Some(u64::MAX)), Some(writer.length()));
            assert_eq!(writer.out.at, HEADER + writer.length());
        }
        assert_eq!(writer.length(), 3048 << 21);
    }
}
