//! Ogg/Opus files (RFC 7845): read packet by packet without decoding, written with exact packets.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    io::{self, Read, Write},
};

use ogg::{PacketWriteEndInfo, PacketWriter};

use crate::{
    AudioError,
    codec::{OpusDecoder, OpusEncoder, packet_ticks},
    ogg_pages::Packets,
    ticks,
};

/// The packets of an Ogg/Opus file, or of a chain of them.
pub struct OpusFile<R: Read> {
    packets: Packets<R>,
    path: String,
    /// 1 or 2, in the first link. Decoders mix packets of another number.
    pub channels: u32,
    /// Samples at 48 kHz to drop at the start.
    pub pre_skip: u32,
    /// How long its first packet plays, in 48 kHz ticks; most files keep to one duration.
    pub first_ticks: u64,
    /// Read when it was opened.
    first: Option<Vec<u8>>,
    /// Ticks that the header of a later link asks to drop.
    repeated: u64,
    /// Set if the header asks for a gain, which packets by themselves cannot carry.
    gain: Option<Gain>,
    /// How much was given out, in 48 kHz ticks.
    ticks: u64,
}

/// An identification header (RFC 7845, 5.1).
struct Head {
    channels: u32,
    pre_skip: u32,
    /// In 1/256 dB.
    gain: i16,
}

impl Head {
    fn parse(head: &[u8]) -> Result<Self, String> {
        let field = |at: usize| head.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        let known = head.starts_with(b"OpusHead");
        let (true, Some(&count), Some(skip), Some(gain)) = (known, head.get(9), field(10), field(16)) else {
            return Err("an Ogg file without Opus".into());
        };
        let (family, one_stream) = match head.get(18..) {
            Some([0, ..]) => (0, true),
            // Streams, and how many of them are stereo.
            Some([1, 1, coupled, mapping @ ..]) => (1, *coupled + 1 == count && mapping.is_sorted()),
            Some([family, ..]) => (*family, false),
            _ => return Err("its Opus header is cut off".into()),
        };
        match (family, count) {
            (2.., _) => Err(format!("channel mapping family {family}, of which only 0 and 1 are known")),
            (_, 1 | 2) if one_stream => {
                let (channels, pre_skip) = (count.into(), u16::from_le_bytes(skip).into());
                Ok(Head { channels, pre_skip, gain: i16::from_le_bytes(gain) })
            }
            (_, 1 | 2) => Err("channels in streams of their own".into()),
            _ => Err(format!("{count} channels, of which only 1 or 2 are carried")),
        }
    }
}

/// Makes packets louder or softer, by decoding them and encoding them again.
struct Gain {
    decoder: OpusDecoder,
    encoder: OpusEncoder,
}

impl Gain {
    fn new(head: &Head, channels: u32) -> Result<Option<Self>, AudioError> {
        if head.gain == 0 {
            return Ok(None);
        }
        let mut decoder = OpusDecoder::new(channels)?;
        decoder.amplify(head.gain)?;
        Ok(Some(Gain { decoder, encoder: OpusEncoder::new(channels, None)? }))
    }

    fn apply(&mut self, packet: &[u8]) -> Result<Vec<u8>, AudioError> {
        self.encoder.encode_all(&self.decoder.decode(packet)?)
    }
}

impl<R: Read> OpusFile<R> {
    /// Reads the two headers. `path` names the file in errors.
    pub fn open(reader: R, path: &str) -> Result<Self, AudioError> {
        let bad = |fault: &str| AudioError::Unsupported { path: path.into(), fault: fault.into() };
        let mut packets = Packets::new(reader);
        let head = packets.next().map_err(AudioError::io(path))?.ok_or_else(|| bad("no Ogg stream"))?;
        let head = Head::parse(&head).map_err(|fault| bad(&fault))?;
        let gain = Gain::new(&head, head.channels)?;
        let delay = gain.as_ref().map_or(0, |gain| gain.encoder.pre_skip);
        let mut file = OpusFile {
            packets,
            path: path.into(),
            channels: head.channels,
            pre_skip: head.pre_skip + delay,
            first_ticks: 0,
            first: None,
            repeated: 0,
            gain,
            ticks: 0,
        };
        // Shows whether there is any sound, before anything is announced.
        file.first = file.next_packet()?;
        file.first_ticks = file.first.as_deref().and_then(packet_ticks).ok_or_else(|| bad("it holds no sound"))?;
        Ok(file)
    }

