//! Finding peers on the local network by multicast DNS. The library keeps whatever anybody there says, for as long as that says, and one that
//! invents peers would have it grow without bound. So it is let go of for a while where too many are found. Its sockets close once it hears of
//! one peer more.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    PeerId,
    core::transport::ListenerId,
    mdns::{self, tokio::Behaviour},
    swarm::{FromSwarm, ListenAddresses, NetworkBehaviour, NewListenAddr, behaviour::toggle::Toggle},
};
use tokio::time::{Sleep, sleep};

use super::filtered::{Filter, Filtered, Wish};

/// Addresses of peers that are known at once.
const MOST: usize = 256;
/// How long it is off when there are more.
const REST: Duration = Duration::from_secs(600);

pub(crate) type Lan = Filtered<Toggle<Behaviour>, Bounded>;

/// Looks for peers on the local network, if it is wanted.
pub(crate) fn build(own: PeerId, wanted: bool) -> io::Result<Lan> {
    let bounded = Bounded { own, listens: ListenAddresses::default(), rest: None };
    let started = wanted.then(|| bounded.start()).transpose()?;
    Ok(Filtered::new(started.into(), bounded))
}

/// How many it may find.
pub(crate) struct Bounded {
    own: PeerId,
    /// What it tells others.
    listens: ListenAddresses,
    /// It is off until then.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    fn start(&self) -> io::Result<Behaviour> {
        let mut started = Behaviour::new(mdns::Config::default(), self.own)?;
        for addr in self.listens.iter() {
            let listener_id = ListenerId::next();
            started.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
        Ok(started)
    }
}

impl Filter<Toggle<Behaviour>> for Bounded {
    fn tell(&mut self, mdns: &mut Toggle<Behaviour>, event: FromSwarm<'_>) {
        self.listens.on_swarm_event(&event);
        mdns.on_swarm_event(event);
    }

    fn poll(&mut self, mdns: &mut Toggle<Behaviour>, cx: &mut Context<'_>) -> Option<Wish<Toggle<Behaviour>>> {
        let known = mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
        if known > MOST {
            tracing::warn!(
                known,
                "more addresses of peers on the local network than can be; not looking there for ten minutes"
            );
            (*mdns, self.rest) = (None.into(), Some(Box::pin(sleep(REST))));
        }
        while let Some(Poll::Ready(())) = self.rest.as_mut().map(|rest| rest.as_mut().poll(cx)) {
            (*mdns, self.rest) = match self.start() {
                Ok(started) => (Some(started).into(), None),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for peers on the local network");
                    (None.into(), Some(Box::pin(sleep(REST))))
                }
            };
        }
        None
    }
}
