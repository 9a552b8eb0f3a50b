//! Names in addresses, resolved by the nameservers that the machine has when it dials. At boot there may be none yet, and a
//! machine that moves gets others: so the resolver is made when it is first needed, and made anew when the system's file changes, and every half
//! minute: what it keeps, also that a name does not exist, would hold for as long as the zone says.

use std::{
    error::Error,
    fs, io,
    os::unix::fs::MetadataExt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use futures::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, MapErr},
};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
    dns,
    multiaddr::Protocol,
};

use crate::peers::incompatible::{self, Unshared};

/// Where the system names its nameservers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long answers are kept.
const KEPT: Duration = Duration::from_secs(30);

/// A transport that dials names, too.
pub(crate) struct Names<O> {
    inner: Shared<O>,
    resolver: Option<Resolver<O>>,
}

struct Resolver<O> {
    made_of: Option<FileState>,
    made: Instant,
    transport: dns::tokio::Transport<Shared<O>>,
}

/// Tells one state of a file from another.
#[derive(PartialEq, Eq)]
struct FileState {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    fn of(path: &str) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(FileState { inode: found.ino(), bytes: found.len(), modified: found.modified().ok() })
    }
}

impl<O: Send + 'static> Names<O> {
    pub(crate) fn new(inner: Boxed<O>) -> Self {
        Names { inner: Shared(Arc::new(Mutex::new(inner))), resolver: None }
    }

    /// The transport that resolves as the system does now.
    fn resolver(&mut self) -> io::Result<&mut dns::tokio::Transport<Shared<O>>> {
        let now = FileState::of(RESOLV_CONF);
        let resolver = match self.resolver.take_if(|resolver| resolver.made_of == now && resolver.made.elapsed() < KEPT)
        {
            Some(current) => current,
            None => {
                let transport = dns::tokio::Transport::system(self.inner.clone());
                let failed = |e: io::Error| io::Error::other(Unresolved(format!("{RESOLV_CONF}: {e}")));
                Resolver { made_of: now, made: Instant::now(), transport: transport.map_err(failed)? }
            }
        };
        Ok(&mut self.resolver.insert(resolver).transport)
    }
}

/// A name that stands for no address, as far as is known.
#[derive(Debug, thiserror::Error)]
#[error("the name is not resolved: {0}")]
pub(crate) struct Unresolved(String);

impl Unresolved {
    /// Whether that is why a dial failed.
    pub(crate) fn is_cause(error: &(dyn Error + 'static)) -> bool {
        incompatible::causes(error).any(|cause| cause.is::<Unresolved>())
    }
}

/// An error with its cause below it: the layers above this one show what is below an error, and not the error itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Fault(#[source] io::Error);

fn has_name(address: &Multiaddr) -> bool {
    let is_name =
        |part| matches!(part, Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_));
    address.iter().any(is_name)
}

/// Why a dial failed. The resolver, which dials what a name stands for, hides that no transport takes it.
fn fault(error: dns::Error<io::Error>) -> io::Error {
    let unsupported = |error: &_| matches!(error, dns::Error::MultiaddrNotSupported(_));
    match error {
        dns::Error::Transport(error) => error,
        dns::Error::Dial(each) if each.iter().all(unsupported) => io::Error::other(Unshared::Transport),
        dns::Error::ResolveError(error) => io::Error::other(Unresolved(without_question(&error.to_string()))),
        dns::Error::Dial(mut each) if each.len() == 1 => each.pop().map_or(io::ErrorKind::Other.into(), fault),
        other => io::Error::other(other),
    }
}

/// The resolver prints its whole question behind its error; the name stands in the address.
fn without_question(error: &str) -> String {
    error.split(" for Query {").next().unwrap_or_default().to_owned()
}

impl<O: Send + 'static> Transport for Names<O> {
    type Output = O;
    type Error = Fault;
    type ListenerUpgrade = MapErr<<Boxed<O> as Transport>::ListenerUpgrade, fn(io::Error) -> Fault>;
    type Dial = BoxFuture<'static, Result<O, Fault>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Fault>> {
        self.inner.listen_on(id, address).map_err(|error| error.map(Fault))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Fault>> {
        if !has_name(&address) {
            let dial = self.inner.dial(address, options).map_err(|error| error.map(Fault))?;
            return Ok(dial.map_err(Fault).boxed());
        }
        let resolver = self.resolver().map_err(|error| TransportError::Other(Fault(error)))?;
        let dial = resolver.dial(address, options).map_err(|error| error.map(fault).map(Fault))?;
        Ok(dial.map_err(|error| Fault(fault(error))).boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Fault>> {
        let event = Pin::new(&mut self.inner).poll(cx);
        event.map(|event| event.map_upgrade(|upgrade| upgrade.map_err(Fault as fn(_) -> _)).map_err(Fault))
    }
}

/// A transport that every resolver made for it dials with.
struct Shared<O>(Arc<Mutex<Boxed<O>>>);

impl<O> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<O> Shared<O> {
    fn lock(&self) -> MutexGuard<'_, Boxed<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> Transport for Shared<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<O> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<O> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.lock().listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.lock().remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        self.lock().dial(address, options)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut *self.lock()).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use either::Either;

    use super::*;

    #[test]
    fn what_is_not_resolved_is_known_through_all_layers() {
        let fault = Fault(io::Error::other(Unresolved("nobody answers".into())));
        let swarms: Either<io::Error, Fault> = Either::Right(fault);
        assert!(Unresolved::is_cause(&TransportError::Other(io::Error::other(swarms))));
    }
}
