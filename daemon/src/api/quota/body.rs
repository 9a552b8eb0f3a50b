//! The body of a request, of which a message is passed on only once there is room for all of it. gRPC writes a byte and the length
//! before each message, so the length is known from its first bytes. Without this, tonic makes room for every message that begins.
//!
//! The room is free again when the message is whole, since its service has it then. A service that passes it on slowly, such as one
//! that writes to a peer, would else keep the user's other calls waiting. Where a call has one request, its service has it when the
//! body has ended, and the room is free then.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use p2pd_api::Reason;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body};

use super::room::{Call, Claim, LARGEST, Room};
use crate::api::{REQUEST_WINDOW, status};

/// Bytes before each message: whether it is compressed, and its length.
const HEAD: u32 = 5;
/// A message that fits the window of its call is here before anybody could hold it back, so it waits for nothing.
const SMALL: u32 = REQUEST_WINDOW;

/// Where in its messages a body is.
#[derive(Default)]
struct Position {
    /// The newest bytes of a head, and how many of its bytes are known.
    head: u64,
    known: u32,
    /// Bytes until the next head.
    left: usize,
    /// The message is larger than `SMALL`, and not whole yet.
    large: bool,
}

/// What may become of some bytes of a body.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// They may be passed on.
    Pass,
    /// Those before the head of a large message may.
    Large { before: usize, length: u32 },
}

impl Position {
    fn walk(&mut self, bytes: &[u8]) -> Step {
        let (mut at, mut head_at) = (0_usize, 0_usize);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.left > 0 {
                let count = self.left.min(rest.len());
                at = at.saturating_add(count);
                head_at = at;
                self.left = self.left.saturating_sub(count);
                self.large &= self.left > 0;
                continue;
            }
            self.head = self.head << 8 | rest.first().copied().map_or(0, u64::from);
            self.known = self.known.saturating_add(1);
            at = at.saturating_add(1);
            if self.known < HEAD {
                continue;
            }
            let length = u32::try_from(self.head & u64::from(u32::MAX)).unwrap_or(u32::MAX);
            (self.head, self.known) = (0, 0);
            self.left = usize::try_from(length).unwrap_or(usize::MAX);
            // What is larger than any service reads waits for nothing: its head ends the call.
            if length > SMALL && length <= LARGEST {
                self.large = true;
                // The head is passed on with its message.
                self.left = self.left.saturating_add(at.saturating_sub(head_at));
                return Step::Large { before: head_at, length };
            }
            head_at = at;
        }
        Step::Pass
    }
}

/// A large message that is being read.
struct Reading {
    length: u32,
    _claim: Claim,
    whole_by: Pin<Box<Sleep>>,
}

/// Waits for room for a message of this length.
struct Claiming {
    length: u32,
    room: Pin<Box<dyn Future<Output = Claim> + Send>>,
}

/// The body.
pub(super) struct LimitedBody {
    body: Body,
    room: Room,
    patience: Duration,
    position: Position,
    /// What came of the body and was not passed on yet.
    pending: Bytes,
    claim: Option<Claiming>,
    reading: Option<Reading>,
    /// The call may have more than one request.
    many: bool,
    _call: Call,
}

impl LimitedBody {
    /// Of a user's call; a large message may take so long from the room that it got to its last byte.
    pub(super) fn new(body: Body, (room, call): (Room, Call), many: bool, patience: Duration) -> Self {
        let (position, pending) = (Position::default(), Bytes::new());
        LimitedBody { body, room, patience, position, pending, claim: None, reading: None, many, _call: call }
    }

    /// What may be passed on of what is pending; nothing where a large message begins with it.
    fn pass(&mut self) -> Bytes {
        match self.position.walk(&self.pending) {
            Step::Pass => {
                if !self.position.large && self.many {
                    self.reading = None;
                }
                std::mem::take(&mut self.pending)
            }
            Step::Large { before, length } => {
                // One message at a time: waiting for the next with the room of the last could wait for itself.
                self.reading = None;
                self.claim = Some(Claiming { length, room: Box::pin(self.room.clone().claim(length)) });
                self.pending.split_to(before.min(self.pending.len()))
            }
        }
    }
}

fn late(length: u32, patience: Duration) -> Status {
    let seconds = patience.as_secs();
    let message =
        format!("a message of {length} bytes was not whole {seconds} s after it began; send each without a pause");
    status::status(Code::ResourceExhausted, Reason::LimitReached, message)
}

