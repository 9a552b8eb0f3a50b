//! A stream whose bytes are counted.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Counter, GOSSIPSUB, Meter, Traffic};
use crate::{
    clock,
    reach::reservation_answer::{Answer, HOP},
    streams::reserved::StreamClass,
    swarm::{
        protocol_detect::Sniff,
        shaping::{Turn, Way},
    },
};

/// Bytes of a stream that wait for nothing while its protocol is not known: lazily negotiated, it may carry a whole window before the answer.
const EARLY: usize = 4096;
/// Bytes of an answer that are read at once.
const PIECE: usize = 512;

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A stream whose bytes are counted.
pub(crate) struct MeteredStream<S> {
    inner: S,
    meter: Arc<Meter>,
    inbound: bool,
    /// Until the protocol is known, or cannot be told.
    sniff: Option<Sniff>,
    /// What was carried before that.
    early: Traffic,
    protocol: Option<Arc<Counter>>,
    /// Who waits where bandwidth is short; `None` for what the connection inside it has waited for.
    class: Option<StreamClass>,
    /// When more may be written, and read.
    upload: Turn,
    download: Turn,
    /// The peer sends nothing here. Gossipsub does not read such a stream, and would go on writing to a peer that has ended it.
    one_way: bool,
    /// What a relay answers, until it has passed.
    answer: Option<Answer>,
    /// See [`super::Metered`]; no longer when this side is closed for writing.
    doubtful_end: bool,
    /// Yamux leaves readers and writers waiting when the connection is closed from here.
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> MeteredStream<S> {
    pub(super) fn new(
        inner: S,
        meter: Arc<Meter>,
        inbound: bool,
        doubtful_end: bool,
        closing: CancellationToken,
    ) -> Self {
        MeteredStream {
            inner,
            meter,
            inbound,
            sniff: Some(Sniff::default()),
            early: Traffic::default(),
            protocol: None,
            class: Some(StreamClass::Live),
            upload: Turn::new(Way::Up),
            download: Turn::new(Way::Down),
            one_way: false,
            answer: None,
            doubtful_end,
            closing: Box::pin(closing.cancelled_owned()),
        }
    }

    /// Counts bytes; `answers` tells that they are those of the side that agrees to a protocol.
    fn count(&mut self, traffic: Traffic, bytes: &[u8], answers: bool) {
        self.meter.total.count(traffic);
        if let Some(class) = self.class {
            self.meter.line.carried(Way::Up, class, traffic.sent as usize);
            self.meter.line.carried(Way::Down, class, traffic.received as usize);
        }
        if let Some(protocol) = &self.protocol {
            return protocol.count(traffic);
        }
        self.early.add(traffic);
        if self.early.sent.max(self.early.received) >= EARLY as u64 {
            self.class = Some(StreamClass::Bulk);
        }
        let Some(sniff) = self.sniff.as_mut().filter(|_| answers) else { return };
        match sniff.feed(bytes) {
            Ok(None) => {}
            Ok(Some(name)) => {
                self.one_way = !self.inbound && name.starts_with(GOSSIPSUB);
                self.class = self.meter.class(&name, self.inbound);
                self.answer = (!self.inbound && name == HOP).then(Answer::default);
                let protocol = self.meter.protocol(&name);
                protocol.count(std::mem::take(&mut self.early));
                protocol.side(self.inbound).open();
                (self.sniff, self.protocol) = (None, Some(protocol));
            }
            Err(()) => self.sniff = None,
        }
    }

    /// Notes whether a write was taken.
    fn written<T>(&self, written: Poll<T>) -> Poll<T> {
        if let Some(protocol) = self.protocol.as_ref().filter(|_| !self.inbound) {
            protocol.blocked.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }
}

impl<S> Drop for MeteredStream<S> {
    fn drop(&mut self) {
        self.meter.open(self.inbound).fetch_sub(1, Ordering::Relaxed);
        if let Some(protocol) = &self.protocol {
            protocol.side(self.inbound).open.fetch_sub(1, Ordering::Relaxed);
            protocol.blocked.fetch_and(self.inbound, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MeteredStream<S> {
    /// Bytes that may go at once.
    fn piece(&self, most: usize) -> usize {
        if self.protocol.is_some() || !self.meter.line.is_bounded() { most } else { most.min(EARLY) }
    }

    fn poll_read_in_turn(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = ready!(self.download.poll(&self.meter.line, self.class, cx));
        let most = self.piece(most).min(room.len());
        Pin::new(&mut self.inner).poll_read(cx, room.get_mut(..most).unwrap_or_default())
    }

    fn poll_write_in_turn(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = ready!(self.upload.poll(&self.meter.line, self.class, cx));
        let most = self.piece(most).min(bytes.len());
        Pin::new(&mut self.inner).poll_write(cx, bytes.get(..most).unwrap_or_default())
    }

    /// Reads what the peer has sent.
    fn poll_read_sent(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = match self.poll_read_in_turn(cx, room) {
            Poll::Ready(read) => read?,
            Poll::Pending if self.closing.as_mut().poll(cx).is_ready() => return Poll::Ready(Err(reset())),
            Poll::Pending => return Poll::Pending,
        };
        // After the end of what the peer sends we may still send, unless it has reset the stream. Who reads and who writes is
        // one task, so that this takes no waker away.
        if count == 0 && !room.is_empty() && self.doubtful_end {
            match Pin::new(&mut self.inner).poll_write(cx, &[]) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(reset())),
                // Either the window is full, of a stream that is open, or the connection is too busy to be asked.
                Poll::Pending => drop(ready!(Pin::new(&mut self.inner).poll_flush(cx))),
                Poll::Ready(Ok(_)) => {}
            }
            self.doubtful_end = false;
        }
        let (traffic, answers) = (Traffic { received: count as u64, sent: 0 }, !self.inbound);
        self.count(traffic, room.get(..count).unwrap_or_default(), answers);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        while let Some(answer) = self.answer.as_mut().filter(|answer| !answer.is_over() && !room.is_empty()) {
            let given = answer.give(room);
            if given > 0 {
                return Poll::Ready(Ok(given));
            }
            let (mut piece, wants) = ([0; PIECE], answer.wants());
            let piece = piece.get_mut(..wants.min(PIECE)).unwrap_or_default();
            let count = ready!(self.poll_read_sent(cx, piece))?;
            if let Some(answer) = &mut self.answer {
                answer.feed(piece.get(..count).unwrap_or_default(), clock::wall());
            }
        }
        self.poll_read_sent(cx, room)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_write_in_turn(cx, bytes);
        let count = match self.written(written) {
            Poll::Ready(written) => written?,
            Poll::Pending if self.closing.as_mut().poll(cx).is_ready() => return Poll::Ready(Err(reset())),
            Poll::Pending => return Poll::Pending,
        };
        let (traffic, answers) = (Traffic { received: 0, sent: count as u64 }, self.inbound);
        self.count(traffic, bytes.get(..count).unwrap_or_default(), answers);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if self.one_way
            && let Poll::Ready(Ok(0) | Err(_)) = Pin::new(&mut self.inner).poll_read(cx, &mut [0; 16])
        {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Gossipsub takes the next message for a connection when the last one is flushed.
        if self.one_way && self.meter.gossip_ends.load(Ordering::Relaxed) && matches!(flushed, Poll::Ready(Ok(()))) {
            return Poll::Pending;
        }
        self.written(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.doubtful_end = false;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
