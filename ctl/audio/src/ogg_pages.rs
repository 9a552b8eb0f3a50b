//! Reads packets from Ogg pages (RFC 3533). A damaged or missing page loses only its own packets, and a chain may use a
//! serial number twice. The reader of the `ogg` crate fails at both, so we use that crate only for writing.

use std::{
    collections::VecDeque,
    io::{self, Read},
};

use crate::damage::Damage;

/// Bytes of a page before its segment table.
const HEADER: usize = 27;
/// Longest packet, bytes: the tags of a file may hold a cover of some mebibytes.
const LONGEST: usize = 16 << 20;
const CONTINUED: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// The packets of one logical stream after the other.
pub(crate) struct Packets<R> {
    reader: R,
    buffer: Vec<u8>,
    ended: bool,
    ready: VecDeque<Vec<u8>>,
    /// The stream that is read, the number of its next page, and whether its last page has come.
    serial: Option<u32>,
    sequence: u32,
    over: bool,
    /// Whether the bytes end within a page.
    pub(crate) torn: bool,
    pub(crate) damage: Damage,
    /// The beginning of a packet that the next page goes on with.
    partial: Option<Vec<u8>>,
}

impl<R: Read> Packets<R> {
    pub(crate) fn new(reader: R) -> Self {
        let (buffer, ready) = (Vec::new(), VecDeque::new());
        Packets {
            reader,
            buffer,
            ended: false,
            ready,
            serial: None,
            sequence: 0,
            over: false,
            torn: false,
            damage: Damage::default(),
            partial: None,
        }
    }

