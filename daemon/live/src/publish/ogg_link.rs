//! Opus packets as Ogg pages (RFC 7845), nothing decoded: a file of one second after the other. Each can be played without those
//! before it, and all together have neither hole nor repetition: a link begins with the last packets of the one before, which
//! its pre-skip drops.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use ogg::{PacketWriteEndInfo, PacketWriter};

use crate::{group::MAX_FRAME, json_format::MAX_CHUNK};

/// Length of a link, in 48 kHz ticks.
const LINK: u64 = 48_000;
/// Bytes of packets, the repeated ones counted, that end a link before that, so that it fits a message of the old format: a
/// packet more and the pages around all fit, too.
const MAX_BYTES: usize = MAX_CHUNK - MAX_FRAME - 2 * 1024;
/// What a decoder that begins anew needs to hear before it is right (RFC 7845, 4.6), in 48 kHz ticks.
const CONVERGENCE: u64 = 3_840;

#[derive(Clone)]
struct Packet {
    data: Bytes,
    ticks: u64,
}

/// Packets on their way into links.
pub(super) struct Links {
    channels: u8,
    serial: u32,
    /// To drop at the start of the next link, where it repeats nothing.
    pre_skip: u64,
    /// The last packets of the link before.
    repeated: VecDeque<Packet>,
    packets: Vec<Packet>,
}

fn ticks<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> u64 {
    packets.into_iter().map(|packet| packet.ticks).fold(0, u64::saturating_add)
}

fn bytes<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> usize {
    packets.into_iter().map(|packet| packet.data.len()).sum()
}

impl Links {
    /// None yet, of a stream with so many channels that drops so many samples at its start.
    pub(super) fn new(channels: u32, pre_skip: u32, serial: u32) -> Self {
        let channels = u8::try_from(channels).unwrap_or(1);
        Links { channels, serial, pre_skip: pre_skip.into(), repeated: VecDeque::new(), packets: Vec::new() }
    }

    /// Adds a packet that plays for so many ticks of 48 kHz. Returns the link that it fills.
    pub(super) fn packet(&mut self, data: Bytes, ticks_of_it: u64) -> Option<Vec<u8>> {
        self.packets.push(Packet { data, ticks: ticks_of_it });
        let full = bytes(self.repeated.iter().chain(&self.packets)) >= MAX_BYTES;
        if full || ticks(&self.packets) >= LINK { self.close() } else { None }
    }

    /// The link of what is there; `None` if there is nothing.
    pub(super) fn close(&mut self) -> Option<Vec<u8>> {
        // Writing to memory does not fail.
        let link = self.write().ok().filter(|_| !self.packets.is_empty());
        self.serial = self.serial.wrapping_add(1);
        self.skip();
        link
    }

    /// Lets go of what is there, as if it had been sent.
    pub(super) fn skip(&mut self) {
        self.repeated.extend(self.packets.drain(..));
        while ticks(self.repeated.iter().skip(1)) >= CONVERGENCE || bytes(&self.repeated) > MAX_BYTES / 2 {
            self.repeated.pop_front();
        }
    }