    /// How many damaged places were left out.
    pub fn damaged(&self) -> u64 {
        self.packets.damage.places()
    }

    /// The next packet; `None` at the end.
    pub fn next_packet(&mut self) -> Result<Option<Vec<u8>>, AudioError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(packet) = self.packets.next().map_err(AudioError::io(&self.path))? {
            // A station begins a new link of the chain with each song, with packets that only prepare the decoder.
            if packet.starts_with(b"OpusHead") || packet.starts_with(b"\x01vorbis") {
                let fault = |fault| AudioError::Unsupported {
                    path: self.path.clone(),
                    fault: format!("it goes on as {fault}"),
                };
                let head = Head::parse(&packet).map_err(fault)?;
                self.repeated = head.pre_skip.into();
                self.gain = Gain::new(&head, self.channels)?;
                continue;
            }
            if packet.starts_with(b"OpusTags") {
                continue;
            }
            // Anything else that is not an Opus packet is damage.
            let Some(ticks) = packet_ticks(&packet) else {
                self.packets.damage.bad();
                continue;
            };
            let packet = match &mut self.gain {
                Some(gain) => gain.apply(&packet).unwrap_or(packet),
                None => packet,
            };
            match self.repeated.checked_sub(ticks) {
                Some(rest) => self.repeated = rest,
                None => {
                    self.ticks += ticks;
                    return Ok(Some(packet));
                }
            }
        }
        if self.packets.torn {
            return Err(AudioError::Cut { path: self.path.clone(), there: ticks::seconds(self.ticks) });
        }
        Ok(None)
    }
}

/// Writes an Ogg/Opus stream.
pub struct OpusWriter<W: Write> {
    writer: PacketWriter<'static, W>,
    serial: u32,
    ticks: u64,
    /// The last packet, held back because the final one carries the end mark.
    held: Option<Vec<u8>>,
}

/// A random serial number, so that recordings can be joined.
fn random_serial() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

impl<W: Write> OpusWriter<W> {
    /// Writes the headers.
    pub fn new(out: W, channels: u32, pre_skip: u32) -> io::Result<Self> {
        Self::link(out, random_serial(), channels, pre_skip)
    }

    fn link(out: W, serial: u32, channels: u32, pre_skip: u32) -> io::Result<Self> {
        let mut writer = PacketWriter::new(out);
        let channels = u8::try_from(channels).unwrap_or(1);
        let skip = u16::try_from(pre_skip).unwrap_or(0).to_le_bytes();
        let head = [b"OpusHead\x01", &[channels][..], &skip, &48_000u32.to_le_bytes(), &[0, 0, 0]].concat();
        writer.write_packet(head, serial, PacketWriteEndInfo::EndPage, 0)?;
        let vendor = b"p2pd";
        let tags = [&b"OpusTags"[..], &4u32.to_le_bytes(), vendor, &0u32.to_le_bytes()].concat();
        writer.write_packet(tags, serial, PacketWriteEndInfo::EndPage, 0)?;
        Ok(OpusWriter { writer, serial, ticks: 0, held: None })
    }

    /// Adds a packet.
    pub fn packet(&mut self, packet: Vec<u8>) -> io::Result<()> {
        let previous = self.held.replace(packet);
        previous.map_or(Ok(()), |packet| self.put(packet, false))
    }

    fn put(&mut self, packet: Vec<u8>, last: bool) -> io::Result<()> {
        self.ticks += packet_ticks(&packet).unwrap_or(0);
        // A page each second, so that a reader of an unfinished file loses little.
        let info = match (last, self.ticks.is_multiple_of(48_000)) {
            (true, _) => PacketWriteEndInfo::EndStream,
            (false, true) => PacketWriteEndInfo::EndPage,
            (false, false) => PacketWriteEndInfo::NormalPacket,
        };
        self.writer.write_packet(packet, self.serial, info, self.ticks)
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.inner_mut()
    }

    /// Writes the end mark and gives back the sink.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(packet) = self.held.take() {
            self.put(packet, true)?;
        }
        self.writer.inner_mut().flush()?;
        Ok(self.writer.into_inner())
    }
}

/// Length of a link, in 48 kHz ticks: a late listener waits at most so long for a header.
const LINK: u64 = 5 * 48_000;
/// Ticks after which a fresh decoder has converged (RFC 7845, 4.6).
const CONVERGENCE: u64 = 3_840;

