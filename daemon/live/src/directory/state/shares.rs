//! Who has room in a directory that is full. Counted along with each entry: a flood must not cost a look at all of them each time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use p2pd_core::{
    id::{PeerId, StreamKey},
    time::MonoMs,
};

use super::{Entry, MAX_PER_PUBLISHER};

type Entries = BTreeMap<StreamKey, Entry>;
/// Entries by the neighbour that brought them, in the order in which they came.
type Brought = HashMap<Option<PeerId>, BTreeSet<(MonoMs, StreamKey)>>;

#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Publishers whose streams always have room.
    kept: HashSet<PeerId>,
    /// Publishers whose streams go last.
    favoured: HashSet<PeerId>,
    /// How many entries of others found no room, or lost it, by the neighbour that had brought most.
    crowded_out: Option<(PeerId, u64)>,
    /// Entries of each publisher.
    published: HashMap<PeerId, usize>,
    /// Those of publishers that are neither kept nor favoured.
    brought: Brought,
}

impl Shares {
    pub(super) fn favour(&mut self, kept: HashSet<PeerId>, favoured: HashSet<PeerId>, entries: &Entries) {
        if (&self.kept, &self.favoured) != (&kept, &favoured) {
            (self.kept, self.favoured) = (kept, favoured);
            self.brought = self.count_brought(entries, |publisher| self.is_strange(publisher));
        }
    }

    pub(super) fn take_crowded_out(&mut self) -> Option<(PeerId, u64)> {
        self.crowded_out.take()
    }

    /// Entries of a publisher.
    pub(super) fn of(&self, publisher: &PeerId) -> usize {
        self.published.get(publisher).copied().unwrap_or(0)
    }

    pub(super) fn added(&mut self, key: &StreamKey, entry: &Entry) {
        let count = self.published.entry(key.publisher.clone()).or_default();
        *count = count.saturating_add(1);
        if self.is_strange(&key.publisher) {
            add(&mut self.brought, key, entry);
        }
    }

    pub(super) fn removed(&mut self, key: &StreamKey, entry: &Entry) {
        let left = self.of(&key.publisher).saturating_sub(1);
        match self.published.get_mut(&key.publisher) {
            Some(count) if left > 0 => *count = left,
            _ => drop(self.published.remove(&key.publisher)),
        }
        // What is none any more takes no room.
        if let Some(of) = self.brought.get_mut(&entry.via) {
            of.remove(&(entry.since, key.clone()));
            if of.is_empty() {
                self.brought.remove(&entry.via);
            }
        }
    }

    /// The entry that gives way to one of `publisher` that `via` has brought, where all room is taken: of the neighbour that has brought
    /// most, what came last. Who has brought most gets no more, but for favoured publishers.
    pub(super) fn gives_way(&mut self, publisher: &PeerId, via: &PeerId, entries: &Entries) -> Option<StreamKey> {
        if self.of(publisher) >= MAX_PER_PUBLISHER {
            return None;
        }
        let any_stranger = !self.brought.is_empty();
        let (most, last) = if any_stranger {
            last_of_most(&self.brought)
        } else {
            last_of_most(&self.count_brought(entries, |publisher| !self.kept.contains(publisher)))
        }?;
        most.iter().for_each(|most| self.note_crowded_out(most.clone()));
        let favoured = self.kept.contains(publisher) || (any_stranger && self.favoured.contains(publisher));
        let gains = favoured || most.as_ref() != Some(via);
        gains.then_some(last)
    }

    /// Whether a publisher is neither kept nor favoured.
    fn is_strange(&self, publisher: &PeerId) -> bool {
        !self.kept.contains(publisher) && !self.favoured.contains(publisher)
    }

    /// Entries of such publishers, by the neighbour that brought them.
    fn count_brought(&self, entries: &Entries, of: impl Fn(&PeerId) -> bool) -> Brought {
        let mut brought = Brought::new();
        for (key, entry) in entries.iter().filter(|(key, _)| of(&key.publisher)) {
            add(&mut brought, key, entry);
        }
        brought
    }

    fn note_crowded_out(&mut self, most: PeerId) {
        let count = self.crowded_out.as_ref().map_or(0, |(_, count)| *count);
        self.crowded_out = Some((most, count.saturating_add(1)));
    }
}

fn add(brought: &mut Brought, key: &StreamKey, entry: &Entry) {
    brought.entry(entry.via.clone()).or_default().insert((entry.since, key.clone()));
}

