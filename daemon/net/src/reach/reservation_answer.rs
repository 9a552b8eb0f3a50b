//! The answer of a relay to a request for a reservation, as it passes from its stream to the library. It says by the relay's clock when the
//! reservation ends, and the library computes with that: a relay that says the year 584 billion would end the task of the connection with a
//! panic, after which the swarm keeps a dead connection for ever, and a clock here that is twenty minutes slow would have the
//! reservation renewed when it has ended. Here the end becomes one that can be right.

use p2pd_core::time::UnixMs;
use prost::Message;

/// Name of the protocol: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>.
pub(crate) const HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";
/// Where a relay says who has come.
pub(crate) const STOP: &str = "/libp2p/circuit/relay/0.2.0/stop";

/// Largest answer that the library takes.
const MAX_ANSWER: usize = 4096;
/// Bytes of its length.
const MAX_LENGTH: usize = 2;
/// A reservation lasts at least so long, and at most; what go-libp2p and rust-libp2p grant is the second.
const LEAST_S: u64 = 60;
const MOST_S: u64 = 3600;
/// What one is taken to last that ended before it began, by the clock here.
const UNKNOWN_S: u64 = 1800;

/// `HopMessage` of the specification.
#[derive(Clone, PartialEq, Message)]
struct HopMessage {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "2")]
    peer: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    reservation: Option<Reservation>,
    #[prost(bytes = "vec", optional, tag = "4")]
    limit: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "5")]
    status: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Reservation {
    /// Seconds since 1970.
    #[prost(uint64, optional, tag = "1")]
    expire: Option<u64>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    voucher: Option<Vec<u8>>,
}

/// When a reservation ends, in seconds since 1970, that the relay says ends at `said`.
fn end(said: u64, now_s: u64) -> u64 {
    let lasts = match said.checked_sub(now_s) {
        None | Some(0) => UNKNOWN_S,
        Some(lasts) => lasts.clamp(LEAST_S, MOST_S),
    };
    now_s.saturating_add(lasts)
}

/// The answer with an end that can be right; as it came where it is none.
fn corrected(answer: &[u8], now: UnixMs) -> Vec<u8> {
    let Ok(mut message) = HopMessage::decode_length_delimited(answer) else { return answer.to_vec() };
    let Some(reservation) = &mut message.reservation else { return answer.to_vec() };
    reservation.expire = reservation.expire.map(|said| end(said, now.0 / 1000));
    message.encode_length_delimited_to_vec()
}

/// Takes an answer out of the bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    came: Vec<u8>,
    /// What the library is given.
    ready: Vec<u8>,
    is_whole: bool,
}

impl Answer {
    /// How many bytes may be read for it; none once it is whole.
    pub(crate) fn wants(&self) -> usize {
        if self.is_whole { 0 } else { self.missing().unwrap_or(1) }
    }

    /// Bytes that are missing; `None` while its length is not known.
    fn missing(&self) -> Option<usize> {
        let mut came = self.came.as_slice();
        let length = prost::decode_length_delimiter(&mut came).ok()?;
        Some(length.saturating_sub(came.len()))
    }

    /// Takes up what was read; nothing: the stream has ended.
    pub(crate) fn feed(&mut self, bytes: &[u8], now: UnixMs) {
        self.came.extend_from_slice(bytes);
        let no_length = self.missing().is_none() && self.came.len() >= MAX_LENGTH;
        let too_large = self.missing().is_some_and(|missing| missing > MAX_ANSWER);
        if bytes.is_empty() || no_length || too_large {
            // The library says what is wrong with it.
            self.ready = std::mem::take(&mut self.came);
            self.is_whole = true;
        } else if self.missing() == Some(0) {
            self.ready = corrected(&std::mem::take(&mut self.came), now);
            self.is_whole = true;
        }
    }

    /// Hands on what is ready. How many bytes.
    pub(crate) fn give(&mut self, room: &mut [u8]) -> usize {
        let count = self.ready.len().min(room.len());
        for (to, from) in room.iter_mut().zip(self.ready.drain(..count)) {
            *to = from;
        }
        count
    }

    /// Whether everything was handed on, so that the stream is read as it is.
    pub(crate) fn is_over(&self) -> bool {
        self.is_whole && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn answer(expire: u64) -> Vec<u8> {
        let reservation = Reservation { expire: Some(expire), addresses: vec![vec![4; 9]], voucher: Some(vec![7; 99]) };
        let whole = HopMessage {
            kind: Some(2),
            peer: None,
            reservation: Some(reservation),
            limit: Some(vec![8, 1]),
            status: Some(100),
        };
        whole.encode_length_delimited_to_vec()
    }

    /// What the library gets of these bytes, which come in pieces of so many.
    fn through(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let mut answer = Answer::default();
        let (mut got, mut rest, mut room) = (Vec::new(), bytes, [0; 5]);
        loop {
            let count = answer.give(&mut room);
            got.extend_from_slice(&room[..count]);
            if answer.is_over() {
                got.extend_from_slice(rest);
                return got;
            }
            if count == 0 {
                let (piece, after) = rest.split_at(answer.wants().min(pieces).min(rest.len()));
                answer.feed(piece, UnixMs(NOW_S * 1000));
                rest = after;
            }
        }
    }

    #[test]
    fn an_end_that_cannot_be_right_becomes_one_that_can() {
        for (said, becomes) in [
            (NOW_S + 3600, NOW_S + 3600),
            (NOW_S + 90, NOW_S + 90),
            (u64::MAX, NOW_S + 3600),
            (NOW_S + 4800, NOW_S + 3600),
            (NOW_S + 1, NOW_S + 60),
            (NOW_S, NOW_S + 1800),
            (0, NOW_S + 1800),
        ] {
            for pieces in [1, 3, 4096] {
                assert_eq!(through(&answer(said), pieces), answer(becomes), "{said}");
            }
        }
    }

    #[test]
    fn what_follows_the_answer_and_what_is_none_pass_as_they_are() {
        let circuit = HopMessage { kind: Some(2), status: Some(100), limit: Some(vec![8, 1]), ..Default::default() };
        let mut bytes = circuit.encode_length_delimited_to_vec();
        bytes.extend_from_slice(&[200; 40]);
        let too_large = [[255, 255, 3].as_slice(), &[1; 300]].concat();
        let cut_off = &answer(u64::MAX)[..20];
        let nonsense = [[5].as_slice(), &[255; 50]].concat();
        for bytes in [&bytes[..], &too_large, cut_off, &[], &[255, 255, 255, 255], &nonsense] {
            assert_eq!(through(bytes, 7), bytes);
        }
    }
}
