//! A native stream as this peer follows it: which groups it has had, the last seconds of it for those who ask, what is
//! missing, and who to ask for that. Pure: time and peers are arguments.

use std::{cmp::Reverse, collections::HashMap, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use p2pd_core::{
    id::{PeerId, StreamKey},
    time::{MonoMs, UnixMs},
    verdict::Verdict,
};

use super::{
    fetch::{Request, Response},
    history::History,
    missing::Repair,
    window::Window,
};
use crate::group::{self, Group};

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
    use crate::group::GroupBody;
    use ed25519_dalek::SigningKey;

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

    /// A stream, the publisher's key, and groups that it has signed.
    fn stream() -> (State, impl Fn(u64, u64) -> Bytes) {
        let signer = SigningKey::from_bytes(&[1; 32]);
        let publisher = PeerId::from_ed25519(signer.verifying_key().as_bytes());
        let key = StreamKey { publisher, stream: "s".parse().unwrap() };
        let hash = group::stream_hash(&key);
        let signed = move |epoch, seq: u64| {
            let body = GroupBody { stream: hash.clone(), epoch, seq, pts: seq * 4_800, ..Default::default() };
            group::sign(body, &signer).signed
        };
        (State::new(key), signed)
    }

    fn numbers(groups: &[Arc<Group>]) -> Vec<u64> {
        groups.iter().map(|group| group.body.seq).collect()
    }

    #[test]
    fn a_group_enters_once_and_is_kept_when_it_is_proven() {
        let ((mut stream, signed), from, now) = (stream(), peer(1), MonoMs(0));
        let group = stream.gossiped(signed(1, 0), now, UnixMs(0)).unwrap().group;
        assert_eq!(stream.gossiped(signed(1, 0), now, UnixMs(0)).unwrap_err(), Verdict::Ignore("taken before"));
        assert!(matches!(stream.gossiped(Bytes::from_static(b"?"), now, UnixMs(0)), Err(Verdict::Reject(_))));
        let forged = Group { body: group.body.clone(), signed: Bytes::from_static(b"\x0a\0") };
        assert!(matches!(stream.prove(Arc::new(forged), &from, now), Verdict::Reject(_)));
        assert!(stream.recent(1_000, now).is_empty() && stream.first.is_empty());
        assert_eq!(stream.prove(group, &from, now), Verdict::Accept);
        assert_eq!((numbers(&stream.recent(1_000, now)), stream.first.get(&from)), (vec![0], Some(&1)));
    }

    #[test]
    fn only_what_was_asked_for_and_fetched_counts_as_repaired() {
        let ((mut stream, signed), from) = (stream(), peer(1));
        let at = |seq: u64| MonoMs(seq * 100);
        for seq in [0, 4] {
            assert!(!stream.gossiped(signed(1, seq), at(seq), UnixMs(0)).unwrap().repaired);
        }
        assert!(!stream.fetched(signed(1, 1), &from, at(4), UnixMs(0)).unwrap().repaired, "it was not asked for");
        let asks = stream.due(vec![from.clone()], MonoMs(430));
        let asked = asks.iter().map(|ask| (ask.request.epoch, ask.request.from, ask.request.to)).collect::<Vec<_>>();
        assert_eq!(asked, [(1, 2, 3)]);
        assert!(asks.iter().all(|ask| ask.request.stream == *stream.hash() && ask.request.last_ms == 0));
        assert!(!stream.gossiped(signed(1, 2), MonoMs(440), UnixMs(0)).unwrap().repaired, "gossip brought it");
        assert!(stream.fetched(signed(1, 3), &from, MonoMs(440), UnixMs(0)).unwrap().repaired);
        assert!(stream.fetched(signed(1, 3), &from, MonoMs(450), UnixMs(0)).is_none(), "it is known");
        assert_eq!(numbers(&stream.recent(1_000, MonoMs(450))), [1, 3], "what was fetched is proven");
    }

    #[test]
    fn what_a_burst_has_brought_is_not_asked_for_again() {
        let ((mut stream, signed), from, now) = (stream(), peer(1), MonoMs(0));
        let ask = stream.burst(from.clone()).unwrap();
        assert_eq!((ask.peer, ask.request.last_ms, ask.request.stream), (from.clone(), 2_000, stream.hash().clone()));
        stream.fetched(signed(5, 1), &from, now, UnixMs(0)).unwrap();
        assert!(stream.burst(from.clone()).is_none(), "something is there");
        stream.gossiped(signed(5, 2), now, UnixMs(0)).unwrap();
        assert!(stream.due(vec![from.clone()], now).is_empty());
        // Of a newer epoch what came before is asked for, unless it begins with its first group.
        stream.gossiped(signed(6, 1), now, UnixMs(0)).unwrap();
        assert_eq!(stream.due(vec![from.clone()], now).len(), 1);
        stream.gossiped(signed(7, 0), now, UnixMs(0)).unwrap();
        assert!(stream.due(vec![from], now).is_empty());
    }

    #[test]
    fn a_follower_is_waited_for_two_seconds() {
        for (waited, asked) in [(FOLLOWER_MS - 1, 1), (FOLLOWER_MS, 0)] {
            let (mut stream, signed) = stream();
            stream.gossiped(signed(1, 2), MonoMs(0), UnixMs(0)).unwrap();
            let bursts = |asks: Vec<Ask>| asks.iter().filter(|ask| ask.request.last_ms > 0).count();
            assert_eq!(bursts(stream.due(Vec::new(), MonoMs(waited))), 0);
            assert_eq!(bursts(stream.due(vec![peer(1)], MonoMs(waited))), asked, "{waited}");
        }
    }

    #[test]
    fn a_peer_is_answered_by_time_or_by_number() {
        let (mut stream, signed) = stream();
        for seq in 0..5 {
            let group = stream.gossiped(signed(1, seq), MonoMs(seq * 100), UnixMs(0)).unwrap().group;
            stream.prove(group, &peer(1), MonoMs(seq * 100));
        }
        let answer = |request| {
            let Response { groups, stream: named } = stream.answer(&request, MonoMs(400));
            assert_eq!(named, *stream.hash());
            groups
        };
        let all: Vec<Bytes> = (0..5).map(|seq| signed(1, seq)).collect();
        assert_eq!(answer(Request { last_ms: 100, ..Default::default() }), all[3..]);
        assert_eq!(answer(Request { epoch: 1, from: 1, to: 2, ..Default::default() }), all[1..3]);
        assert!(answer(Request { epoch: 2, from: 1, to: 2, ..Default::default() }).is_empty());
    }

    #[test]
    fn who_was_first_long_ago_counts_half() {
        let ((mut stream, signed), often, once, twice) = (stream(), peer(1), peer(2), peer(3));
        let group = stream.gossiped(signed(1, 0), MonoMs(0), UnixMs(0)).unwrap().group;
        let mut brings = |peer: &PeerId, times| {
            (0..times).for_each(|_| stream.keep_from(peer, group.clone(), MonoMs(0)));
            [&often, &once, &twice].map(|peer| stream.first.get(peer).copied())
        };
        assert_eq!((brings(&once, 1), brings(&twice, 2)), ([None, Some(1), None], [None, Some(1), Some(2)]));
        assert_eq!(brings(&often, 99), [Some(99), Some(1), Some(2)]);
        assert_eq!(brings(&often, 1), [Some(50), None, Some(1)]);
    }
}
