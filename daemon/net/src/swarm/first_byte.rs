//! A socket whose peer has to say something soon. Whoever has dialled speaks first, so that one who is silent for three seconds
//! only takes a place among the connections in the making.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

const FIRST_WORD: Duration = Duration::from_secs(3);

pub(crate) struct Prompt<C> {
    inner: C,
    /// Until the first word.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<C> Prompt<C> {
    /// A socket; `inbound`: the peer has dialled.
    pub(crate) fn new(inner: C, inbound: bool) -> Self {
        Prompt::within(inner, inbound.then_some(FIRST_WORD))
    }

    fn within(inner: C, time: Option<Duration>) -> Self {
        Prompt { inner, deadline: time.map(|time| Box::pin(sleep(time))) }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Prompt<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, room);
        match &mut self.deadline {
            Some(deadline) if read.is_pending() => {
                deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => {
                self.deadline = None;
                read
            }
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Prompt<C> {
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

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn whoever_has_dialled_and_says_nothing_is_given_up() {
        let (inbound, _silent) = tokio::io::duplex(8);
        let mut inbound = Prompt::within(inbound.compat(), Some(SOON));
        let mut room = [0; 1];
        assert_eq!(inbound.read(&mut room).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (inbound, dialler) = tokio::io::duplex(8);
        let (mut inbound, mut dialler) = (Prompt::within(inbound.compat(), Some(SOON)), dialler.compat());
        dialler.write_all(b"!").await.unwrap();
        inbound.read_exact(&mut room).await.unwrap();
        let later = tokio::time::timeout(2 * SOON, inbound.read(&mut room)).await;
        assert!(later.is_err(), "after its first word it may be silent: {later:?}");

        let (outbound, _listener) = tokio::io::duplex(8);
        let mut outbound = Prompt::new(outbound.compat(), false);
        assert!(tokio::time::timeout(2 * SOON, outbound.read(&mut room)).await.is_err());
    }
}
