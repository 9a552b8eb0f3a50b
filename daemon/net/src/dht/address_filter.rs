//! Kademlia, and how far an address has to reach to be of use in it. Whoever answers may say of anybody that he is at any
//! address: one of this machine or its network, from somebody farther away, would have us knock at doors of our own. Nor do
//! we tell others of addresses where they would find a machine of theirs.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{self, ProviderRecord, QueryId, Quorum, Record, RecordKey, store::MemoryStore},
    swarm::{ConnectionId, ExternalAddrExpired, FromSwarm, NetworkBehaviour, behaviour::ExternalAddrConfirmed},
};
use p2pd_core::{address_scope::Scope, multiaddr::Multiaddr as Address};

use crate::{
    NetError,
    dht::record_store::{self, Providers, Values},
    ids::without_peer,
    swarm::filtered::{Filter, Filtered},
};

pub(crate) type Kad = kad::Behaviour<MemoryStore>;

/// From where an address can be dialled.
fn reach(address: &Multiaddr) -> Scope {
    Address::from(address.clone()).reach()
}

/// Addresses kept of what one peer says of itself.
const MAX_SAID: usize = 8;

/// A connection.
struct Link {
    peer: PeerId,
    /// How near the peer is; one behind a relay counts as far away.
    scope: Scope,
    /// As it was dialled.
    address: Multiaddr,
}

/// Kademlia, with the addresses that it may use and tell.
pub(crate) type Dht = Filtered<Kad, Addresses>;

pub(crate) struct Addresses {
    own: PeerId,
    connections: HashMap<ConnectionId, Link>,
    /// Where we listen.
    listens: HashSet<Multiaddr>,
    values: Values,
    providers: Providers,
}

impl Addresses {
    pub(crate) fn new(own: PeerId) -> Self {
        Addresses {
            own,
            connections: HashMap::new(),
            listens: HashSet::new(),
            values: Values::default(),
            providers: Providers::default(),
        }
    }

    /// Whether an address is of use, whoever told of it: it reaches as far as the nearest connection.
    pub(crate) fn reaches(&self, address: &Multiaddr) -> bool {
        reach(address) >= self.nearest()
    }

    /// Whether an address that a peer says it has is of use: it reaches as far as the nearest one that it is connected at.
    pub(crate) fn reaches_of(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        reach(address) >= self.nearest_where(|connected| connected == peer)
    }

    /// How far the nearest connection reaches.
    fn nearest(&self) -> Scope {
        self.nearest_where(|_| true)
    }

    fn nearest_where(&self, of: impl Fn(&PeerId) -> bool) -> Scope {
        let scopes = self.connections.values().filter(|link| of(&link.peer)).map(|link| link.scope);
        scopes.min().unwrap_or(Scope::World)
    }

    /// Has Kademlia tell others where we listen, which passes on no provider without an address. Whether it can be reached
    /// there, whoever dials sees.
    fn say(&self, kad: &mut Kad) {
        for addr in &self.listens {
            kad.on_swarm_event(if self.reaches(addr) {
                FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
            } else {
                FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr })
            });
        }
    }
}

impl Dht {
    /// Whether an address is of use, whoever told of it.
    pub(crate) fn reaches(&self, address: &Multiaddr) -> bool {
        self.filter.reaches(address)
    }

    /// Whether an address that a peer says it has is of use.
    pub(crate) fn reaches_of(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        self.filter.reaches_of(peer, address)
    }

    /// Takes up a connection. `leads_to` is where a name has led to, where one was dialled.
    pub(crate) fn connected(&mut self, id: ConnectionId, peer: PeerId, dialled: &Multiaddr, leads_to: &Multiaddr) {
        let before = self.filter.nearest();
        let address = without_peer(dialled.clone());
        let scope = Address::from(leads_to.clone()).peer_scope();
        self.filter.connections.insert(id, Link { peer, scope, address });
        if self.filter.nearest() != before {
            self.filter.say(&mut self.behaviour);
        }
    }

    /// Takes up where a peer that answers in the DHT says that it is, in place of what it said before.
    pub(crate) fn learn(&mut self, peer: PeerId, said: Vec<Multiaddr>) {
        let is_plain = |address: &Multiaddr| Address::from(address.clone()).is_plain();
        let said =
            said.into_iter().map(without_peer).filter(|said| is_plain(said) && self.filter.reaches_of(&peer, said));
        let useful: Vec<Multiaddr> = said.take(MAX_SAID).collect();
        let before: Vec<Multiaddr> = known(&mut self.behaviour, peer).into_iter().map(without_peer).collect();
        for address in &useful {
            self.behaviour.add_address(&peer, address.clone());
        }
        let stands = |address: &Multiaddr| self.filter.connections.values().any(|link| link.address == *address);
        let outdated: Vec<_> = before.iter().filter(|old| !useful.contains(old) && !stands(old)).collect();
        // An empty entry is none.
        if !useful.is_empty() {
            for address in outdated {
                self.behaviour.remove_address(&peer, address);
            }
        }
    }

    /// Has the peers closest to its place keep a value of ours.
    pub(crate) fn put(&mut self, record: Record) -> Result<QueryId, NetError> {
        record_store::room_to_put(self.behaviour.store_mut(), &record.key)?;
        self.behaviour.put_record(record, Quorum::One).map_err(|error| NetError::Setup(error.to_string()))
    }