impl http_body::Body for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(Claiming { length, room }) = &mut this.claim {
                let (length, claim) = (*length, ready!(room.as_mut().poll(context)));
                this.claim = None;
                this.reading = Some(Reading { length, _claim: claim, whole_by: Box::pin(sleep(this.patience)) });
            }
            if !this.pending.is_empty() {
                let passed = this.pass();
                if passed.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(passed))));
            }
            let next = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    let Some(reading) = &mut this.reading else { return Poll::Pending };
                    ready!(reading.whole_by.as_mut().poll(context));
                    let length = reading.length;
                    this.reading = None;
                    return Poll::Ready(Some(Err(late(length, this.patience))));
                }
            };
            let end = match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    this.pending = data;
                    continue;
                }
                Some(Ok(Err(trailers))) => Some(Ok(trailers)),
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            this.reading = None;
            return Poll::Ready(end);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use http_body::Body as _;

    use super::{super::room::Rooms, *};

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(bytes.len() + length as usize, 7);
        bytes
    }

    #[test]
    fn large_messages_are_found_however_the_body_is_cut() {
        let lengths = [0, 10, SMALL + 1, 3, SMALL, SMALL + 2, SMALL + 3];
        let whole: Vec<u8> = lengths.into_iter().flat_map(message).collect();
        for cut in [1, 2, 3, 4, 5, 6, 7, 1000, SMALL as usize + 4, SMALL as usize + 7, whole.len()] {
            let (mut position, mut large, mut passed) = (Position::default(), Vec::new(), 0);
            for mut part in whole.chunks(cut) {
                while let Step::Large { before, length } = position.walk(part) {
                    large.push(length);
                    passed += before;
                    part = &part[before..];
                }
                passed += part.len();
            }
            assert_eq!((large, passed), (vec![SMALL + 1, SMALL + 2, SMALL + 3], whole.len()), "cut at {cut}");
            assert!(position.left == 0 && position.known == 0 && !position.large);
        }
    }

    /// A body that has these bytes, then nothing for ever.
    struct Unfinished(Bytes);

    impl http_body::Body for Unfinished {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let bytes = std::mem::take(&mut self.0);
            if bytes.is_empty() { Poll::Pending } else { Poll::Ready(Some(Ok(Frame::data(bytes)))) }
        }
    }

    fn call_of(rooms: &Rooms) -> (Room, Call) {
        (rooms.of(1), rooms.of(1).call().unwrap())
    }

    #[tokio::test]
    async fn a_call_of_one_request_has_room_until_its_body_ends() {
        for (many, free) in [(true, 32), (false, 31)] {
            let rooms = Rooms::new(512);
            let endless = Body::new(Unfinished(message(1 << 20).into()));
            let mut body = LimitedBody::new(endless, call_of(&rooms), many, Duration::from_secs(3600));
            let first = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap().len(), (1 << 20) + 5);
            assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).now_or_never().is_none());
            let left: Vec<_> = std::iter::from_fn(|| rooms.of(1).claim(1 << 20).now_or_never()).collect();
            assert_eq!(left.len(), free);
        }
    }

    #[tokio::test]
    async fn a_message_waits_for_room_and_ends_its_call_when_it_is_not_finished() {
        let rooms = Rooms::new(512);
        let held: Vec<_> = std::iter::from_fn(|| rooms.of(1).claim(4 << 20).now_or_never()).collect();
        let bytes = [message(3), message(1 << 20)].concat();
        let unfinished = Body::new(Unfinished(Bytes::from(bytes).slice(..100_000)));
        let mut body = LimitedBody::new(unfinished, call_of(&rooms), true, Duration::ZERO);
        let mut next = async || poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap();
        assert_eq!(next().await.unwrap().into_data().unwrap().len(), 8, "the small message");
        assert!(next().now_or_never().is_none(), "there is no room");
        drop(held);
        assert_eq!(next().await.unwrap().into_data().unwrap().len(), 99_992);
        let late = next().await.unwrap_err();
        assert_eq!(p2pd_api::reason_of(&late), Some(Reason::LimitReached));
        assert!(late.message().contains("1048576 bytes was not whole"), "{late}");
        drop(body);
        assert!(rooms.of(1).claim(4 << 20).now_or_never().is_some());
    }
}
