//! A connection that ends while both sides still agree on how to use it. The library takes that for having nothing in common,
//! as when a dial to several addresses leaves one of many. Read as a break it is told apart: after a refusal, and only then, the
//! library takes a break for that, too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// So many bytes of the peer are those of agreeing, or of the handshake behind that.
const EARLY: usize = 192;

/// A connection, or what has been made of it.
pub(crate) struct Early<C> {
    inner: C,
    received: usize,
}

impl<C> Early<C> {
    pub(crate) fn new(inner: C) -> Self {
        Early { inner, received: 0 }
    }

    /// One whose end is read as it is. Of a muxer that we propose lazily, the peer's refusal may be lost in its hanging up.
    pub(crate) fn late(inner: C) -> Self {
        Early { inner, received: usize::MAX }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Early<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, room));
        let early = self.received <= EARLY;
        Poll::Ready(match read {
            Ok(0) if early && !room.is_empty() => Err(UnexpectedEof.into()),
            Err(error) if early && matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => {
                Err(UnexpectedEof.into())
            }
            Ok(count) => {
                self.received = self.received.saturating_add(count);
                Ok(count)
            }
            Err(error) => Err(error),
        })
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Early<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
