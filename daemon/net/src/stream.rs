//! A native stream as this peer follows it: which groups it has had, the last seconds of it for those who ask, what is
//! missing, and who to ask for that.

use std::{cmp::Reverse, collections::HashMap, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use libp2p::PeerId;
use p2pd_core::{
    admission::{Verdict, Window},
    group::{self, Group},
    history::History,
    id::StreamKey,
    repair::Repair,
    time::{MonoMs, UnixMs},
};

use crate::{event::Incoming, fetch};

/// Milliseconds of audio that a newcomer asks for.
const BURST_MS: u32 = 2_000;
/// Of those who bring most groups first, how many are asked in turn for what is missing.
const ASKED: usize = 3;
/// First deliveries of one peer after which all counts are halved, so that they follow the present.
const MAX_FIRST: u32 = 100;

/// Asks a peer for groups.
pub(crate) struct Ask {
    pub(crate) peer: PeerId,
    pub(crate) request: fetch::Request,
}

pub(crate) struct Stream {
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

impl Stream {
    pub(crate) fn new(key: StreamKey) -> Self {
        Stream {
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

    /// Whether peers name this stream so when they ask for groups.
    pub(crate) fn is(&self, hash: &Bytes) -> bool {
        self.hash == *hash
    }

    /// Reads a group that its publisher sent by gossip. Its own signature is left for [`Stream::prove`].
    pub(crate) fn gossiped(
        &mut self,
        data: Bytes,
        now: MonoMs,
        wall: UnixMs,
    ) -> Result<(Arc<Group>, Incoming), Verdict> {
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
    pub(crate) fn fetched(&mut self, signed: Bytes, from: PeerId, now: MonoMs, wall: UnixMs) -> Option<Incoming> {
        let (group, incoming) = self.admit(group::verify(signed, &self.key).ok()?, now, wall, true).ok()?;
        self.keep_from(from, group, now);
        Some(incoming)
    }

    /// Admits a group that is neither old nor known.
    fn admit(
        &mut self,
        group: Group,
        now: MonoMs,
        wall: UnixMs,
        fetched: bool,
    ) -> Result<(Arc<Group>, Incoming), Verdict> {
        let verdict = self.window.admit(wall, &group.body);
        if verdict != Verdict::Accept {
            return Err(verdict);
        }
        let repaired = self.repair.arrived(now, group.body.epoch, group.body.seq, group.body.pts) && fetched;
        let group = Arc::new(group);
        Ok((group.clone(), Incoming::Group { key: self.key.clone(), group, repaired }))
    }

    /// Keeps a group if its publisher has signed it.
    pub(crate) fn prove(&mut self, group: Arc<Group>, from: PeerId, now: MonoMs) -> Verdict {
        if group::prove(&group, &self.key.publisher).is_err() {
            return Verdict::Reject("a group not signed by its publisher");
        }
        self.keep_from(from, group, now);
        Verdict::Accept
    }

    fn keep_from(&mut self, from: PeerId, group: Arc<Group>, now: MonoMs) {
        self.keep(group, now);
        let count = self.first.entry(from).or_default();
        *count = count.saturating_add(1);
        if *count >= MAX_FIRST {
            self.first.retain(|_, n| {
                *n /= 2;
                *n > 0
            });
        }
    }

    /// Keeps a proven group for those who ask for it.
    pub(crate) fn keep(&mut self, group: Arc<Group>, now: MonoMs) {
        self.history.insert(now, group);
    }

    /// The kept groups of the last `ms` milliseconds.
    pub(crate) fn recent(&self, ms: u64, now: MonoMs) -> Vec<Arc<Group>> {
        self.history.last(now, ms)
    }

    /// Answers a peer that asks for groups.
    pub(crate) fn answer(&self, request: &fetch::Request, now: MonoMs) -> fetch::Response {
        let groups = if request.last_ms > 0 {
            self.recent(request.last_ms.into(), now)
        } else {
            self.history.range(request.epoch, request.from, request.to)
        };
        let groups = groups.iter().map(|group| group.signed.clone()).collect();
        fetch::Response { groups, stream: self.hash.clone() }
    }

    /// Asks a peer for the last seconds, if we have nothing yet.
    pub(crate) fn burst(&self, peer: PeerId) -> Option<Ask> {
        self.history.newest().is_none().then(|| self.last_seconds(peer))
    }

    fn last_seconds(&self, peer: PeerId) -> Ask {
        Ask { peer, request: fetch::Request { stream: self.hash.clone(), last_ms: BURST_MS, ..Default::default() } }
    }

    /// When [`Stream::due`] may have something next.
    pub(crate) fn wake(&self, now: MonoMs) -> Option<MonoMs> {
        if self.before == Before::Settled { self.repair.wake(now) } else { Some(now) }
    }

    /// What to ask for now, and whom of the followers.
    pub(crate) fn due(&mut self, followers: impl Fn() -> Vec<PeerId>, now: MonoMs) -> Vec<Ask> {
        let ranges = self.repair.due(now);
        let missing = self.before != Before::Settled;
        if ranges.is_empty() && !missing {
            return Vec::new();
        }
        let mut best = followers();
        best.sort_by_key(|peer| Reverse(self.first.get(peer).copied().unwrap_or(0)));
        best.truncate(ASKED);
        let before = best.first().filter(|_| missing).map(|peer| self.last_seconds(*peer));
        if let Before::MissingSince(since) = self.before
            && (before.is_some() || now.since(since) >= FOLLOWER_MS)
        {
            self.before = Before::Settled;
        }
        let ask = |(epoch, range): (u64, RangeInclusive<u64>)| {
            self.turn = self.turn.wrapping_add(1);
            let peer = *best.get(self.turn.checked_rem(best.len())?)?;
            let (from, to) = range.into_inner();
            Some(Ask { peer, request: fetch::Request { stream: self.hash.clone(), last_ms: 0, epoch, from, to } })
        };
        before.into_iter().chain(ranges.into_iter().filter_map(ask)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use p2pd_core::{group::GroupBody, id};

    use super::*;

    #[test]
    fn what_came_before_the_first_group_is_asked_for_once() {
        let signer = SigningKey::from_bytes(&[1; 32]);
        let publisher = id::PeerId::from_ed25519(signer.verifying_key().as_bytes());
        let key = StreamKey { publisher, stream: "s".parse().unwrap() };
        let (mut stream, follower) = (Stream::new(key.clone()), PeerId::random());
        let gossiped = |stream: &mut Stream, epoch, seq| {
            let body = GroupBody { stream: group::stream_hash(&key), epoch, seq, ..Default::default() };
            let signed = group::sign(body, &signer).signed;
            stream.gossiped(signed, MonoMs(0), UnixMs(0)).unwrap();
        };
        // Again when the publisher begins anew.
        for epoch in [1, 2] {
            gossiped(&mut stream, epoch, 2);
            assert_eq!(stream.wake(MonoMs(0)), Some(MonoMs(0)));
            assert!(stream.due(Vec::new, MonoMs(0)).is_empty(), "nobody to ask yet");
            let asks = stream.due(|| vec![follower], MonoMs(0));
            assert_eq!(
                asks.iter().map(|ask| (ask.peer, ask.request.last_ms)).collect::<Vec<_>>(),
                [(follower, BURST_MS)]
            );
            gossiped(&mut stream, epoch, 3);
            assert!(stream.due(|| vec![follower], MonoMs(0)).is_empty());
        }
        gossiped(&mut stream, 3, 2);
        assert!(stream.due(Vec::new, MonoMs(FOLLOWER_MS)).is_empty());
        assert_ne!(stream.wake(MonoMs(FOLLOWER_MS)), Some(MonoMs(FOLLOWER_MS)), "it is not waited for longer");
    }

    #[test]
    fn what_is_missing_is_asked_in_turn_of_the_three_who_bring_most_first() {
        let publisher = id::PeerId::from_ed25519(&[1; 32]);
        let mut stream = Stream::new(StreamKey { publisher, stream: "s".parse().unwrap() });
        let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        // The peer at 0 brings one group, the next two, and so on; every second number is missing.
        let bringers = peers.iter().enumerate().flat_map(|(n, peer)| vec![*peer; n + 1]);
        let mut seq = 0;
        for peer in bringers {
            let body = GroupBody { epoch: 1, seq, pts: seq * 4_800, ..Default::default() };
            let group = Group { body, signed: Bytes::new() };
            let (group, _) = stream.admit(group, MonoMs(seq * 100), UnixMs(0), false).unwrap();
            stream.keep_from(peer, group, MonoMs(seq * 100));
            seq += 2;
        }
        let asks = stream.due(|| peers.clone(), MonoMs(seq * 100));
        let asked: Vec<PeerId> = asks.iter().map(|ask| ask.peer).collect();
        assert!(asked.len() >= 6, "{}", asked.len());
        for (n, peer) in asked.iter().enumerate() {
            assert!(peers[2..].contains(peer));
            assert_eq!(asked.get(n + 3).unwrap_or(peer), peer, "in turn");
        }
        assert!(peers[2..].iter().all(|peer| asked.contains(peer)));
    }
}
