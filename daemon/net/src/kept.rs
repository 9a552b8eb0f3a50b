//! What this peer keeps in the DHT: its own, for which there is always room, and for others, as much as there is room for.

use std::{collections::HashMap, time::Instant};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{MemoryStore, MemoryStoreConfig, RecordStore},
    },
};

use crate::NetError;

/// Values, and keys that are provided, of one peer: of this one, and of any other.
const OF_ONE: usize = 1024;
/// Those of all others.
const OF_OTHERS: usize = 4096;
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

/// Keeps a value of another peer.
pub(crate) fn keep_value(store: &mut MemoryStore, own: &PeerId, record: Record) {
    let (mut of_owner, mut of_others) = (0, 0);
    for kept in store.records().filter(|kept| kept.key != record.key && kept.publisher.as_ref() != Some(own)) {
        of_owner += usize::from(whose(&kept.key) == whose(&record.key));
        of_others += 1;
    }
    if of_owner < OF_ONE && of_others < OF_OTHERS {
        // Refused for no other reason than size, which was looked at.
        let _ = store.put(record);
    }
}

/// Who provides what, of others, and until when they said so.
#[derive(Default)]
pub(crate) struct Providers(HashMap<(RecordKey, PeerId), Option<Instant>>);

impl Providers {
    /// Keeps that another peer provides a key.
    pub(crate) fn keep(&mut self, store: &mut MemoryStore, mut record: ProviderRecord, now: Instant) {
        let known = (record.key.clone(), record.provider);
        if !self.0.contains_key(&known) && !self.has_room(store, &record.provider, now) {
            return;
        }
        record.addresses.truncate(MAX_ADDRESSES);
        self.0.insert(known, record.expires);
        // Where a key has twenty already, this is none of them.
        let _ = store.add_provider(record);
    }

    fn has_room(&mut self, store: &mut MemoryStore, provider: &PeerId, now: Instant) -> bool {
        let of_one = |all: &Self| all.0.keys().filter(|(_, of)| of == provider).count();
        if self.0.len() >= OF_OTHERS || of_one(self) >= OF_ONE {
            let expired = self.0.extract_if(|_, expires| expires.is_some_and(|at| at <= now));
            expired.for_each(|((key, provider), _)| store.remove_provider(&key, &provider));
        }
        self.0.len() < OF_OTHERS && of_one(self) < OF_ONE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn said(provider: PeerId, n: usize, expires: Instant) -> ProviderRecord {
        ProviderRecord {
            key: RecordKey::new(&n.to_be_bytes()),
            provider,
            expires: Some(expires),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn others_take_no_room_of_ours_and_what_has_expired_takes_none() {
        let (own, now) = (PeerId::random(), Instant::now());
        let later = now + Duration::from_secs(60);
        let (mut store, mut providers) = (store(own), Providers::default());
        for n in 0..OF_OTHERS + OF_ONE {
            providers.keep(&mut store, said(PeerId::random(), n, later), now);
        }
        assert_eq!(providers.0.len(), OF_OTHERS);
        let mine = |n: usize| RecordKey::new(&format!("mine {n}"));
        for n in 0..OF_ONE {
            room_to_provide(&store, &mine(n)).unwrap();
            store.add_provider(ProviderRecord::new(mine(n), own, Vec::new())).unwrap();
        }
        assert!(room_to_provide(&store, &mine(OF_ONE)).is_err());
        room_to_provide(&store, &mine(0)).expect("once more");
        let (new, much_later) = (said(PeerId::random(), 0, later + Duration::from_secs(60)), later);
        providers.keep(&mut store, new.clone(), much_later);
        assert_eq!(store.providers(&new.key), [new]);
        assert_eq!((providers.0.len(), store.provided().count()), (1, OF_ONE));
    }

    #[test]
    fn values_of_others_take_no_room_of_ours_and_those_of_one_a_part() {
        let own = PeerId::random();
        let mut store = store(own);
        let value = |owner: &str, n: usize, publisher: PeerId| Record {
            publisher: Some(publisher),
            ..Record::new(format!("/p2pd/value/{owner}/{n}").into_bytes(), vec![1])
        };
        for n in 0..OF_ONE + 1 {
            keep_value(&mut store, &own, value("one", n, PeerId::random()));
        }
        assert_eq!(store.records().count(), OF_ONE);
        for n in 0..OF_OTHERS {
            keep_value(&mut store, &own, value(&n.to_string(), n, PeerId::random()));
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
        let (provider, now) = (PeerId::random(), Instant::now());
        let (mut store, mut providers) = (store(PeerId::random()), Providers::default());
        for n in 0..OF_ONE + 1 {
            providers.keep(&mut store, said(provider, n, now + Duration::from_secs(60)), now);
        }
        assert_eq!(providers.0.len(), OF_ONE);
    }
}
