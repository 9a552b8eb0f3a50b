//! Protocols that parts of this daemon speak. Each is reserved at the start, with what it carries and how many of its streams peers may
//! have open; no program may speak it then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use p2pd_core::id::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Names that only the daemon and libp2p speak, whether or not anybody has reserved them.
const OWN: [&str; 7] = ["/p2pd/", "/meshsub/", "/floodsub/", "/ipfs/id/", "/ipfs/ping/", "/ipfs/kad/", "/libp2p/"];

/// Whether a protocol is one that the daemon speaks itself, whatever it is set to.
pub fn is_own(protocol: &str) -> bool {
    OWN.iter().any(|own| protocol.starts_with(own))
}

/// What the streams of a protocol carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Sound, and what brings it in time.
    Live,
    /// What people and programs say to each other. A peer with which such a stream is open is among the last to be let go of.
    Messages,
    /// What can be had again, and from others.
    Bulk,
}

/// A protocol that a part of this daemon speaks.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    /// Its name.
    pub protocol: &'static str,
    /// What its streams carry.
    pub class: Class,
    /// Streams that peers may have open; those beyond wait for their turn, 64 of them.
    pub most: usize,
    /// Those of one peer; what it opens beyond is reset.
    pub of_peer: usize,
}

/// The reserved protocols.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved(Arc<RwLock<HashMap<String, Class>>>);

impl Reserved {
    pub(crate) fn add(&self, protocol: &str, class: Class) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(protocol.to_owned(), class);
    }

    fn class(&self, protocol: &str) -> Option<Class> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(protocol).copied()
    }

    /// Whether no program may speak it.
    pub(crate) fn contains(&self, protocol: &str) -> bool {
        is_own(protocol) || self.class(protocol).is_some()
    }

    /// Whether a peer is kept for a stream of it.
    pub(crate) fn is_kept_for(&self, protocol: &str) -> bool {
        match self.class(protocol) {
            Some(class) => class == Class::Messages,
            None => !is_own(protocol),
        }
    }
}

/// Room for the streams of a reserved protocol.
pub(super) struct Slots {
    room: Arc<Semaphore>,
    of_peer: usize,
    open: Arc<Mutex<HashMap<PeerId, usize>>>,
}

impl Slots {
    pub(super) fn new(reservation: &Reservation) -> Self {
        let room = Arc::new(Semaphore::new(reservation.most));
        Slots { room, of_peer: reservation.of_peer, open: Arc::default() }
    }

    /// Waits until one more stream may be open.
    pub(super) async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.room.clone().acquire_owned().await.ok()
    }

    /// A slot for a peer's stream; `None` where it has as many as it may.
    pub(super) fn take(&self, peer: &PeerId, place: OwnedSemaphorePermit) -> Option<Slot> {
        let mut open = lock(&self.open);
        let count = open.entry(peer.clone()).or_default();
        if *count >= self.of_peer {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Slot { open: self.open.clone(), peer: peer.clone(), _place: place })
    }
}

/// The place of an open stream, until dropped.
pub(super) struct Slot {
    open: Arc<Mutex<HashMap<PeerId, usize>>>,
    peer: PeerId,
    _place: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if let Some(count) = open.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

fn lock(open: &Mutex<HashMap<PeerId, usize>>) -> MutexGuard<'_, HashMap<PeerId, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GROUPS: Reservation = Reservation { protocol: "/groups/1", class: Class::Live, most: 3, of_peer: 2 };

    #[tokio::test]
    async fn a_peer_has_its_share_and_others_wait_for_their_turn() {
        let slots = Slots::new(&GROUPS);
        let [greedy, other] = [1, 2].map(|n| PeerId::from_ed25519(&[n; 32]));
        let take = async |peer| slots.take(peer, slots.wait().await.unwrap());
        let mut held: Vec<_> = vec![take(&greedy).await.unwrap(), take(&greedy).await.unwrap()];
        assert!(take(&greedy).await.is_none(), "it has its share");
        held.push(take(&other).await.unwrap());
        let patience = Duration::from_millis(10);
        assert!(tokio::time::timeout(patience, slots.wait()).await.is_err(), "as many are open as may be");
        held.remove(0);
        held.push(take(&greedy).await.unwrap());
        held.clear();
        assert!(lock(&slots.open).is_empty());
    }

    #[test]
    fn a_reserved_protocol_is_no_programs_and_its_class_says_who_is_kept_for_it() {
        let reserved = Reserved::default();
        for (name, class) in [("/a/1", Class::Live), ("/b/1", Class::Messages), ("/c/1", Class::Bulk)] {
            assert!(!reserved.contains(name) && reserved.is_kept_for(name), "a program's");
            reserved.add(name, class);
            assert!(reserved.contains(name));
            assert_eq!(reserved.is_kept_for(name), class == Class::Messages, "{name}");
        }
        assert!(reserved.contains("/meshsub/9.0.0") && !reserved.is_kept_for("/meshsub/9.0.0"));
        reserved.add("/p2pd/messages/1", Class::Messages);
        assert!(reserved.is_kept_for("/p2pd/messages/1"), "what was reserved goes before the name");
    }
}
