//! A connection that ends while both sides still agree on how to use it. The library takes that for having nothing in common,
//! as when a dial to several addresses leaves one of many. Read as a break it is told apart: after a refusal, and only then, the
//! library takes a break for that, too.

use std::{
    io,
    task::{Context, Poll, ready},
};

use super::watched::{Watch, Watched};

/// So many bytes of the peer are those of agreeing, or of the handshake behind that.
const EARLY: usize = 192;

/// A connection, or what has been made of it.
pub(crate) type Early<C> = Watched<C, EarlyEnd>;

/// How many bytes have come.
pub(crate) struct EarlyEnd(usize);

impl<C> Early<C> {
    pub(crate) fn new(inner: C) -> Self {
        Watched::by(EarlyEnd(0), inner)
    }

    /// One whose end is read as it is. Of a muxer that we propose lazily, the peer's refusal may be lost in its hanging up.
    pub(crate) fn late(inner: C) -> Self {
        Watched::by(EarlyEnd(usize::MAX), inner)
    }
}

impl Watch for EarlyEnd {
    fn on_read(&mut self, _: &mut Context<'_>, room: usize, read: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let early = self.0 <= EARLY;
        Poll::Ready(match ready!(read) {
            Ok(0) if early && room > 0 => Err(UnexpectedEof.into()),
            Err(error) if early && matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => {
                Err(UnexpectedEof.into())
            }
            Ok(count) => {
                self.0 = self.0.saturating_add(count);
                Ok(count)
            }
            Err(error) => Err(error),
        })
    }
}
