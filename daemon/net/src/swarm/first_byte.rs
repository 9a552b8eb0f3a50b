//! A socket whose peer has to say something soon. Whoever has dialled speaks first, so that one who is silent for three seconds
//! only takes a place among the connections in the making.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use super::watched::{Watch, Watched};

const FIRST_WORD: Duration = Duration::from_secs(3);

/// The socket.
pub(crate) type Prompt<C> = Watched<C, FirstByte>;

/// Until when the first word has to come, as long as it has not.
pub(crate) struct FirstByte(Option<Pin<Box<Sleep>>>);

impl<C> Prompt<C> {
    /// A socket; `inbound`: the peer has dialled.
    pub(crate) fn new(inner: C, inbound: bool) -> Self {
        Prompt::within(inner, inbound.then_some(FIRST_WORD))
    }

    fn within(inner: C, time: Option<Duration>) -> Self {
        Watched::by(FirstByte(time.map(|time| Box::pin(sleep(time)))), inner)
    }
}

impl Watch for FirstByte {
    fn on_read(&mut self, cx: &mut Context<'_>, _: usize, read: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(deadline) if read.is_pending() => {
                deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => {
                self.0 = None;
                read
            }
        }
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
