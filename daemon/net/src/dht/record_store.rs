//! What this peer keeps in the DHT: its own, for which there is always room, and for others, as much as there is room for.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    kad::{
        K_VALUE, KBucketDistance, KBucketKey, ProviderRecord, Record, RecordKey,
        store::{MemoryStore, MemoryStoreConfig, RecordStore},
    },
};

use crate::NetError;

/// Values, and keys that are provided, of one peer: of this one, and of any other.
const OF_ONE: usize = 1024;
/// Those of all others.
const OF_OTHERS: usize = 4096;
/// How often what has expired is looked for, where there is no room.
const SWEEP: Duration = Duration::from_secs(1);
/// Addresses kept of a provider.
const MAX_ADDRESSES: usize = 8;

pub(crate) fn store(own: PeerId) -> MemoryStore {
    let most = OF_ONE + OF_OTHERS;
    let bounds = MemoryStoreConfig { max_records: most, max_provided_keys: most, ..Default::default() };
    MemoryStore::with_config(own, bounds)
}

fn room(ours: usize, none: &'static str) -> Result<(), NetError> {
    if ours < OF_ONE { Ok(()) } else { Err(NetError::Limit(none)) }
}

/// What the keys of one owner's values begin with: all but the name.
fn whose(key: &RecordKey) -> Option<&[u8]> {
    let key = key.as_ref();
    key.get(..key.iter().rposition(|byte| *byte == b'/')?)
}

/// Whether this peer may provide another key.
pub(crate) fn room_to_provide(store: &MemoryStore, key: &RecordKey) -> Result<(), NetError> {
    let others = store.provided().filter(|record| record.key != *key);
    room(others.count(), "this daemon provides 1,024 keys already; stop some")
}

/// Whether this peer may put another value.
pub(crate) fn room_to_put(store: &MemoryStore, key: &RecordKey) -> Result<(), NetError> {
    let others = store.records().filter(|record| record.key != *key && whose(&record.key) == whose(key));
    room(others.count(), "this daemon has put 1,024 values already; try again when some have expired")
}

/// What one owner has here, by its distance from this peer, and until when.
type Share = BTreeMap<KBucketDistance, (RecordKey, Option<Instant>)>;

/// What is kept of others, by owner. While there is no room, whoever has most gives way to those who have less, with what is
/// farthest from this peer: names of owners cost nothing, and what is near is asked for here.
#[derive(Default)]
struct Shares {
    of: HashMap<Vec<u8>, Share>,
    count: usize,
    /// When what has expired was looked for.
    swept: Option<Instant>,
}

impl Shares {
    /// Notes something of an owner, if there is room, or another's can go; that is returned then.
    fn admit(
        &mut self,
        own: &PeerId,
        owner: &[u8],
        key: &RecordKey,
        expires: Option<Instant>,
        now: Instant,
    ) -> Option<Vec<(Vec<u8>, RecordKey)>> {
        let distance = KBucketKey::from(*own).distance(&KBucketKey::new(key.clone()));
        let mut gone = Vec::new();
        if let Some(known) = self.of.get_mut(owner).and_then(|all| all.get_mut(&distance)) {
            known.1 = expires;
            return Some(gone);
        }
        let of_one = |all: &Self| all.of.get(owner).map_or(0, BTreeMap::len);
        let due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP);
        if due && (self.count >= OF_OTHERS || of_one(self) >= OF_ONE) {
            self.swept = Some(now);
            gone = self.forget_expired(now);
        }
        if of_one(self) >= OF_ONE {
            return None;
        }
        if self.count >= OF_OTHERS {
            gone.push(self.evict(of_one(self), distance)?);
        }
        self.of.entry(owner.to_vec()).or_default().insert(distance, (key.clone(), expires));
        self.count = self.count.saturating_add(1);
        Some(gone)
    }

    fn forget_expired(&mut self, now: Instant) -> Vec<(Vec<u8>, RecordKey)> {
        let mut gone = Vec::new();
        for (owner, all) in &mut self.of {
            let expired = all.extract_if(.., |_, (_, expires)| expires.is_some_and(|at| at <= now));
            gone.extend(expired.map(|(_, (key, _))| (owner.clone(), key)));
        }
        self.of.retain(|_, all| !all.is_empty());
        self.count = self.of.values().map(BTreeMap::len).fold(0, usize::saturating_add);
        gone
    }

    /// Makes room for one who has so much, at this distance; `None` where all have as little, and nearer.
    fn evict(&mut self, has: usize, distance: KBucketDistance) -> Option<(Vec<u8>, RecordKey)> {
        let farthest = |all: &Share| all.last_key_value().map(|(distance, _)| *distance);
        let most = self.of.iter().max_by_key(|(_, all)| (all.len(), farthest(all)))?;
        let (owner, theirs) = (most.0.clone(), most.1.len());
        let gives_way = theirs > has.saturating_add(1) || (theirs > has && farthest(most.1) > Some(distance));
        let all = self.of.get_mut(&owner).filter(|_| gives_way)?;
        let (_, (key, _)) = all.pop_last()?;
        if all.is_empty() {
            self.of.remove(&owner);
        }
        self.count = self.count.saturating_sub(1);
        Some((owner, key))
    }
}

