//! Kademlia: each question of a program is a query of the library, whose answers go to whoever asked; what peers bring is kept if it
//! is of use; and the table of peers is refreshed.

pub(crate) mod address_filter;
mod handle;
pub(crate) mod record_store;
mod refresh;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{
    Multiaddr, StreamProtocol,
    core::{ConnectedPoint, Endpoint},
    identify,
    kad::{self, GetProvidersOk, GetRecordOk, QueryId, QueryResult, Record, RecordKey, store::RecordStore},
    swarm::{ConnectionId, NetworkBehaviour},
};
use p2pd_core::{
    dht_value::{self, ValueBody},
    id::PeerId,
    multiaddr::Multiaddr as Address,
    time::UnixMs,
};
use tokio::sync::mpsc;

pub(crate) use self::handle::Handle;
use self::{
    address_filter::{Dht, Kad},
    refresh::Refresh,
};
use crate::{
    DhtMode, NetError, Network,
    commands::Reply,
    context::{Context, Effect},
    ids,
    swarm::far_end::far_end,
};

/// Questions under way.
const MAX_LOOKUPS: usize = 64;

/// A peer that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who.
    pub peer: PeerId,
    /// Where, as others say.
    pub addresses: Vec<Address>,
}

/// What is asked, and where the answers go.
pub(crate) enum Question {
    Peer(libp2p::PeerId, mpsc::Sender<Found>),
    Closest(Vec<u8>, mpsc::Sender<Found>),
    Providers(Vec<u8>, mpsc::Sender<Found>),
    Value(Bytes, mpsc::Sender<ValueBody>),
}

enum Lookup {
    Peer { peer: libp2p::PeerId, answers: mpsc::Sender<Found>, told: HashSet<Address> },
    Peers { answers: mpsc::Sender<Found>, told: HashSet<libp2p::PeerId> },
    Value { key: Bytes, answers: mpsc::Sender<ValueBody>, newest: Option<u64> },
}

impl Lookup {
    /// Tells of a peer once, and of each address of one that is looked for. A question whose asker reads nothing loses answers,
    /// and holds up nobody else.
    fn tell(&mut self, found: libp2p::PeerId, mut addresses: Vec<Address>) {
        let answers = match self {
            Lookup::Peer { peer, answers, told } if *peer == found => {
                addresses.retain(|address| told.insert(address.clone()));
                Some(answers).filter(|_| !addresses.is_empty())
            }
            Lookup::Peers { answers, told } => Some(answers).filter(|_| told.insert(found)),
            Lookup::Peer { .. } | Lookup::Value { .. } => None,
        };
        if let Some(answers) = answers {
            let _ = answers.try_send(Found { peer: ids::from_libp2p(&found), addresses });
        }
    }

    /// Whether nobody waits any more.
    fn is_over(&self) -> bool {
        match self {
            Lookup::Peer { answers, .. } | Lookup::Peers { answers, .. } => answers.is_closed(),
            Lookup::Value { answers, .. } => answers.is_closed(),
        }
    }
}

pub(crate) enum Command {
    Lookup { question: Question, reply: Reply<()> },
    Put { key: Bytes, signed: Bytes, holds: Duration, reply: Reply<()> },
    Provide { key: Vec<u8>, reply: Reply<()> },
    StopProviding { key: Vec<u8> },
}

pub(crate) struct Lookups {
    running: HashMap<QueryId, Lookup>,
    announcing: HashMap<QueryId, Reply<()>>,
    protocol: StreamProtocol,
    /// Whether it answers others depends on whether they reach it.
    auto: bool,
    /// Whether it answers others.
    answers: bool,
    /// Somebody has come unasked.
    was_dialled: bool,
    refresh: Refresh,
}

impl Lookups {
    pub(crate) fn new(network: &Network, protocol: StreamProtocol) -> Self {
        let (running, announcing) = (HashMap::new(), HashMap::new());
        let (auto, answers) = (network.dht == DhtMode::Auto, network.dht == DhtMode::Server);
        Lookups { running, announcing, protocol, auto, answers, was_dialled: false, refresh: Refresh::new() }
    }

    pub(crate) fn on_command(&mut self, dht: &mut Dht, command: Command) {
        match command {
            Command::Lookup { question, reply } => drop(reply.send(self.ask(dht, question))),
            Command::Put { key, signed, holds, reply } => self.put(dht, &key, signed, holds, reply),
            Command::Provide { key, reply } => self.provide(dht, &key, reply),
            Command::StopProviding { key } => dht.stop_providing(&RecordKey::new(&key)),
        }
    }

    /// Takes up a connection. `leads_to` is where a name has led to, where one was dialled.
    pub(crate) fn on_connected(&mut self, dht: &mut Dht, connection: Connected<'_>) {
        let Connected { id, peer, endpoint, leads_to, unasked } = connection;
        self.was_dialled |= unasked;
        let address = far_end(endpoint);
        dht.connected(id, peer, &address, leads_to.unwrap_or(&address));
    }

