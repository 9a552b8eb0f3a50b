//! What a peer has to share with this daemon to be connected, and how the lack of it shows in the library's errors.

use std::{collections::HashMap, error::Error, io};

use either::Either;
use libp2p::{TransportError, core::upgrade::NegotiationError};
use p2pd_core::time::MonoMs;

use crate::{Event, context::Context};

/// How often it is told what one peer lacks, in milliseconds, and of how many it is remembered.
const TOLD_AGAIN_MS: u64 = 60_000;
const MAX_TOLD: usize = 256;

/// How the text of each begins.
pub const UNSHARED: &str = "it shares no ";

/// What is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unshared {
    #[error("{UNSHARED}transport with this daemon, which has tcp, ws and quic-v1")]
    Transport,
    #[error("{UNSHARED}security with this daemon, which has noise, and over tcp and quic-v1 also tls")]
    Security,
    #[error("{UNSHARED}muxer with this daemon, which has yamux{}", if *mplex { " and mplex" } else { "; network.mplex adds mplex" })]
    Muxer { mplex: bool },
}

/// Whom it was told of lately that they lack something, and when.
#[derive(Default)]
pub(super) struct Incompatibilities(HashMap<String, MonoMs>);

impl Incompatibilities {
    /// Tells what a peer lacks, once a minute. Whether it did.
    pub(super) fn tell(&mut self, context: &mut Context, who: String, lack: Unshared) -> bool {
        let now = context.now();
        self.0.retain(|_, at| now.since(*at) < TOLD_AGAIN_MS);
        let tells = self.0.len() < MAX_TOLD && !self.0.contains_key(&who);
        if tells {
            self.0.insert(who.clone(), now);
            context.tell(Event::Incompatible { who, why: lack.to_string() });
        }
        tells
    }
}

/// The cause of an error. What `io::Error` holds is not its source, but has sources of its own.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// An error and its causes.
pub(crate) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

impl Unshared {
    /// What is not shared, if that is why something failed.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error).find_map(|cause| cause.downcast_ref().copied())
    }

    /// The same of one address that was dialled.
    pub(crate) fn of_transport(fault: &TransportError<io::Error>) -> Option<Self> {
        match fault {
            TransportError::MultiaddrNotSupported(_) => Some(Unshared::Transport),
            TransportError::Other(fault) => Self::of(fault),
        }
    }

    /// Of a connection that was secured: the muxer is agreed on with the first bytes.
    pub(crate) fn muxer(error: &(dyn Error + 'static), mplex: bool) -> Option<Self> {
        nothing_agreed(error).then_some(Unshared::Muxer { mplex })
    }
}

fn nothing_agreed(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(NegotiationError::Failed)))
}

/// Says what both sides could not agree on: of a connection that fails before it is secured, in that, or in being divided.
pub(crate) fn told<A, B, C>(error: Either<Either<A, B>, C>, mplex: bool) -> io::Error
where
    A: Error + Send + Sync + 'static,
    B: Error + Send + Sync + 'static,
    C: Error + Send + Sync + 'static,
{
    let agreed = !nothing_agreed(&error);
    match error {
        Either::Right(_) if !agreed => io::Error::other(Unshared::Muxer { mplex }),
        Either::Left(Either::Right(_)) if !agreed => io::Error::other(Unshared::Security),
        other => io::Error::other(other),
    }
}
