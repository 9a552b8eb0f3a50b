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
pub enum StreamClass {
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
    pub class: StreamClass,
    /// Streams that peers may have open; those beyond wait for their turn, 64 of them.
    pub most: usize,
    /// Those of one peer; what it opens beyond is reset.
    pub of_peer: usize,
}

/// The reserved protocols.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved(Arc<RwLock<HashMap<String, StreamClass>>>);

impl Reserved {
    pub(crate) fn add(&self, protocol: &str, class: StreamClass) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(protocol.to_owned(), class);
    }

    fn class(&self, protocol: &str) -> Option<StreamClass> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(protocol).copied()
    }

    /// In which class its bytes are. What the library itself says is short, and sound goes over its gossipsub.
    pub(crate) fn traffic(&self, protocol: &str) -> StreamClass {
        let known = if is_own(protocol) { StreamClass::Live } else { StreamClass::Bulk };
        self.class(protocol).unwrap_or(known)
    }

    /// Whether no program may speak it.
    pub(crate) fn contains(&self, protocol: &str) -> bool {
        is_own(protocol) || self.class(protocol).is_some()
    }

    /// Whether a peer is kept for a stream of it.
    pub(crate) fn is_kept_for(&self, protocol: &str) -> bool {
        match self.class(protocol) {
            Some(class) => class == StreamClass::Messages,
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

    /// A share for a peer's stream, which may have to wait for its turn; `None` where the peer has as many as it may.
    pub(super) fn share(&self, peer: &PeerId) -> Option<Share> {
        let mut open = lock(&self.open);
        let count = open.entry(peer.clone()).or_default();
        if *count >= self.of_peer {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Share { open: self.open.clone(), peer: peer.clone() })
    }

    /// Waits until one more stream may be open. Cancel-safe.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.room.clone().acquire_owned().await.ok()
    }
}

/// One of the streams that a peer may have, until dropped.
pub(super) struct Share {
    open: Arc<Mutex<HashMap<PeerId, usize>>>,
    peer: PeerId,
}

impl Drop for Share {
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

    const GROUPS: Reservation = Reservation { protocol: "/groups/1", class: StreamClass::Live, most: 3, of_peer: 2 };

    #[tokio::test]
    async fn a_peer_has_its_share_and_all_take_turns() {
        let slots = Slots::new(&GROUPS);
        let [greedy, other] = [1, 2].map(|n| PeerId::from_ed25519(&[n; 32]));
        let mut shares: Vec<_> = (0..5).filter_map(|_| slots.share(&greedy)).collect();
        assert_eq!(shares.len(), 2, "it has its share");
        shares.extend(slots.share(&other));
        assert_eq!(shares.len(), 3, "another has its own");
        let mut turns = Vec::new();
        for _ in 0..3 {
            turns.push(slots.turn().await);
        }
        let patience = Duration::from_millis(10);
        assert!(tokio::time::timeout(patience, slots.turn()).await.is_err(), "as many are open as may be");
        turns.pop();
        assert!(slots.turn().await.is_some());
        shares.remove(0);
        assert!(slots.share(&greedy).is_some());
        shares.clear();
        assert!(lock(&slots.open).is_empty());
    }

    #[test]
    fn a_reserved_protocol_is_no_programs_and_its_class_says_who_is_kept_for_it() {
        let reserved = Reserved::default();
        for (name, class) in [("/a/1", StreamClass::Live), ("/b/1", StreamClass::Messages), ("/c/1", StreamClass::Bulk)]
        {
            assert!(!reserved.contains(name) && reserved.is_kept_for(name), "a program's");
            reserved.add(name, class);
            assert!(reserved.contains(name));
            assert_eq!(reserved.is_kept_for(name), class == StreamClass::Messages, "{name}");
            assert_eq!(reserved.traffic(name), class);
        }
        let classes = ["/ipfs/ping/1.0.0", "/a-programs/1"].map(|name| reserved.traffic(name));
        assert_eq!(classes, [StreamClass::Live, StreamClass::Bulk]);
        assert!(reserved.contains("/meshsub/9.0.0") && !reserved.is_kept_for("/meshsub/9.0.0"));
        reserved.add("/p2pd/messages/1", StreamClass::Messages);
        assert!(reserved.is_kept_for("/p2pd/messages/1"), "what was reserved goes before the name");
    }
}
