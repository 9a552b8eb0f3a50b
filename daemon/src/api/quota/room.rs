//! Room for messages that are being read: for each user, and for all. Whoever waits longest gets what is free.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one user. The first of them no other user can take: the largest message fits.
const OF_USER: u32 = 32 << 20;
const LEAST: u32 = 4 << 20;
/// The largest message that any service reads.
pub(super) const LARGEST: u32 = LEAST;
/// Calls of one user whose requests have not ended. Each may hold a message, and its window.
const CALLS: usize = 2048;
/// Bytes of all users, beside the least of each.
const OF_ALL: u32 = 96 << 20;

fn semaphore(bytes: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS)))
}

struct User {
    least: Arc<Semaphore>,
    rest: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

/// The room of all users.
pub(super) struct Rooms {
    users: Mutex<HashMap<u32, Weak<User>>>,
    /// From so many users on, those who read nothing are forgotten.
    most: usize,
    all: Arc<Semaphore>,
}

/// The room of one user.
#[derive(Clone)]
pub(super) struct Room {
    user: Arc<User>,
    all: Arc<Semaphore>,
}

/// A call whose requests have not ended, until dropped.
#[expect(dead_code, reason = "held")]
pub(super) struct Call {
    permit: OwnedSemaphorePermit,
    /// Known as long as it has calls.
    user: Arc<User>,
}

/// What a message takes of the room, until dropped. A semaphore that is never closed always gives.
#[expect(dead_code, reason = "held")]
pub(super) struct Claim {
    permits: [Option<OwnedSemaphorePermit>; 2],
    /// Known as long as something is taken of its room.
    user: Arc<User>,
}

impl Rooms {
    pub(super) fn new(most: usize) -> Self {
        Rooms { users: Mutex::default(), most, all: semaphore(OF_ALL) }
    }

    pub(super) fn of(&self, user: u32) -> Room {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.get(&user).and_then(Weak::upgrade) {
            return Room { user: known, all: self.all.clone() };
        }
        if users.len() >= self.most {
            users.retain(|_, user| user.strong_count() > 0);
        }
        let rest = semaphore(OF_USER.saturating_sub(LEAST));
        let new = Arc::new(User { least: semaphore(LEAST), rest, calls: Arc::new(Semaphore::new(CALLS)) });
        users.insert(user, Arc::downgrade(&new));
        Room { user: new, all: self.all.clone() }
    }
}

impl Room {
    /// Counts a call; why not, where the user has too many.
    pub(super) fn call(&self) -> Result<Call, String> {
        let permit = self.user.calls.clone().try_acquire_owned();
        let permit =
            permit.map_err(|_| format!("{CALLS} calls of this user wait for more requests; end some of them"))?;
        Ok(Call { permit, user: self.user.clone() })
    }

    /// Takes so many bytes as soon as they are free, of what is the user's alone or of what all share.
    pub(super) async fn claim(self, bytes: u32) -> Claim {
        // No service reads a message that is larger.
        let bytes = bytes.min(LEAST);
        let User { least, rest, .. } = &*self.user;
        let shared = async {
            let rest = rest.clone().acquire_many_owned(bytes).await.ok();
            [rest, self.all.clone().acquire_many_owned(bytes).await.ok()]
        };
        let permits = tokio::select! {
            biased;
            own = least.clone().acquire_many_owned(bytes) => [own.ok(), None],
            both = shared => both,
        };
        Claim { permits, user: self.user.clone() }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::unconstrained;

    use super::*;

    /// What a user gets of the room at once, a MiB each.
    fn take(rooms: &Rooms, user: u32) -> Vec<Claim> {
        std::iter::from_fn(|| unconstrained(rooms.of(user).claim(1 << 20)).now_or_never()).collect()
    }

    #[tokio::test]
    async fn a_user_waits_for_its_own_room_and_is_not_kept_out_by_others() {
        let rooms = Rooms::new(512);
        let first = take(&rooms, 1);
        assert_eq!(first.len(), 32);
        let mut waits = Box::pin(rooms.of(1).claim(4 << 20));
        assert!((&mut waits).now_or_never().is_none());
        let others: Vec<_> = (2..=5).map(|user| take(&rooms, user)).collect();
        let counts: Vec<_> = others.iter().map(Vec::len).collect();
        assert_eq!(counts, [32, 32, 16, 4], "96 of all, and 4 of each");
        drop(first);
        assert!(waits.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_large_message_is_not_overtaken_by_smaller_ones() {
        let rooms = Rooms::new(512);
        let held = take(&rooms, 1);
        let mut large = Box::pin(rooms.of(1).claim(4 << 20));
        assert!((&mut large).now_or_never().is_none());
        let mut small = Box::pin(rooms.of(1).claim(1 << 20));
        assert!((&mut small).now_or_never().is_none());
        drop(held);
        assert!((&mut large).now_or_never().is_some() && small.now_or_never().is_some());
    }

    #[test]
    fn calls_of_a_user_are_bounded_and_free_again_when_they_end() {
        let rooms = Rooms::new(512);
        let calls: Vec<_> = (0..CALLS).map(|_| rooms.of(1).call().unwrap()).collect();
        assert!(rooms.of(1).call().is_err() && rooms.of(2).call().is_ok());
        drop(calls);
        assert!(rooms.of(1).call().is_ok());
    }

    #[tokio::test]
    async fn users_who_read_nothing_are_forgotten() {
        let rooms = Rooms::new(8);
        for user in 0..1000 {
            drop(rooms.of(user));
        }
        assert!(rooms.users.lock().unwrap().len() <= 8);
    }
}
