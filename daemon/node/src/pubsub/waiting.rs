//! Bytes of programs' messages on their way to the network, from their call to the network's answer: bounded for each user and in all,
//! however many calls bring them. So are those that wait for room there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use p2pd_net::Held;
use tokio::sync::Notify;

use super::{PubSub, PubSubError};

/// Bytes of one user, and of all; of those that wait for room, as many again.
const OF_USER: usize = 32 << 20;
const OF_ALL: usize = 96 << 20;
/// Bytes that each user may have whatever others have, so that three who take all that they may do not lock out a fourth.
const LEAST: usize = 2 << 20;
/// What a message costs beside its bytes.
const BESIDE: usize = 1024;
/// How long a message waits for room before it is refused: as long as the network holds one back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of messages at one stage.
#[derive(Default)]
struct Bytes {
    of: HashMap<u32, usize>,
    all: usize,
}

impl Bytes {
    fn take(&mut self, user: u32, bytes: usize) -> Result<(), PubSubError> {
        let of_user = self.of.get(&user).copied().unwrap_or_default().saturating_add(bytes);
        let all = self.all.saturating_add(bytes);
        let mib = |bytes: usize| bytes >> 20;
        if of_user > OF_USER {
            let fault = "MiB of this user's messages wait for the network already; publish again when some have gone";
            return Err(PubSubError::Limit(format!("{} {fault}", mib(OF_USER))));
        }
        if all > OF_ALL && of_user > LEAST {
            let fault =
                "MiB of messages of several users wait for the network already; publish again when some have gone";
            return Err(PubSubError::Limit(format!("{} {fault}", mib(OF_ALL))));
        }
        self.all = all;
        self.of.insert(user, of_user);
        Ok(())
    }

    fn give_back(&mut self, user: u32, bytes: usize) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(of_user) = self.of.get_mut(&user) {
            *of_user = of_user.saturating_sub(bytes);
            if *of_user == 0 {
                self.of.remove(&user);
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Stage {
    /// Until there is room.
    Before,
    /// Until the network has answered.
    Sending,
}

#[derive(Default)]
struct Stages {
    before: Bytes,
    sending: Bytes,
}

impl Stages {
    fn stage(&mut self, stage: Stage) -> &mut Bytes {
        match stage {
            Stage::Before => &mut self.before,
            Stage::Sending => &mut self.sending,
        }
    }
}

struct Shared {
    stages: Mutex<Stages>,
    freed: Notify,
    /// The network's copy of the sum: peers are not let go of for that memory.
    held: Held,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, stages: &Stages) {
        self.held.set(stages.before.all.saturating_add(stages.sending.all));
    }
}

/// What waits.
pub(super) struct Waiting(Arc<Shared>);

/// Room that a message takes at one stage, until dropped.
pub struct Room {
    shared: Arc<Shared>,
    stage: Stage,
    user: u32,
    bytes: usize,
}

/// A message's room, or its place among those that wait for some.
pub enum RoomSoon {
    /// There is some.
    Now(Room),
    /// Its place.
    Waits(Room),
}

impl Waiting {
    pub(super) fn new(held: Held) -> Self {
        Waiting(Arc::new(Shared { stages: Mutex::default(), freed: Notify::new(), held }))
    }

    /// Takes so many bytes of a user at a stage, if there is room.
    fn take_at(&self, stage: Stage, user: u32, bytes: usize) -> Result<Room, PubSubError> {
        let mut stages = self.0.lock();
        stages.stage(stage).take(user, bytes)?;
        self.0.tell(&stages);
        Ok(Room { shared: self.0.clone(), stage, user, bytes })
    }

    /// Takes room for a message of a user, if there is some.
    fn take(&self, user: u32, bytes: usize) -> Result<Room, PubSubError> {
        self.take_at(Stage::Sending, user, bytes.saturating_add(BESIDE))
    }

    /// The same, or a place to wait for it.
    fn take_soon(&self, user: u32, bytes: usize) -> Result<RoomSoon, PubSubError> {
        if let Ok(room) = self.take(user, bytes) {
            return Ok(RoomSoon::Now(room));
        }
        let place = self.take_at(Stage::Before, user, bytes.saturating_add(BESIDE))?;
        Ok(RoomSoon::Waits(place))
    }
}

impl RoomSoon {
    /// Waits a moment where there is none yet.
    pub async fn room(self) -> Result<Room, PubSubError> {
        let place = match self {
            RoomSoon::Now(room) => return Ok(room),
            RoomSoon::Waits(place) => place,
        };
        let waiting = Waiting(place.shared.clone());
        let take = || waiting.take_at(Stage::Sending, place.user, place.bytes);
        let soon = async {
            loop {
                let freed = waiting.0.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if let Ok(room) = take() {
                    return room;
                }
                freed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, soon).await {
            Ok(room) => Ok(room),
            Err(_) => take(),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut stages = self.shared.lock();
        stages.stage(self.stage).give_back(self.user, self.bytes);
        self.shared.tell(&stages);
        drop(stages);
        if matches!(self.stage, Stage::Sending) {
            self.shared.freed.notify_waiters();
        }
    }
}

impl PubSub {
    /// Room for a message of a user, if there is some now.
    pub fn room_now(&self, user: u32, bytes: usize) -> Result<Room, PubSubError> {
        self.0.waiting.take(user, bytes)
    }

    /// Room for a message of a user, or a place to wait for it.
    pub fn room_soon(&self, user: u32, bytes: usize) -> Result<RoomSoon, PubSubError> {
        self.0.waiting.take_soon(user, bytes)
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
        assert!(matches!(take(1), Err(PubSubError::Limit(fault)) if fault.contains("this user")));
        rooms.extend((0..64).map(|n| take(2 + n / 32).unwrap()));
        assert_eq!(held.bytes(), 96 << 20);
        rooms.extend((0..2).map(|_| take(9).expect("what nobody can take from it")));
        assert!(matches!(take(9), Err(PubSubError::Limit(fault)) if fault.contains("several users")));
        assert_eq!(held.bytes(), 98 << 20);
        assert!(waiting.take_soon(9, mib).unwrap().room().await.is_err());
        let soon = waiting.take_soon(1, mib).unwrap();
        assert_eq!(held.bytes(), 99 << 20, "what waits is held, too");
        let (soon, ()) = tokio::join!(soon.room(), async { drop(rooms.drain(..3)) });
        drop(soon.unwrap());
        drop(rooms);
        assert_eq!(held.bytes(), 0);
        let stages = waiting.0.lock();
        assert_eq!((stages.before.of.len(), stages.sending.of.len()), (0, 0));
    }

    #[test]
    fn what_waits_for_room_has_a_bound_too() {
        let held = Held::default();
        let waiting = Waiting::new(held.clone());
        let mib = (1 << 20) - BESIDE;
        let soon: Vec<_> = (0..64).map(|_| waiting.take_soon(1, mib).unwrap()).collect();
        assert!(matches!(waiting.take_soon(1, mib), Err(PubSubError::Limit(fault)) if fault.contains("this user")));
        assert_eq!(held.bytes(), 64 << 20);
        assert!(waiting.take_soon(2, mib).is_ok());
        drop(soon);
        assert_eq!(held.bytes(), 0);
    }
}
