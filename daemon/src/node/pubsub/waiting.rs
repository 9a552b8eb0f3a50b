//! Bytes of programs' messages on their way to the network, from their call to the network's answer: bounded for each user and in all,
//! however many calls bring them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use p2pd_net::Held;
use tokio::sync::Notify;

use crate::node::NodeError;

/// Bytes of one user, and of all.
const OF_USER: usize = 32 << 20;
const OF_ALL: usize = 96 << 20;
/// What a message costs beside its bytes.
const BESIDE: usize = 1024;
/// How long a message waits for room before it is refused: as long as the network holds one back.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Bytes {
    of: HashMap<u32, usize>,
    all: usize,
}

struct Shared {
    bytes: Mutex<Bytes>,
    freed: Notify,
    /// The network's copy of the sum: peers are not let go of for that memory.
    held: Held,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits.
#[derive(Clone)]
pub(in crate::node) struct Waiting(Arc<Shared>);

/// Room that a message takes, until dropped.
pub(crate) struct Room {
    shared: Arc<Shared>,
    user: u32,
    bytes: usize,
}

impl Waiting {
    pub(in crate::node) fn new(held: Held) -> Self {
        Waiting(Arc::new(Shared { bytes: Mutex::default(), freed: Notify::new(), held }))
    }

    /// Takes room for a message of a user, if there is some.
    fn take(&self, user: u32, bytes: usize) -> Result<Room, NodeError> {
        let bytes = bytes.saturating_add(BESIDE);
        let mut taken = self.0.lock();
        let of_user = taken.of.get(&user).copied().unwrap_or_default().saturating_add(bytes);
        let all = taken.all.saturating_add(bytes);
        let mib = |bytes: usize| bytes >> 20;
        if of_user > OF_USER {
            let fault = "MiB of this user's messages wait for the network already; publish again when some have gone";
            return Err(NodeError::Limit(format!("{} {fault}", mib(OF_USER))));
        }
        if all > OF_ALL {
            let fault =
                "MiB of messages of several users wait for the network already; publish again when some have gone";
            return Err(NodeError::Limit(format!("{} {fault}", mib(OF_ALL))));
        }
        taken.all = all;
        taken.of.insert(user, of_user);
        self.0.held.set(all);
        Ok(Room { shared: self.0.clone(), user, bytes })
    }

    /// The same; waits a moment where there is none.
    async fn take_soon(&self, user: u32, bytes: usize) -> Result<Room, NodeError> {
        let soon = async {
            loop {
                let freed = self.0.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Ok(room) = self.take(user, bytes) {
                    return room;
                }
                freed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, soon).await {
            Ok(room) => Ok(room),
            Err(_) => self.take(user, bytes),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.shared.lock();
        taken.all = taken.all.saturating_sub(self.bytes);
        if let Some(of_user) = taken.of.get_mut(&self.user) {
            *of_user = of_user.saturating_sub(self.bytes);
            if *of_user == 0 {
                taken.of.remove(&self.user);
            }
        }
        self.shared.held.set(taken.all);
        drop(taken);
        self.shared.freed.notify_waiters();
    }
}

impl crate::node::Node {
    /// Room for a message of a user, if there is some now.
    pub(crate) fn room_now(&self, user: u32, bytes: usize) -> Result<Room, NodeError> {
        self.0.waiting.take(user, bytes)
    }

    /// Room for a message of a user; waits a moment for it.
    pub(crate) async fn room_soon(&self, user: u32, bytes: usize) -> Result<Room, NodeError> {
        self.0.waiting.take_soon(user, bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_user_takes_a_part_of_the_room_and_has_it_back() {
        let held = Held::default();
        let waiting = Waiting::new(held.clone());
        let mib = (1 << 20) - BESIDE;
        let take = |user| waiting.take(user, mib);
        let mut rooms: Vec<_> = (0..32).map(|_| take(1).unwrap()).collect();
        assert!(matches!(take(1), Err(NodeError::Limit(fault)) if fault.contains("this user")));
        rooms.extend((0..64).map(|n| take(2 + n / 32).unwrap()));
        assert!(matches!(take(9), Err(NodeError::Limit(fault)) if fault.contains("several users")));
        assert_eq!(held.bytes(), 96 << 20);
        assert!(waiting.take_soon(9, mib).await.is_err());
        let (soon, ()) = tokio::join!(waiting.take_soon(1, mib), async { drop(rooms.remove(0)) });
        drop(soon.unwrap());
        drop(rooms);
        assert_eq!((held.bytes(), waiting.0.lock().of.len()), (0, 0));
    }
}
