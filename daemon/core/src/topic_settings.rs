//! What a topic of programs holds its messages to.

use std::ops::RangeInclusive;

use bytes::{Buf, Bytes};

use crate::{time::UnixMs, verdict::Verdict};

/// Largest message that any topic may allow, in bytes: go-libp2p's own bound.
pub const MAX_MESSAGE: u32 = 1024 * 1024;
/// What a topic allows unless it says otherwise, in bytes; leaves room for the envelope in the 64 KiB of most networks.
pub const USUAL_MESSAGE: u32 = 60 * 1024;
/// What a validator may take, in milliseconds; gossipsub forgets a message that was not judged after four seconds.
const JUDGING_MS: RangeInclusive<u64> = 10..=3_000;
/// Seconds that a log may keep its messages: a minute to 30 days.
const KEEP_S: RangeInclusive<u64> = 60..=30 * 86_400;
/// Bytes that a log may hold.
const KEEP_BYTES: RangeInclusive<u64> = 64 * 1024..=1 << 30;

/// Bytes of the time that messages of a topic with an age begin with.
pub const TIME: usize = 8;
/// Milliseconds that a topic may let its messages be old: below a second honest clocks differ, and gossip itself takes so long.
const MAX_AGE_MS: RangeInclusive<u64> = 1_000..=86_400_000;

/// Peers of a topic's mesh; gossipsub recommends 6, and costs each message so many times.
const MESH: RangeInclusive<u64> = 2..=24;

/// How a message is told apart from others, so that each is delivered once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// By its sender's public key and the number that the sender gave it, as js-libp2p has it.
    #[default]
    Key,
    /// Likewise, by the sender's peer id instead of its key, as the specification and go-libp2p have it.
    Sender,
    /// By its bytes: the same ones from two senders are one message.
    Content,
}

/// Settings of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Largest message, in bytes.
    pub max_message: u32,
    /// What makes two messages the same.
    pub identity: Identity,
    /// Whether a message is refused that no validator has judged in time, or at all.
    pub closed: bool,
    /// What a validator may take, in milliseconds.
    pub judging_ms: u32,
    /// How long the log keeps a message, in seconds.
    pub keep_s: u32,
    /// What the log may hold, in bytes.
    pub keep_bytes: u64,
    /// Peers that whole messages are exchanged with.
    pub mesh: u32,
    /// How old a message may be, in milliseconds, by the time that it then begins with; 0: it begins with none.
    pub max_age_ms: u32,
    /// Takes messages without a signature, too.
    pub allow_unsigned: bool,
}

impl Default for TopicSettings {
    fn default() -> Self {
        TopicSettings {
            max_message: USUAL_MESSAGE,
            identity: Identity::Key,
            closed: false,
            judging_ms: 1_000,
            keep_s: 86_400,
            keep_bytes: 64 << 20,
            mesh: 6,
            max_age_ms: 0,
            allow_unsigned: false,
        }
    }
}

impl TopicSettings {
    /// Checks the ranges; the field that is out of its own, and what it takes.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let fields = [
            ("settings.max_message_bytes", self.max_message.into(), 1..=u64::from(MAX_MESSAGE)),
            ("settings.judging_ms", self.judging_ms.into(), JUDGING_MS),
            ("settings.keep_s", self.keep_s.into(), KEEP_S),
            ("settings.keep_bytes", self.keep_bytes, KEEP_BYTES),
            ("settings.mesh", self.mesh.into(), MESH),
        ];
        let age = (self.max_age_ms > 0).then(|| ("settings.max_age_ms", self.max_age_ms.into(), MAX_AGE_MS));
        for (field, value, range) in fields.into_iter().chain(age) {
            if !range.contains(&value) {
                return Err((field, format!("is {value}; takes {} to {}", range.start(), range.end())));
            }
        }
        Ok(())
    }
}

/// A message as it travels on a topic with an age: its time, then the payload.
pub fn dated(data: &[u8], now: UnixMs) -> Vec<u8> {
    [&now.0.to_be_bytes(), data].concat()
}

/// Takes the time off a message, and judges it: too far from now, in either direction, is no fault of whoever passed it on.
pub fn undated(data: &mut Bytes, max_age_ms: u32, now: UnixMs) -> Verdict {
    // Where a neighbour holds the topic to other settings, it passes that on in good faith.
    let Some(time) = data.first_chunk::<TIME>() else {
        return Verdict::Ignore("without the time that it should begin with");
    };
    let apart = u64::from_be_bytes(*time).abs_diff(now.0);
    data.advance(TIME);
    if apart > max_age_ms.into() { Verdict::Ignore("too old, or of the future") } else { Verdict::Accept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_message_is_judged_by_its_own_time() {
        let judge = |now| {
            let mut data = Bytes::from(dated(b"news", UnixMs(10_000)));
            (undated(&mut data, 2_000, UnixMs(now)), data)
        };
        for fine in [8_000, 10_000, 12_000] {
            assert_eq!(judge(fine), (Verdict::Accept, Bytes::from_static(b"news")));
        }
        for bad in [7_999, 12_001] {
            assert!(matches!(judge(bad).0, Verdict::Ignore(_)), "at {bad}");
        }
        assert!(matches!(undated(&mut Bytes::from_static(b"no time"), 2_000, UnixMs(0)), Verdict::Ignore(_)));
    }

    #[test]
    fn ranges_are_held() {
        assert_eq!(TopicSettings::default().check(), Ok(()));
        let bad = TopicSettings { judging_ms: 3_001, ..TopicSettings::default() };
        assert_eq!(bad.check(), Err(("settings.judging_ms", "is 3001; takes 10 to 3000".into())));
        let bad = TopicSettings { max_age_ms: 999, ..TopicSettings::default() };
        assert_eq!(bad.check().unwrap_err().0, "settings.max_age_ms");
        let bad = TopicSettings { max_message: 0, ..TopicSettings::default() };
        assert_eq!(bad.check().unwrap_err().0, "settings.max_message_bytes");
    }

    #[test]
    fn each_range_takes_its_ends_and_nothing_beyond() {
        type Set = fn(&mut TopicSettings, u64);
        let fields: [(&str, Set, u64, u64); 6] = [
            ("settings.max_message_bytes", |s, n| s.max_message = n as u32, 1, 1_048_576),
            ("settings.judging_ms", |s, n| s.judging_ms = n as u32, 10, 3_000),
            ("settings.keep_s", |s, n| s.keep_s = n as u32, 60, 2_592_000),
            ("settings.keep_bytes", |s, n| s.keep_bytes = n, 65_536, 1_073_741_824),
            ("settings.mesh", |s, n| s.mesh = n as u32, 2, 24),
            ("settings.max_age_ms", |s, n| s.max_age_ms = n as u32, 1_000, 86_400_000),
        ];
        for (field, set, least, most) in fields {
            let check = |n| {
                let mut settings = TopicSettings::default();
                set(&mut settings, n);
                settings.check().map_err(|(field, _)| field)
            };
            assert_eq!([check(least), check(most)], [Ok(()); 2], "{field}");
            assert_eq!([check(least - 1), check(most + 1)], [Err(field); 2]);
        }
        assert_eq!(TopicSettings::default().max_message, 61_440);
    }
}
