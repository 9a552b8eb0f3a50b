//! A connection of which each read is looked at; what is written passes as it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

/// Looks at reads.
pub(crate) trait Watch: Unpin {
    /// What is told of a read that had room for so many bytes.
    fn on_read(&mut self, cx: &mut Context<'_>, room: usize, read: Poll<io::Result<usize>>) -> Poll<io::Result<usize>>;
}

/// The connection.
pub(crate) struct Watched<C, W> {
    inner: C,
    watch: W,
}

impl<C, W> Watched<C, W> {
    pub(super) fn by(watch: W, inner: C) -> Self {
        Watched { inner, watch }
    }
}

impl<C: AsyncRead + Unpin, W: Watch> AsyncRead for Watched<C, W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, room);
        self.watch.on_read(cx, room.len(), read)
    }
}

impl<C: AsyncWrite + Unpin, W: Unpin> AsyncWrite for Watched<C, W> {
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
