//! Ogg/Opus files (RFC 7845): read packet by packet without decoding, written with exact packets.

use std::io::{Read, Seek, Write};

use ogg::{PacketReader, PacketWriteEndInfo, PacketWriter};

use crate::{AudioError, codec::packet_ticks};

/// The packets of an Ogg/Opus file.
pub struct OpusFile<R: Read + Seek> {
    reader: PacketReader<R>,
    path: String,
    /// 1 or 2.
    pub channels: u32,
    /// Samples at 48 kHz to drop at the start.
    pub pre_skip: u32,
    /// How long its first packet plays, in 48 kHz ticks; most files keep to one duration.
    pub first_ticks: u64,
    /// Read when it was opened.
    first: Option<Vec<u8>>,
}

impl<R: Read + Seek> OpusFile<R> {
    /// Reads the two headers. `path` names the file in errors.
    pub fn open(reader: R, path: &str) -> Result<Self, AudioError> {
        let bad = |fault: &str| AudioError::Unsupported { path: path.into(), fault: fault.into() };
        let mut reader = PacketReader::new(reader);
        let head = reader.read_packet().ok().flatten().ok_or_else(|| bad("no Ogg stream"))?.data;
        let (Some(channels), Some(skip)) = (head.get(9), head.get(10..12)) else { return Err(bad("no Opus header")) };
        if !head.starts_with(b"OpusHead") {
            return Err(bad("an Ogg file without Opus"));
        }
        let channels = u32::from(*channels);
        if !(1..=2).contains(&channels) {
            return Err(bad(&format!("{channels} channels, of which only 1 or 2 are carried")));
        }
        let pre_skip = skip.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        let tags = reader.read_packet().ok().flatten().ok_or_else(|| bad("truncated after its header"))?.data;
        if !tags.starts_with(b"OpusTags") {
            return Err(bad("no Opus comment header"));
        }
        let mut file = OpusFile { reader, path: path.into(), channels, pre_skip, first_ticks: 0, first: None };
        // Shows whether there is any sound, before anything is announced.
        file.first = file.next_packet()?;
        file.first_ticks = file.first.as_deref().and_then(packet_ticks).ok_or_else(|| bad("it holds no sound"))?;
        Ok(file)
    }

    /// The next packet; `None` at the end.
    pub fn next_packet(&mut self) -> Result<Option<Vec<u8>>, AudioError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let bad = |fault: String| AudioError::Unsupported { path: self.path.clone(), fault };
        loop {
            let Some(packet) = self.reader.read_packet().map_err(|e| bad(format!("damaged Ogg: {e}")))? else {
                return Ok(None);
            };
            // A station begins a new stream with each song.
            if [b"OpusHead", b"OpusTags"].iter().any(|head| packet.data.starts_with(*head)) {
                continue;
            }
            return match packet_ticks(&packet.data) {
                Some(_) => Ok(Some(packet.data)),
                None => Err(bad("a packet that is not Opus".into())),
            };
        }
    }
}

/// Writes an Ogg/Opus stream.
pub struct OpusWriter<W: Write> {
    writer: PacketWriter<'static, W>,
    ticks: u64,
    /// Held back, since the last packet carries the end mark.
    held: Option<Vec<u8>>,
}

const SERIAL: u32 = 0x7032_7064;

impl<W: Write> OpusWriter<W> {
    /// Writes the headers.
    pub fn new(out: W, channels: u32, pre_skip: u32) -> std::io::Result<Self> {
        let mut writer = PacketWriter::new(out);
        let channels = u8::try_from(channels).unwrap_or(1);
        let skip = u16::try_from(pre_skip).unwrap_or(0).to_le_bytes();
        let head = [b"OpusHead\x01", &[channels][..], &skip, &48_000u32.to_le_bytes(), &[0, 0, 0]].concat();
        writer.write_packet(head, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        let vendor = b"p2pd";
        let tags = [&b"OpusTags"[..], &4u32.to_le_bytes(), vendor, &0u32.to_le_bytes()].concat();
        writer.write_packet(tags, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        Ok(OpusWriter { writer, ticks: 0, held: None })
    }

    /// Adds a packet.
    pub fn packet(&mut self, packet: Vec<u8>) -> std::io::Result<()> {
        let previous = self.held.replace(packet);
        previous.map_or(Ok(()), |packet| self.put(packet, false))
    }

    fn put(&mut self, packet: Vec<u8>, last: bool) -> std::io::Result<()> {
        self.ticks += packet_ticks(&packet).unwrap_or(0);
        // A page each second, so that a reader of an unfinished file loses little.
        let info = match (last, self.ticks.is_multiple_of(48_000)) {
            (true, _) => PacketWriteEndInfo::EndStream,
            (false, true) => PacketWriteEndInfo::EndPage,
            (false, false) => PacketWriteEndInfo::NormalPacket,
        };
        self.writer.write_packet(packet, SERIAL, info, self.ticks)
    }

    /// Writes the end mark and gives back the sink.
    pub fn finish(mut self) -> std::io::Result<W> {
        if let Some(packet) = self.held.take() {
            self.put(packet, true)?;
        }
        self.writer.inner_mut().flush()?;
        Ok(self.writer.into_inner())
    }

    /// What was written so far, for a sink that is a buffer.
    pub fn sink(&mut self) -> &mut W {
        self.writer.inner_mut()
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
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"RIFF....WAVE", &[0; 300]] {
            assert!(OpusFile::open(Cursor::new(bytes.to_vec()), "x").is_err());
        }
    }
}