    /// The next packet; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Ok(Some(packet));
            }
            match self.page()? {
                Some(page) => {
                    let _ = self.take(&page);
                }
                None => return Ok(None),
            }
        }
    }

    /// The next whole page.
    fn page(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let start = self.buffer.windows(4).position(|bytes| bytes == b"OggS");
            // The last bytes may be the beginning of it.
            self.buffer.drain(..start.unwrap_or(self.buffer.len().saturating_sub(3)));
            let length = start.and_then(|_| length(&self.buffer));
            if let Some(page) = length.and_then(|length| self.buffer.get(..length)) {
                if is_whole(page) {
                    let page = page.to_vec();
                    self.buffer.drain(..page.len());
                    self.torn = false;
                    return Ok(Some(page));
                }
                self.buffer.drain(..4);
            } else if self.ended && start.is_some() {
                // It is cut off, or damage has made it longer than it is.
                self.torn = true;
                self.buffer.drain(..4);
            } else if self.ended {
                return Ok(None);
            } else {
                self.read()?;
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut slice = [0; 4096];
        match self.reader.read(&mut slice) {
            Ok(0) => self.ended = true,
            Ok(got) => self.buffer.extend_from_slice(slice.get(..got).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes the packets of a page, if it is of the stream that is read.
    fn take(&mut self, page: &[u8]) -> Option<()> {
        let number = |at: usize| Some(u32::from_le_bytes(page.get(at..at + 4)?.try_into().ok()?));
        let (flags, serial, sequence) = (*page.get(5)?, number(14)?, number(18)?);
        let segments = page.get(HEADER..HEADER + usize::from(*page.get(26)?))?;
        let mut body = page.get(HEADER + segments.len()..)?;
        if flags & FIRST != 0 {
            // Multiplexed streams are ignored; streams that follow are links of a chain.
            if self.serial.is_some() && !self.over && !body.starts_with(b"OpusHead") {
                return None;
            }
            (self.serial, self.sequence, self.partial) = (Some(serial), sequence, None);
        }
        if self.serial != Some(serial) {
            return None;
        }
        if sequence != self.sequence {
            self.partial = None;
            self.damage.bad();
        }
        self.damage.good();
        (self.sequence, self.over) = (sequence.wrapping_add(1), flags & LAST != 0);
        let mut packet = if flags & CONTINUED == 0 { Some(Vec::new()) } else { self.partial.take() };
        let mut open = false;
        for segment in segments {
            let (piece, rest) = body.split_at_checked(usize::from(*segment))?;
            body = rest;
            if let Some(packet) = &mut packet {
                packet.extend_from_slice(piece);
            }
            if packet.as_ref().is_some_and(|packet| packet.len() > LONGEST) {
                packet = None;
                self.damage.bad();
            }
            open = *segment == 255;
            if !open {
                // `None` if its beginning was lost, or it was too long.
                self.ready.extend(packet.replace(Vec::new()));
            }
        }
        self.partial = packet.filter(|_| open);
        Some(())
    }
}

/// Length of the page that `bytes` begin with, once its segment table is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let segments = bytes.get(HEADER..HEADER + usize::from(*bytes.get(26)?))?;
    Some(HEADER + segments.len() + segments.iter().map(|segment| usize::from(*segment)).sum::<usize>())
}

/// Whether the checksum of a page is right.
fn is_whole(page: &[u8]) -> bool {
    let said = page.get(22..26).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let sum = page.iter().enumerate().fold(0u32, |sum, (at, byte)| {
        let byte = if (22..26).contains(&at) { 0 } else { *byte };
        let index = (sum >> 24) as u8 ^ byte;
        sum << 8 ^ CRC[usize::from(index)]
    });
    said == Some(sum)
}

/// Polynomial 0x04c11db7, highest bit first.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut sum = (n as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        table[n] = sum;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use ogg::{PacketWriteEndInfo, PacketWriter};

    /// A stream of 40 packets, eight a page, packet `n` of `n` * 40 bytes.
    fn stream(serial: u32) -> Vec<u8> {
        let mut writer = PacketWriter::new(Vec::new());
        for n in 0..40u8 {
            let info = match n {
                39 => PacketWriteEndInfo::EndStream,
                n if n % 8 == 0 => PacketWriteEndInfo::EndPage,
                _ => PacketWriteEndInfo::NormalPacket,
            };
            writer.write_packet(vec![n; usize::from(n) * 40], serial, info, u64::from(n)).unwrap();
        }
        writer.into_inner()
    }

    fn packets(bytes: &[u8]) -> Vec<u8> {
        let mut packets = Packets::new(bytes);
        let mut out = Vec::new();
        while let Some(packet) = packets.next().unwrap() {
            assert!(packet.iter().all(|byte| usize::from(*byte) * 40 == packet.len()), "each whole or not at all");
            out.push(*packet.first().unwrap_or(&0));
        }
        out
    }

    #[test]
    fn damage_costs_the_packets_of_its_page() {
        let whole = stream(1);
        assert_eq!(packets(&whole), (0..40).collect::<Vec<_>>());
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 40].fill(0x55);
        let heard = packets(&damaged);
        assert_eq!(heard.len(), 32, "{heard:?}");
        assert_eq!(packets(&whole[..middle]).len(), 25, "a page that is cut off is no page");
        let holed = [&whole[..300], &whole[middle..]].concat();
        assert!(packets(&holed).ends_with(&[33, 34, 35, 36, 37, 38, 39]));
    }

    #[test]
    fn a_packet_without_an_end_is_given_up() {
        let mut writer = PacketWriter::new(Vec::new());
        writer.write_packet(vec![1; LONGEST + 1], 1, PacketWriteEndInfo::EndPage, 0).unwrap();
        writer.write_packet(vec![2; 80], 1, PacketWriteEndInfo::EndStream, 0).unwrap();
        assert_eq!(packets(&writer.into_inner()), [2]);
    }

    #[test]
    fn a_chain_may_use_one_serial_number_twice() {
        let chain = [stream(1), stream(1), stream(2)].concat();
        assert_eq!(packets(&chain), (0..40).cycle().take(120).collect::<Vec<_>>());
    }
}