/// Values of other peers.
#[derive(Default)]
pub(crate) struct Values(Shares);

impl Values {
    pub(crate) fn keep(&mut self, store: &mut MemoryStore, own: &PeerId, record: Record, now: Instant) {
        let Some(owner) = whose(&record.key) else { return };
        // Our own are put here by this daemon.
        if owner.ends_with(own.to_base58().as_bytes()) {
            return;
        }
        let Some(gone) = self.0.admit(own, owner, &record.key, record.expires, now) else { return };
        for (_, key) in gone {
            store.remove(&key);
        }
        // Refused for no other reason than size, which was looked at.
        let _ = store.put(record);
    }
}

/// Who provides what, of others.
#[derive(Default)]
pub(crate) struct Providers(Shares);

impl Providers {
    pub(crate) fn keep(&mut self, store: &mut MemoryStore, own: &PeerId, mut record: ProviderRecord, now: Instant) {
        let there = store.providers(&record.key);
        if there.len() >= K_VALUE.get() && there.iter().all(|known| known.provider != record.provider) {
            return;
        }
        let provider = record.provider.to_bytes();
        let Some(gone) = self.0.admit(own, &provider, &record.key, record.expires, now) else { return };
        for (provider, key) in gone {
            if let Ok(provider) = PeerId::from_bytes(&provider) {
                store.remove_provider(&key, &provider);
            }
        }
        record.addresses.truncate(MAX_ADDRESSES);
        let _ = store.add_provider(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(provider: PeerId, n: usize, expires: Instant) -> ProviderRecord {
        ProviderRecord {
            key: RecordKey::new(&n.to_be_bytes()),
            provider,
            expires: Some(expires),
            addresses: Vec::new(),
        }
    }

    fn kept(shares: &Shares) -> usize {
        shares.of.values().map(BTreeMap::len).sum()
    }

    #[test]
    fn others_take_no_room_of_ours_and_what_has_expired_takes_none() {
        let (own, now) = (PeerId::random(), Instant::now());
        let later = now + Duration::from_secs(60);
        let (mut store, mut providers) = (store(own), Providers::default());
        for n in 0..OF_OTHERS + OF_ONE {
            providers.keep(&mut store, &own, said(PeerId::random(), n, later), now);
        }
        assert_eq!((kept(&providers.0), providers.0.count), (OF_OTHERS, OF_OTHERS));
        let mine = |n: usize| RecordKey::new(&format!("mine {n}"));
        for n in 0..OF_ONE {
            room_to_provide(&store, &mine(n)).unwrap();
            store.add_provider(ProviderRecord::new(mine(n), own, Vec::new())).unwrap();
        }
        assert!(room_to_provide(&store, &mine(OF_ONE)).is_err());
        room_to_provide(&store, &mine(0)).expect("once more");
        let (new, much_later) = (said(PeerId::random(), 0, later + Duration::from_secs(60)), later);
        providers.keep(&mut store, &own, new.clone(), much_later);
        assert_eq!(store.providers(&new.key), [new]);
        assert_eq!((providers.0.count, store.provided().count()), (1, OF_ONE));
    }

    #[test]
    fn whoever_provides_most_gives_way_to_the_others() {
        let (own, now) = (PeerId::random(), Instant::now());
        let later = now + Duration::from_secs(60);
        let (mut store, mut providers) = (store(own), Providers::default());
        for flooder in [(); 4].map(|()| PeerId::random()) {
            for n in 0..OF_ONE {
                providers.keep(&mut store, &own, said(flooder, n, later), now);
            }
        }
        assert_eq!(providers.0.count, OF_OTHERS);
        let honest: Vec<_> = (0..200).map(|n| said(PeerId::random(), OF_ONE + n, later)).collect();
        for one in &honest {
            providers.keep(&mut store, &own, one.clone(), now);
        }
        assert!(honest.iter().all(|one| store.providers(&one.key) == [one.clone()]));
        assert_eq!((kept(&providers.0), providers.0.count), (OF_OTHERS, OF_OTHERS));
    }

    #[test]
    fn among_those_who_have_as_little_the_nearer_stays() {
        let (own, now) = (PeerId::random(), Instant::now());
        let (mut store, mut values) = (store(own), Values::default());
        let value = |n: usize| {
            let owner = PeerId::random();
            let key = format!("/p2pd/value/{owner}/{n}").into_bytes();
            Record { publisher: Some(owner), ..Record::new(key, vec![1]) }
        };
        let distance = |record: &Record| KBucketKey::from(own).distance(&KBucketKey::new(record.key.clone()));
        let mut all: Vec<_> = (0..OF_OTHERS + OF_ONE).map(value).collect();
        for record in &all {
            values.keep(&mut store, &own, record.clone(), now);
        }
        assert_eq!(store.records().count(), OF_OTHERS);
        all.sort_by_key(distance);
        let (near, far) = all.split_at(OF_OTHERS);
        assert!(near.iter().all(|record| store.get(&record.key).is_some()));
        assert!(far.iter().all(|record| store.get(&record.key).is_none()));
    }

    #[test]
    fn values_of_others_take_no_room_of_ours_and_those_of_one_a_part() {
        let (own, now) = (PeerId::random(), Instant::now());
        let (mut store, mut values) = (store(own), Values::default());
        let value = |owner: &str, n: usize, publisher: PeerId| Record {
            publisher: Some(publisher),
            ..Record::new(format!("/p2pd/value/{owner}/{n}").into_bytes(), vec![1])
        };
        for n in 0..OF_ONE + 1 {
            values.keep(&mut store, &own, value("one", n, PeerId::random()), now);
        }
        assert_eq!(store.records().count(), OF_ONE);
        for n in 0..OF_OTHERS {
            values.keep(&mut store, &own, value(&n.to_string(), n, PeerId::random()), now);
        }
        assert_eq!(store.records().count(), OF_OTHERS);
        for n in 0..OF_ONE {
            let ours = value("ours", n, own);
            room_to_put(&store, &ours.key).unwrap();
            store.put(ours).unwrap();
        }
        let ours = |n| value("ours", n, own).key;
        assert!(room_to_put(&store, &ours(OF_ONE)).is_err());
        room_to_put(&store, &ours(0)).expect("once more");
    }

    #[test]
    fn one_peer_takes_a_part_of_it() {
        let (own, provider, now) = (PeerId::random(), PeerId::random(), Instant::now());
        let (mut store, mut providers) = (store(own), Providers::default());
        for n in 0..OF_ONE + 1 {
            providers.keep(&mut store, &own, said(provider, n, now + Duration::from_secs(60)), now);
        }
        assert_eq!(providers.0.count, OF_ONE);
    }
}
