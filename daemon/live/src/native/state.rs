//! A native stream as this peer follows it: which groups it has had, the last seconds of it for those who ask, what is
//! missing, and who to ask for that. Pure: time and peers are arguments.

use std::{cmp::Reverse, collections::HashMap, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use p2pd_core::{
    admission::{Verdict, Window},
    group::{self, Group},
    history::History,
    id::{PeerId, StreamKey},
    repair::Repair,
    time::{MonoMs, UnixMs},
};

use super::fetch::{Request, Response};

/// Milliseconds of audio that a newcomer asks for.
const BURST_MS: u32 = 2_000;
/// Of those who bring most groups first, how many are asked in turn for what is missing.
const ASKED: usize = 3;
/// First deliveries of one peer after which all counts are halved, so that they follow the present.
const MAX_FIRST: u32 = 100;

/// A group that is neither old nor known.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) group: Arc<Group>,
    /// Gossip did not bring it; a peer was asked for it.
    pub(super) repaired: bool,
}

/// Asks a peer for groups.
pub(super) struct Ask {
    pub(super) peer: PeerId,
    pub(super) request: Request,
}

pub(super) struct State {
    key: StreamKey,
    hash: Bytes,
    window: Window,
    history: History,
    repair: Repair,
    /// How often each peer was the first to bring a group.
    first: HashMap<PeerId, u32>,
    turn: usize,
    /// The newest epoch that gossip has brought.
    epoch: u64,
    before: Before,
}

/// How long a follower to ask is waited for.
const FOLLOWER_MS: u64 = 2_000;

/// Whether the groups before the first that gossip brought must still be asked for. A publisher that has just begun sends some
/// before it knows of us, and after it has answered that there are none yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    MissingSince(MonoMs),
    Settled,
}

impl State {
    pub(super) fn new(key: StreamKey) -> Self {
        State {
            hash: group::stream_hash(&key),
            key,
            window: Window::default(),
            history: History::default(),
            repair: Repair::default(),
            first: HashMap::new(),
            turn: 0,
            epoch: 0,
            before: Before::Settled,
        }
    }

    /// Whose it is.
    pub(super) fn publisher(&self) -> &PeerId {
        &self.key.publisher
    }

    /// How peers name this stream when they ask for groups.
    pub(super) fn hash(&self) -> &Bytes {
        &self.hash
    }

    /// Reads a group that its publisher sent by gossip. Its own signature is left for [`State::prove`].
    pub(super) fn gossiped(&mut self, data: Bytes, now: MonoMs, wall: UnixMs) -> Result<Admitted, Verdict> {
        let group = group::read(data, &self.key).map_err(|_| Verdict::Reject("not a group of this stream"))?;
        let (epoch, seq) = (group.body.epoch, group.body.seq);
        let admitted = self.admit(group, now, wall, false)?;
        if epoch > self.epoch {
            let known = self.history.newest().is_some_and(|(of, _)| of == epoch);
            self.before = if seq > 0 && !known { Before::MissingSince(now) } else { Before::Settled };
            self.epoch = epoch;
        }
        Ok(admitted)
    }

    /// Reads a group that a peer had been asked for.
    pub(super) fn fetched(&mut self, signed: Bytes, from: &PeerId, now: MonoMs, wall: UnixMs) -> Option<Admitted> {
        let admitted = self.admit(group::verify(signed, &self.key).ok()?, now, wall, true).ok()?;
        self.keep_from(from, admitted.group.clone(), now);
        Some(admitted)
    }

    /// Admits a group that is neither old nor known.
    fn admit(&mut self, group: Group, now: MonoMs, wall: UnixMs, fetched: bool) -> Result<Admitted, Verdict> {
        let verdict = self.window.admit(wall, &group.body);
        if verdict != Verdict::Accept {
            return Err(verdict);
        }
        let repaired = self.repair.arrived(now, group.body.epoch, group.body.seq, group.body.pts) && fetched;
        Ok(Admitted { group: Arc::new(group), repaired })
    }

    /// Keeps a group if its publisher has signed it.
    pub(super) fn prove(&mut self, group: Arc<Group>, from: &PeerId, now: MonoMs) -> Verdict {
        if group::prove(&group, &self.key.publisher).is_err() {
            return Verdict::Reject("a group not signed by its publisher");
        }
        self.keep_from(from, group, now);
        Verdict::Accept
    }

    fn keep_from(&mut self, from: &PeerId, group: Arc<Group>, now: MonoMs) {
        self.keep(group, now);
        let count = self.first.entry(from.clone()).or_default();
        *count = count.saturating_add(1);
        if *count >= MAX_FIRST {
            self.first.retain(|_, n| {
                *n /= 2;
                *n > 0
            });
        }
    }

    /// Keeps a proven group for those who ask for it.
    pub(super) fn keep(&mut self, group: Arc<Group>, now: MonoMs) {
        self.history.insert(now, group);
    }

    /// The kept groups of the last `ms` milliseconds.
    pub(super) fn recent(&self, ms: u64, now: MonoMs) -> Vec<Arc<Group>> {
        self.history.last(now, ms)
    }

