//! A transport that dials no address that a rule denies. It stands below the resolver, so that a name is judged by where it
//! leads.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
};

use crate::peers::connection_gater::{DENIED, Refused, SharedRules};

pub(crate) struct Guarded<O> {
    inner: Boxed<O>,
    rules: SharedRules,
}

impl<O> Guarded<O> {
    pub(crate) fn new<T>(inner: T, rules: &SharedRules) -> Self
    where
        T: Transport<Output = O, Error: Send + Sync, ListenerUpgrade: Send, Dial: Send> + Send + Unpin + 'static,
    {
        Guarded { inner: inner.boxed(), rules: rules.clone() }
    }
}

impl<O> Transport for Guarded<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<O> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<O> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if self.rules.deny_dialling(&address) {
            return Err(TransportError::Other(io::Error::other(Refused(DENIED))));
        }
        self.inner.dial(address, options)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