    /// A peer is connected no more.
    pub(crate) fn on_gone(&mut self) {
        self.refresh.stirred();
    }

    /// Takes up where a peer is that answers in the DHT, as it says.
    pub(crate) fn on_identify(&mut self, dht: &mut Dht, peer: libp2p::PeerId, info: identify::Info) {
        if info.protocols.contains(&self.protocol) {
            dht.learn(peer, info.listen_addrs);
        }
    }

    /// `is_reached`: whether the world reaches this daemon. While nobody has tested that, somebody who has come unasked proves that others
    /// may.
    pub(crate) fn on_tick(&mut self, context: &mut Context, dht: &mut Dht, is_reached: Option<bool>) {
        let answers = is_reached.unwrap_or(self.was_dialled);
        if self.auto && answers != self.answers {
            self.answers = answers;
            dht.set_mode(Some(if answers { kad::Mode::Server } else { kad::Mode::Client }));
            context.want(Effect::SayProtocols);
        }
        if self.refresh.due(context.now()) {
            // Fails while no peer is known, which is no news.
            let _ = dht.bootstrap();
        }
    }

    fn ask(&mut self, kad: &mut Kad, question: Question) -> Result<(), NetError> {
        self.room(kad)?;
        let key = match &question {
            Question::Value(key, _) => Some(RecordKey::new(key)).filter(|key| kad.store_mut().get(key).is_some()),
            Question::Providers(key, _) => {
                Some(RecordKey::new(key)).filter(|key| !kad.store_mut().providers(key).is_empty())
            }
            Question::Peer(..) | Question::Closest(..) => None,
        };
        if key.is_none() && !knows_anybody(kad) {
            return Err(nobody("no peer is known that answers in it, so nobody was asked; try again in a minute"));
        }
        let (id, lookup) = match question {
            Question::Peer(peer, answers) => {
                (kad.get_closest_peers(peer), Lookup::Peer { peer, answers, told: HashSet::new() })
            }
            Question::Closest(key, answers) => {
                (kad.get_closest_peers(key), Lookup::Peers { answers, told: HashSet::new() })
            }
            Question::Providers(key, answers) => {
                (kad.get_providers(RecordKey::new(&key)), Lookup::Peers { answers, told: HashSet::new() })
            }
            Question::Value(key, answers) => {
                (kad.get_record(RecordKey::new(&key)), Lookup::Value { key, answers, newest: None })
            }
        };
        self.running.insert(id, lookup);
        Ok(())
    }

    /// Makes an end of what nobody waits for any more; an error when too much is left.
    fn room(&mut self, kad: &mut Kad) -> Result<(), NetError> {
        let running = self.running.extract_if(|_, lookup| lookup.is_over()).map(|(id, _)| id);
        let announcing = self.announcing.extract_if(|_, reply| reply.is_closed()).map(|(id, _)| id);
        for id in running.chain(announcing) {
            if let Some(mut query) = kad.query_mut(&id) {
                query.finish();
            }
        }
        if self.running.len().saturating_add(self.announcing.len()) >= MAX_LOOKUPS {
            return Err(NetError::Limit("64 lookups are under way; try again"));
        }
        Ok(())
    }

    /// Has the peers closest to its place keep a value of ours; they are told again each day while it holds.
    fn put(&mut self, dht: &mut Dht, key: &[u8], signed: Bytes, holds: Duration, reply: Reply<()>) {
        let expires = Instant::now().checked_add(holds);
        let record = Record { key: RecordKey::new(&key), value: signed.into(), publisher: None, expires };
        let query = self.room(dht).and_then(|()| dht.put(record));
        self.announce(query, reply);
    }

    fn provide(&mut self, dht: &mut Dht, key: &[u8], reply: Reply<()>) {
        let query = self.room(dht).and_then(|()| dht.provide(RecordKey::new(&key)));
        // Where this daemon answers itself, others find it here; else the library says that all is well, and nobody finds it.
        if query.is_ok() && !self.answers && !knows_anybody(dht) {
            let _ = reply.send(Err(nobody(ALONE)));
            return;
        }
        self.announce(query, reply);
    }