    fn write(&self) -> io::Result<Vec<u8>> {
        let mut writer = PacketWriter::new(Vec::new());
        let skip = if self.repeated.is_empty() { self.pre_skip } else { ticks(&self.repeated) };
        let skip = u16::try_from(skip).unwrap_or(u16::MAX).to_le_bytes();
        let head = [b"OpusHead\x01", &[self.channels][..], &skip, &48_000u32.to_le_bytes(), &[0, 0, 0]].concat();
        writer.write_packet(head, self.serial, PacketWriteEndInfo::EndPage, 0)?;
        let tags = [&b"OpusTags"[..], &4u32.to_le_bytes(), b"p2pd", &0u32.to_le_bytes()].concat();
        writer.write_packet(tags, self.serial, PacketWriteEndInfo::EndPage, 0)?;
        let mut at = 0u64;
        let mut packets = self.repeated.iter().chain(&self.packets).peekable();
        while let Some(Packet { data, ticks }) = packets.next() {
            at = at.saturating_add(*ticks);
            let end =
                if packets.peek().is_some() { PacketWriteEndInfo::NormalPacket } else { PacketWriteEndInfo::EndStream };
            writer.write_packet(data.to_vec(), self.serial, end, at)?;
        }
        Ok(writer.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ogg::PacketReader;

    use super::*;

    /// Pre-skip, sound in ticks and packets of a link.
    fn read(link: Vec<u8>) -> (u16, u64, Vec<Vec<u8>>) {
        let mut reader = PacketReader::new(Cursor::new(link));
        let head = reader.read_packet().unwrap().unwrap().data;
        assert!(head.starts_with(b"OpusHead\x01\x02"));
        assert!(reader.read_packet().unwrap().unwrap().data.starts_with(b"OpusTags"));
        let (mut packets, mut end) = (Vec::new(), 0);
        while let Some(packet) = reader.read_packet().unwrap() {
            end = packet.absgp_page();
            packets.push(packet.data);
        }
        (u16::from_le_bytes([head[10], head[11]]), end, packets)
    }

    #[test]
    fn each_link_plays_alone_and_all_repeat_nothing() {
        let mut links = Links::new(2, 312, 7);
        let packet = |n: u8| Bytes::copy_from_slice(&[n; 3]);
        let mut written: Vec<_> = (0..120).filter_map(|n| links.packet(packet(n), 960)).collect();
        written.extend(links.close());
        assert_eq!(links.close(), None, "nothing is left");
        let (mut sound, mut heard) = (0, Vec::new());
        for (n, link) in written.into_iter().enumerate() {
            let (pre_skip, end, packets) = read(link);
            assert_eq!(pre_skip, if n == 0 { 312 } else { 3_840 });
            sound += end - u64::from(pre_skip);
            heard.extend(packets.into_iter().skip(if n == 0 { 0 } else { 4 }));
        }
        assert_eq!((sound, heard.len()), (120 * 960 - 312, 120));
        assert!(heard.iter().enumerate().all(|(n, data)| *data == [n as u8; 3]));
    }

    #[test]
    fn a_link_of_large_packets_is_short_and_one_after_a_pause_begins_right() {
        let large = Bytes::from(vec![1; MAX_FRAME]);
        for ticks_of_it in [120, 960, 5_760] {
            let mut links = Links::new(2, 0, 7);
            let written: Vec<_> = (0..50).filter_map(|_| links.packet(large.clone(), ticks_of_it)).collect();
            assert!(written.len() > 5 && written.iter().all(|link| link.len() <= MAX_CHUNK), "{ticks_of_it}");
        }
        let mut links = Links::new(2, 312, 7);
        for _ in 0..9 {
            links.packet(large.slice(..9), 960);
            links.skip();
        }
        links.packet(large.slice(..9), 960);
        let (pre_skip, end, _) = read(links.close().unwrap());
        assert_eq!((pre_skip, end), (3_840, 4_800));
    }

    #[test]
    fn a_link_ends_after_a_second_or_when_it_is_large() {
        let count = |size: usize, ticks_of_it: u64| {
            let mut links = Links::new(1, 0, 7);
            (1..=1_000).find(|_| links.packet(Bytes::from(vec![1; size]), ticks_of_it).is_some())
        };
        assert_eq!((count(3, 960), count(3, 961), count(3, 48_000)), (Some(50), Some(50), Some(1)));
        // 26,888 bytes: 32 KiB without a largest packet and two for the pages.
        assert_eq!((count(13_444, 1), count(13_443, 1), count(26_888, 1)), (Some(2), Some(3), Some(1)));
    }

    #[test]
    fn what_is_repeated_is_as_short_as_a_decoder_allows() {
        let mut links = Links::new(1, 0, 7);
        let repeated = |links: &Links| links.repeated.iter().map(|packet| packet.data.len()).collect::<Vec<_>>();
        let add = |links: &mut Links, size: usize, ticks_of_it| {
            links.packet(Bytes::from(vec![1; size]), ticks_of_it);
            links.skip();
        };
        for size in 1..=5 {
            add(&mut links, size, 960);
        }
        assert_eq!(repeated(&links), [2, 3, 4, 5], "80 ms");
        add(&mut links, 6, 959);
        assert_eq!(repeated(&links), [2, 3, 4, 5, 6], "without the first they would be too short by a tick");
        // Of large ones no more than half of what a link takes, 13,444 bytes.
        let mut large = Links::new(1, 0, 7);
        for size in [5_000, 5_001, 3_443] {
            add(&mut large, size, 1);
        }
        assert_eq!(repeated(&large), [5_000, 5_001, 3_443]);
        add(&mut large, 1, 1);
        assert_eq!(repeated(&large), [5_001, 3_443, 1]);
    }
}
