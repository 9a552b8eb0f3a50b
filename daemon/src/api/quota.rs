//! What one user may take of the daemon's API: calls a second, calls at once, and bytes of messages that are being read. More calls are refused; a
//! message waits for room, and nothing of it is read meanwhile but what its call's window holds.

mod body;
mod room;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use p2pd_api::{Reason, v1::takes_many};
use p2pd_core::{bucket::Buckets, time::MonoMs};
use tonic::{Code, Status, body::Body};

use self::{body::LimitedBody, room::Rooms};
use super::{caller::Caller, layer::Request, socket::MAX_CONNECTIONS, status};
use crate::systemd::Probe;

/// Calls of one user that are taken in a second, and at once: more than the daemon can answer.
const CALLS: u32 = 100_000;
/// How long a message may take from the room that it got to its last byte.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bounds of all users.
#[derive(Clone)]
pub(super) struct Quota(Arc<Shared>);

struct Shared {
    probe: Probe,
    since: Instant,
    calls: Mutex<Buckets<u32>>,
    rooms: Rooms,
}

impl Quota {
    pub(super) fn new(probe: Probe) -> Self {
        let users = usize::try_from(MAX_CONNECTIONS).unwrap_or(usize::MAX);
        let calls = Mutex::new(Buckets::new(users));
        Quota(Arc::new(Shared { probe, since: Instant::now(), calls, rooms: Rooms::new(users) }))
    }

    /// Lets a request through that the caller's user may make, and bounds how it is read.
    pub(super) fn check(&self, request: Request) -> Result<Request, Status> {
        let caller = Caller::of(request.extensions());
        // Whatever programs of the daemon's own user do, the watchdog is answered.
        if !self.0.probe.is_from(caller.pid) && !self.take_call(caller.uid) {
            let message = format!("this user makes more than {CALLS} calls a second; make fewer");
            return Err(status::status(Code::ResourceExhausted, Reason::LimitReached, message));
        }
        let room = self.0.rooms.of(caller.uid);
        let call = room.call().map_err(|fault| status::status(Code::ResourceExhausted, Reason::LimitReached, fault))?;
        let many = takes_many(request.uri().path());
        Ok(request.map(|body| Body::new(LimitedBody::new(body, (room, call), many, PATIENCE))))
    }

    fn take_call(&self, user: u32) -> bool {
        let now = MonoMs(u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner).take(now, &user, CALLS, CALLS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_calls_without_end_is_refused_and_others_are_not() {
        let quota = Quota::new(Probe::default());
        let refused = (0..100 * CALLS).any(|_| !quota.take_call(1));
        assert!(refused && quota.take_call(2));
    }
}