    /// Says that this peer provides a key.
    pub(crate) fn provide(&mut self, key: RecordKey) -> Result<QueryId, NetError> {
        record_store::room_to_provide(self.behaviour.store_mut(), &key)?;
        self.behaviour.start_providing(key).map_err(|error| NetError::Setup(error.to_string()))
    }

    /// Keeps a value of another peer. When there is no room, others keep it.
    pub(crate) fn keep_value(&mut self, record: Record) {
        self.filter.values.keep(self.behaviour.store_mut(), &self.filter.own, record, Instant::now());
    }

    /// Keeps that another peer provides a key, likewise.
    pub(crate) fn keep_provider(&mut self, record: ProviderRecord) {
        self.filter.providers.keep(self.behaviour.store_mut(), &self.filter.own, record, Instant::now());
    }
}

/// Where a peer is that was connected, by what it said of itself then.
fn known(kad: &mut Kad, peer: PeerId) -> Vec<Multiaddr> {
    let bucket = kad.kbucket(peer);
    let entries = bucket.iter().flat_map(|bucket| bucket.iter()).filter(|e| *e.node.key.preimage() == peer);
    entries.flat_map(|entry| entry.node.value.iter().cloned()).collect()
}

impl Filter<Kad> for Addresses {
    fn may_dial(&mut self, kad: &mut Kad, peer: Option<PeerId>, address: &Multiaddr) -> bool {
        self.reaches(address) || peer.is_some_and(|peer| known(kad, peer).contains(address))
    }

    fn tell(&mut self, kad: &mut Kad, event: FromSwarm<'_>) {
        let before = self.nearest();
        match event {
            // Of the addresses through a relay, those that others are told are confirmed; a relay names as many as it likes.
            FromSwarm::NewListenAddr(new) if Address::from(new.addr.clone()).is_circuit() => return,
            FromSwarm::NewListenAddr(new) => {
                self.listens.insert(new.addr.clone());
                if self.connections.is_empty() {
                    // There may be a way again. Fails while no peer is known, which is no news.
                    let _ = kad.bootstrap();
                }
                return self.say(kad);
            }
            FromSwarm::ExpiredListenAddr(old) => {
                self.listens.remove(old.addr);
                return kad.on_swarm_event(FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr: old.addr }));
            }
            FromSwarm::ConnectionClosed(old) => {
                self.connections.remove(&old.connection_id);
            }
            _ => {}
        }
        kad.on_swarm_event(event);
        if self.nearest() != before {
            self.say(kad);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{core::transport::ListenerId, swarm::NewListenAddr};

    use super::*;
    use crate::dht::record_store as kept;

    #[test]
    fn a_peer_that_says_ever_new_addresses_is_known_by_few() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut dht = Dht::new(Kad::new(own, kept::store(own)), Addresses::new(own));
        let addresses = |round: u32| {
            (0..20).map(|n| format!("/ip4/192.0.2.{n}/tcp/{round}").parse().unwrap()).collect::<Vec<Multiaddr>>()
        };
        for round in 1..100 {
            dht.learn(peer, addresses(round));
        }
        let told = known(&mut dht.behaviour, peer);
        assert_eq!(told.len(), MAX_SAID, "{told:?}");
        let newest = |known: &[Multiaddr]| {
            let known: Vec<_> = known.iter().cloned().map(without_peer).collect();
            addresses(99).iter().take(MAX_SAID).all(|newest| known.contains(newest))
        };
        assert!(newest(&told), "{told:?}");
        dht.learn(peer, addresses(99));
        assert!(newest(&known(&mut dht.behaviour, peer)), "what it says again stays");
        dht.learn(peer, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]);
        assert!(
            !known(&mut dht.behaviour, peer).iter().any(|a| reach(a) == Scope::Machine),
            "it is connected from afar at most"
        );
    }

    #[test]
    fn what_a_relay_names_is_not_told_in_the_dht_unasked() {
        let (own, relay) = (PeerId::random(), PeerId::random());
        let mut dht = Dht::new(Kad::new(own, kept::store(own)), Addresses::new(own));
        for (address, told) in
            [("/ip4/192.0.2.1/tcp/1".to_owned(), 1), (format!("/ip4/192.0.2.2/tcp/1/p2p/{relay}/p2p-circuit"), 1)]
        {
            let addr = &address.parse().unwrap();
            dht.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: ListenerId::next(), addr }));
            assert_eq!(dht.filter.listens.len(), told, "{address}");
        }
    }

    #[test]
    fn a_peer_behind_a_relay_on_this_machine_is_not_believed_of_this_machine() {
        let (own, peer, relay) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut dht = Dht::new(Kad::new(own, kept::store(own)), Addresses::new(own));
        let at: Multiaddr = format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}").parse().unwrap();
        dht.connected(ConnectionId::new_unchecked(1), peer, &at, &at);
        let near: Multiaddr = "/ip4/127.0.0.1/tcp/22".parse().unwrap();
        assert!(!dht.reaches_of(&peer, &near) && !dht.reaches(&near));
        let beside: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        dht.connected(ConnectionId::new_unchecked(2), relay, &beside, &beside);
        assert!(dht.reaches_of(&relay, &near) && !dht.reaches_of(&peer, &near));
    }
}