/// An Ogg/Opus stream that can be joined late: a chain of links, each with its headers. A link begins with the last packets
/// of the one before, which its pre-skip drops, so that the sound has neither hole nor repetition.
pub struct OpusChain {
    link: OpusWriter<Vec<u8>>,
    channels: u32,
    last: VecDeque<Vec<u8>>,
}

impl OpusChain {
    /// Begins the first link.
    pub fn new(channels: u32, pre_skip: u32) -> io::Result<Self> {
        let link = OpusWriter::new(Vec::new(), channels, pre_skip)?;
        Ok(OpusChain { link, channels, last: VecDeque::new() })
    }

    /// Adds a packet. Returns what is now to be sent, often nothing.
    pub fn packet(&mut self, packet: Vec<u8>) -> io::Result<Vec<u8>> {
        let ended = if self.link.ticks >= LINK { self.next_link()? } else { Vec::new() };
        self.last.push_back(packet.clone());
        let heard = |packets: &VecDeque<Vec<u8>>| packets.iter().skip(1).filter_map(|p| packet_ticks(p)).sum::<u64>();
        while heard(&self.last) >= CONVERGENCE {
            self.last.pop_front();
        }
        self.link.packet(packet)?;
        Ok([ended, std::mem::take(self.link.writer.inner_mut())].concat())
    }

    fn next_link(&mut self) -> io::Result<Vec<u8>> {
        let repeated: u64 = self.last.iter().filter_map(|packet| packet_ticks(packet)).sum();
        let serial = self.link.serial.wrapping_add(1);
        let mut next =
            OpusWriter::link(Vec::new(), serial, self.channels, u32::try_from(repeated).unwrap_or(u32::MAX))?;
        self.last.iter().try_for_each(|packet| next.packet(packet.clone()))?;
        std::mem::replace(&mut self.link, next).finish()
    }

    /// What is left, with the end mark.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.link.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FRAME, codec::OpusEncoder};
    use std::io::Cursor;

    #[test]
    fn packets_round_trip_bit_exact() {
        let mut encoder = OpusEncoder::new(2, None).unwrap();
        let packets: Vec<_> = (0..120).map(|n| encoder.encode(&vec![n as f32 / 200.0; FRAME * 2]).unwrap()).collect();
        let mut writer = OpusWriter::new(Vec::new(), 2, encoder.pre_skip).unwrap();
        packets.iter().for_each(|p| writer.packet(p.clone()).unwrap());
        let file = writer.finish().unwrap();
        let mut read = OpusFile::open(Cursor::new(file), "x").unwrap();
        assert_eq!((read.channels, read.pre_skip), (2, encoder.pre_skip));
        for packet in packets {
            assert_eq!(read.next_packet().unwrap(), Some(packet));
        }
        assert_eq!(read.next_packet().unwrap(), None);
    }

    #[test]
    fn a_chain_can_be_joined_at_each_link_and_repeats_nothing() {
        let mut encoder = OpusEncoder::new(1, None).unwrap();
        let packets: Vec<_> = (0..900).map(|n| encoder.encode(&vec![n as f32 / 1000.0; FRAME]).unwrap()).collect();
        let mut chain = OpusChain::new(1, encoder.pre_skip).unwrap();
        let mut sent: Vec<u8> = packets.iter().flat_map(|p| chain.packet(p.clone()).unwrap()).collect();
        sent.extend(chain.finish().unwrap());
        let read = |bytes: &[u8]| {
            let mut file = OpusFile::open(Cursor::new(bytes.to_vec()), "x").unwrap();
            let packets: Vec<_> = std::iter::from_fn(|| file.next_packet().unwrap()).collect();
            (file.pre_skip, packets)
        };
        assert!(read(&sent) == (encoder.pre_skip, packets.clone()));
        let heads: Vec<usize> = (0..sent.len()).filter(|at| sent[*at..].starts_with(b"OpusHead")).collect();
        assert_eq!(heads.len(), 4);
        // The header of a page with one segment has 28 bytes.
        let (pre_skip, joined) = read(&sent[heads[2] - 28..]);
        assert_eq!(pre_skip, 3_840);
        assert!((400..500).contains(&joined.len()) && packets.ends_with(&joined));
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"RIFF....WAVE", &[0; 300]] {
            assert!(OpusFile::open(Cursor::new(bytes.to_vec()), "x").is_err());
        }
    }
}