    /// Answers a peer that asks for groups.
    pub(super) fn answer(&self, request: &Request, now: MonoMs) -> Response {
        let groups = if request.last_ms > 0 {
            self.recent(request.last_ms.into(), now)
        } else {
            self.history.range(request.epoch, request.from, request.to)
        };
        let groups = groups.iter().map(|group| group.signed.clone()).collect();
        Response { groups, stream: self.hash.clone() }
    }

    /// Asks a peer for the last seconds, if we have nothing yet.
    pub(super) fn burst(&self, peer: PeerId) -> Option<Ask> {
        self.history.newest().is_none().then(|| self.last_seconds(peer))
    }

    fn last_seconds(&self, peer: PeerId) -> Ask {
        Ask { peer, request: Request { stream: self.hash.clone(), last_ms: BURST_MS, ..Default::default() } }
    }

    /// When [`State::due`] may have something next.
    pub(super) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        if self.before == Before::Settled { self.repair.wake(now) } else { Some(now) }
    }

    /// What to ask for now, and whom of the followers.
    pub(super) fn due(&mut self, followers: Vec<PeerId>, now: MonoMs) -> Vec<Ask> {
        let ranges = self.repair.due(now);
        let missing = self.before != Before::Settled;
        if ranges.is_empty() && !missing {
            return Vec::new();
        }
        let mut best = followers;
        best.sort_by_key(|peer| Reverse(self.first.get(peer).copied().unwrap_or(0)));
        best.truncate(ASKED);
        let before = best.first().filter(|_| missing).map(|peer| self.last_seconds(peer.clone()));
        if let Before::MissingSince(since) = self.before
            && (before.is_some() || now.since(since) >= FOLLOWER_MS)
        {
            self.before = Before::Settled;
        }
        let ask = |(epoch, range): (u64, RangeInclusive<u64>)| {
            self.turn = self.turn.wrapping_add(1);
            let peer = best.get(self.turn.checked_rem(best.len())?)?.clone();
            let (from, to) = range.into_inner();
            Some(Ask { peer, request: Request { stream: self.hash.clone(), last_ms: 0, epoch, from, to } })
        };
        before.into_iter().chain(ranges.into_iter().filter_map(ask)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use p2pd_core::group::GroupBody;

    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_ed25519(&[n + 10; 32])
    }

    #[test]
    fn what_came_before_the_first_group_is_asked_for_once() {
        let signer = SigningKey::from_bytes(&[1; 32]);
        let publisher = PeerId::from_ed25519(signer.verifying_key().as_bytes());
        let key = StreamKey { publisher, stream: "s".parse().unwrap() };
        let (mut stream, follower) = (State::new(key.clone()), peer(9));
        let gossiped = |stream: &mut State, epoch, seq| {
            let body = GroupBody { stream: group::stream_hash(&key), epoch, seq, ..Default::default() };
            let signed = group::sign(body, &signer).signed;
            stream.gossiped(signed, MonoMs(0), UnixMs(0)).unwrap();
        };
        // Again when the publisher begins anew.
        for epoch in [1, 2] {
            gossiped(&mut stream, epoch, 2);
            assert_eq!(stream.wake(MonoMs(0)), Some(MonoMs(0)));
            assert!(stream.due(Vec::new(), MonoMs(0)).is_empty(), "nobody to ask yet");
            let asks = stream.due(vec![follower.clone()], MonoMs(0));
            assert_eq!(
                asks.iter().map(|ask| (ask.peer.clone(), ask.request.last_ms)).collect::<Vec<_>>(),
                [(follower.clone(), BURST_MS)]
            );
            gossiped(&mut stream, epoch, 3);
            assert!(stream.due(vec![follower.clone()], MonoMs(0)).is_empty());
        }
        gossiped(&mut stream, 3, 2);
        assert!(stream.due(Vec::new(), MonoMs(FOLLOWER_MS)).is_empty());
        assert_ne!(stream.wake(MonoMs(FOLLOWER_MS)), Some(MonoMs(FOLLOWER_MS)), "it is not waited for longer");
    }

    #[test]
    fn what_is_missing_is_asked_in_turn_of_the_three_who_bring_most_first() {
        let publisher = PeerId::from_ed25519(&[1; 32]);
        let mut stream = State::new(StreamKey { publisher, stream: "s".parse().unwrap() });
        let peers: Vec<PeerId> = (0..5).map(peer).collect();
        // The peer at 0 brings one group, the next two, and so on; every second number is missing.
        let bringers = peers.iter().enumerate().flat_map(|(n, peer)| vec![peer.clone(); n + 1]);
        let mut seq = 0;
        for peer in bringers {
            let body = GroupBody { epoch: 1, seq, pts: seq * 4_800, ..Default::default() };
            let group = Group { body, signed: Bytes::new() };
            let admitted = stream.admit(group, MonoMs(seq * 100), UnixMs(0), false).unwrap();
            stream.keep_from(&peer, admitted.group, MonoMs(seq * 100));
            seq += 2;
        }
        let asks = stream.due(peers.clone(), MonoMs(seq * 100));
        let asked: Vec<PeerId> = asks.iter().map(|ask| ask.peer.clone()).collect();
        assert!(asked.len() >= 6, "{}", asked.len());
        for (n, peer) in asked.iter().enumerate() {
            assert!(peers[2..].contains(peer));
            assert_eq!(asked.get(n + 3).unwrap_or(peer), peer, "in turn");
        }
        assert!(peers[2..].iter().all(|peer| asked.contains(peer)));
    }
}