    fn announce(&mut self, query: Result<QueryId, NetError>, reply: Reply<()>) {
        match query {
            Ok(id) => {
                self.announcing.insert(id, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Keeps a value that a peer brought, if its owner has signed it and it is newer than what is here.
    fn keep(dht: &mut Dht, record: Record, wall: UnixMs) {
        let Some(value) = dht_value::verify(record.key.as_ref(), &record.value, wall) else {
            return tracing::debug!("a value that its owner has not signed was not kept");
        };
        let known = dht.store_mut().get(&record.key).and_then(|r| dht_value::verify(r.key.as_ref(), &r.value, wall));
        if known.is_none_or(|known| known.seq < value.seq) {
            dht.keep_value(record);
        }
    }

    /// Tells where the peers are that are looked for, as far as anybody has said so.
    pub(crate) fn look(&mut self, dht: &mut Dht) {
        for lookup in self.running.values_mut().filter(|lookup| !lookup.is_over()) {
            if let Lookup::Peer { peer, .. } = lookup {
                let (peer, places) = (*peer, places(dht, *peer));
                let addresses = useful(dht, places);
                lookup.tell(peer, addresses);
            }
        }
    }

    /// What the library tells. A peer that it has found a place for, and its addresses that are of use.
    pub(crate) fn on_event(
        &mut self,
        dht: &mut Dht,
        event: kad::Event,
        wall: UnixMs,
    ) -> Option<(libp2p::PeerId, Vec<Multiaddr>)> {
        match event {
            kad::Event::RoutingUpdated { peer, is_new_peer: true, addresses, .. } => {
                self.refresh.stirred();
                return Some((peer, addresses.into_vec().into_iter().filter(|address| dht.reaches(address)).collect()));
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(dht, id, result, wall);
                if step.last {
                    self.running.remove(&id);
                }
            }
            // Kademlia has seen to it that a provider speaks for itself. When the store is full, others keep it.
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(mut record) } } => {
                // Nor is it told to others.
                record.addresses.retain(|address| dht.reaches_of(&record.provider, address));
                dht.keep_provider(record);
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { record: Some(record), .. } } => {
                Self::keep(dht, record, wall);
            }
            _ => {}
        }
        None
    }

    fn on_progress(&mut self, dht: &mut Dht, id: QueryId, result: QueryResult, wall: UnixMs) {
        match result {
            QueryResult::GetClosestPeers(result) => {
                // What was found before the time was up is worth telling, too.
                let found = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                found.into_iter().for_each(|peer| self.tell(id, peer.peer_id, useful(dht, peer.addrs)));
            }
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { key, providers })) => {
                // Some are told by this peer's own store, which alone knows where those are.
                let stored = dht.store_mut().providers(&key);
                for peer in providers {
                    let stored = stored.iter().filter(|record| record.provider == peer);
                    let stored = stored.flat_map(|record| record.addresses.clone());
                    let addresses = places(dht, peer).into_iter().chain(stored);
                    self.tell(id, peer, useful(dht, addresses));
                }
            }
            QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                self.tell_value(id, &found.record.value, wall)
            }
            QueryResult::StartProviding(result) => self.announced(id, result.is_ok()),
            QueryResult::PutRecord(result) => self.announced(id, result.is_ok()),
            _ => {}
        }
    }

    fn announced(&mut self, id: QueryId, done: bool) {
        if let Some(reply) = self.announcing.remove(&id) {
            let _ = reply.send(done.then_some(()).ok_or_else(|| nobody(ALONE)));
        }
    }

    /// Tells of a value that is newer than those before.
    fn tell_value(&mut self, id: QueryId, signed: &[u8], wall: UnixMs) {
        let Some(Lookup::Value { key, answers, newest }) = self.running.get_mut(&id) else { return };
        if let Some(value) = dht_value::verify(key, signed, wall)
            && newest.is_none_or(|newest| value.seq > newest)
        {
            *newest = Some(value.seq);
            let _ = answers.try_send(value);
        }
    }

    fn tell(&mut self, id: QueryId, peer: libp2p::PeerId, addresses: Vec<Address>) {
        if let Some(lookup) = self.running.get_mut(&id) {
            lookup.tell(peer, addresses);
        }
    }
}

const ALONE: &str =
    "none of the connected peers answers in it yet, so this daemon alone keeps it; try again in a minute";

/// That nobody was told or asked.
fn nobody(fault: &str) -> NetError {
    NetError::Unreachable { peer: "the DHT".into(), fault: fault.into() }
}

/// Whether there is a peer that answers in the DHT, as far as is known.
fn knows_anybody(kad: &mut Kad) -> bool {
    kad.kbuckets().any(|bucket| !bucket.is_empty())
}

/// A connection to take up.
pub(crate) struct Connected<'a> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: libp2p::PeerId,
    pub(crate) endpoint: &'a ConnectedPoint,
    pub(crate) leads_to: Option<&'a Multiaddr>,
    /// The peer has come by itself.
    pub(crate) unasked: bool,
}

/// Where a peer is, as the routing table and the answers to running queries have it.
fn places(dht: &mut Dht, peer: libp2p::PeerId) -> Vec<Multiaddr> {
    // What the behaviour would say if the peer were dialled now; no dial comes of it.
    let nothing = ConnectionId::new_unchecked(0);
    dht.handle_pending_outbound_connection(nothing, Some(peer), &[], Endpoint::Dialer).unwrap_or_default()
}

/// Those that reach far enough and can be told, each once.
fn useful(dht: &Dht, addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Address> {
    let mut useful = Vec::new();
    for address in addresses.into_iter().filter(|address| dht.reaches(address)) {
        let address = Address::from(address).without_peer();
        if address.is_plain() && !useful.contains(&address) {
            useful.push(address);
        }
    }
    useful
}