/// Who has brought most, and what of that came last.
fn last_of_most(brought: &Brought) -> Option<(Option<PeerId>, StreamKey)> {
    let (most, of) = brought.iter().max_by_key(|(_, of)| of.len())?;
    Some((most.clone(), of.last()?.1.clone()))
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn publisher(n: u64) -> PeerId {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_le_bytes());
        PeerId::from_ed25519(&key)
    }

    #[test]
    fn a_flood_of_invented_publishers_takes_the_room_of_nobody_else() {
        let (mut directory, flooder, relay, own) = (Directory::default(), publisher(1), publisher(2), publisher(3));
        let connected = publisher(4);
        directory.favour(HashSet::from([own.clone()]), HashSet::from([connected.clone()]));
        let mut announce = |now, signer: &PeerId, via: &PeerId, stream: u64| {
            let message = DirectoryMessage::Announce {
                stream: format!("s{stream}").parse().unwrap(),
                metadata: Metadata::default(),
            };
            let effects = directory.apply(MonoMs(now), Origin { signer, via, time: UnixMs(now) }, message);
            let listed = |(key, entry): (&StreamKey, &Entry)| key.publisher == *signer && entry.since.0 <= now;
            let (listed, count) = (directory.iter().any(listed), directory.iter().count());
            (effects.len(), listed, count, directory.take_crowded_out())
        };
        assert!(announce(0, &publisher(100), &relay, 0).1);
        for n in 0..5_000 {
            announce(1 + n, &publisher(1_000 + n / 50), &flooder, n);
        }
        let (_, listed, count, told) = announce(6_000, &publisher(9_000), &flooder, 0);
        assert_eq!((listed, count), (false, MAX_ENTRIES), "who has brought most gets no more");
        assert_eq!(told.map(|(who, _)| who), Some(flooder.clone()));
        assert_eq!(announce(6_001, &publisher(101), &relay, 0).0, 2, "another's takes the place of the flood's last");
        assert!(announce(6_002, &own, &own, 0).1);
        assert!(announce(6_003, &own, &flooder, 1).1, "whoever brings them");
        assert!(announce(6_004, &publisher(100), &relay, 0).1, "and what was there before is there still");
        assert!(announce(6_005, &connected, &flooder, 0).1, "a connected one's, whoever brings it");
    }

    #[test]
    fn what_is_counted_along_is_what_there_is() {
        let mut directory = Directory::default();
        let (strangers, neighbours) = ([1, 2, 3, 4].map(publisher), [11, 12].map(publisher));
        let kept = StreamKey { publisher: publisher(9), stream: "kept".parse().unwrap() };
        directory.restore(MonoMs(0), kept, Metadata::default(), UnixMs(0));
        for n in 0..200 {
            let pick = |all: &[PeerId], by: usize| all.get(n / by % all.len()).cloned().unwrap();
            let (signer, via) = (pick(&strangers, 1), pick(&neighbours, 7));
            let stream = format!("s{}", n / 4 % 9).parse().unwrap();
            let message = match n % 5 {
                0 => DirectoryMessage::Deregister { stream },
                _ => DirectoryMessage::Announce { stream, metadata: Metadata::default() },
            };
            let now = n as u64 * 1_000;
            directory.apply(MonoMs(now), Origin { signer: &signer, via: &via, time: UnixMs(now) }, message);
            if n % 50 == 0 {
                directory.favour(HashSet::from([pick(&strangers, 50)]), HashSet::new());
            }
            directory.sweep(MonoMs(now));
            assert_eq!(
                directory.shares.brought,
                directory.shares.count_brought(&directory.entries, |p| directory.shares.is_strange(p))
            );
            for publisher in &strangers {
                let listed = directory.entries.keys().filter(|key| key.publisher == *publisher).count();
                assert_eq!(directory.shares.of(publisher), listed);
            }
        }
    }

    #[test]
    fn connected_publishers_cannot_fill_it_either() {
        let (mut directory, own) = (Directory::default(), publisher(1));
        let connected: Vec<_> = (0..64).map(|n| publisher(100 + n)).collect();
        directory.favour(HashSet::from([own.clone()]), connected.iter().cloned().collect());
        let announce = |directory: &mut Directory, signer: &PeerId, n: usize| {
            let stream = format!("s{n}").parse().unwrap();
            let message = DirectoryMessage::Announce { stream, metadata: Metadata::default() };
            directory.apply(MonoMs(0), Origin { signer, via: signer, time: UnixMs(0) }, message);
        };
        connected.iter().for_each(|signer| (0..MAX_PER_PUBLISHER).for_each(|n| announce(&mut directory, signer, n)));
        assert_eq!(directory.iter().count(), MAX_ENTRIES);
        announce(&mut directory, &own, 0);
        assert!(directory.iter().any(|(key, _)| key.publisher == own));
        assert!(directory.take_crowded_out().is_some());
    }
}
