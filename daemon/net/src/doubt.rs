//! Older connections of a peer that has connected anew. It does that when it has none left, by what it knows: its address has
//! changed, or it was cut off. What gossip writes to the old one would be lost until pings have failed.

use std::collections::HashMap;

use libp2p::swarm::ConnectionId;
use p2pd_core::time::MonoMs;

/// How long an older connection may stay silent, in milliseconds.
const SILENT_MS: u64 = 3_000;

/// What such connections had brought, and when that was.
#[derive(Default)]
pub(crate) struct Doubts(HashMap<ConnectionId, (MonoMs, u64)>);

impl Doubts {
    /// Doubts connections that have brought so many bytes.
    pub(crate) fn doubt(&mut self, connections: impl IntoIterator<Item = (ConnectionId, u64)>, now: MonoMs) {
        for (id, received) in connections {
            self.0.entry(id).or_insert((now, received));
        }
    }

    /// The connections that have brought nothing since; `received` tells what each has brought, while it stands.
    pub(crate) fn silent(&mut self, now: MonoMs, received: impl Fn(ConnectionId) -> Option<u64>) -> Vec<ConnectionId> {
        let due = self.0.extract_if(|_, (since, _)| now.since(*since) >= SILENT_MS);
        due.filter(|(id, (_, before))| received(*id) == Some(*before)).map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_silent_is_given_up() {
        let mut doubts = Doubts::default();
        let id = ConnectionId::new_unchecked;
        doubts.doubt([(id(1), 10), (id(2), 10), (id(3), 10)], MonoMs(0));
        let received =
            |of: ConnectionId| [(id(1), 10), (id(2), 11)].into_iter().find(|(id, _)| *id == of).map(|(_, n)| n);
        assert!(doubts.silent(MonoMs(SILENT_MS - 1), received).is_empty());
        assert_eq!(doubts.silent(MonoMs(SILENT_MS), received), [id(1)], "one has spoken, one is gone");
        assert!(doubts.silent(MonoMs(2 * SILENT_MS), received).is_empty());
    }
}
