//! Kademlia on request: each question is a query of the swarm, and its answers go to whoever asked.

use std::collections::{HashMap, HashSet};

use libp2p::kad::{self, GetProvidersOk, QueryId, QueryResult, RecordKey, store::MemoryStore, store::RecordStore};
use p2pd_core::id::PeerId;
use tokio::sync::mpsc;

use crate::{Handle, NetError, command::Command, dial::Reply, peers};

/// Questions under way.
const MAX_LOOKUPS: usize = 64;
/// Answers that wait for who asked; a query finds 20 peers.
const ANSWERS: usize = 64;

/// A peer that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who.
    pub peer: PeerId,
    /// Where, as others say; empty where only the peer was asked for.
    pub addresses: Vec<String>,
}

pub(crate) enum Question {
    Closest(Vec<u8>),
    Providers(Vec<u8>),
}

struct Lookup {
    answers: mpsc::Sender<Found>,
    told: HashSet<libp2p::PeerId>,
}

#[derive(Default)]
pub(crate) struct Lookups {
    running: HashMap<QueryId, Lookup>,
    announcing: HashMap<QueryId, Reply<()>>,
}

type Kad = kad::Behaviour<MemoryStore>;

impl Lookups {
    pub(crate) fn ask(&mut self, kad: &mut Kad, question: Question) -> Result<mpsc::Receiver<Found>, NetError> {
        // Nobody waits for these any more.
        for (id, _) in self.running.iter().filter(|(_, lookup)| lookup.answers.is_closed()) {
            if let Some(mut query) = kad.query_mut(id) {
                query.finish();
            }
        }
        self.running.retain(|_, lookup| !lookup.answers.is_closed());
        if self.running.len() >= MAX_LOOKUPS {
            return Err(NetError::Limit("64 lookups are under way; try again"));
        }
        let id = match question {
            Question::Closest(key) => kad.get_closest_peers(key),
            Question::Providers(key) => kad.get_providers(RecordKey::new(&key)),
        };
        let (answers, receiver) = mpsc::channel(ANSWERS);
        self.running.insert(id, Lookup { answers, told: HashSet::new() });
        Ok(receiver)
    }

    pub(crate) fn provide(&mut self, kad: &mut Kad, key: &[u8], reply: Reply<()>) {
        match kad.start_providing(RecordKey::new(&key)) {
            Ok(id) => {
                self.announcing.insert(id, reply);
            }
            Err(_) => {
                let _ = reply.send(Err(NetError::Limit("this daemon provides 1,024 keys already; stop some")));
            }
        }
    }

    pub(crate) fn on_event(&mut self, kad: &mut Kad, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(id, result);
                if step.last {
                    self.running.remove(&id);
                }
            }
            // Kademlia has seen to it that a provider speaks for itself. When the store is full, others keep it.
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                let _ = kad.store_mut().add_provider(record);
            }
            _ => {}
        }
    }

    fn on_progress(&mut self, id: QueryId, result: QueryResult) {
        match result {
            QueryResult::GetClosestPeers(result) => {
                // What was found before the time was up is worth telling, too.
                let found = match result {
                    Ok(ok) => ok.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for peer in found {
                    self.tell(id, peer.peer_id, peer.addrs.iter().map(ToString::to_string).collect());
                }
            }
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                providers.into_iter().for_each(|peer| self.tell(id, peer, Vec::new()));
            }
            QueryResult::StartProviding(result) => {
                if let Some(reply) = self.announcing.remove(&id) {
                    let late = |_| NetError::Unreachable { peer: "the DHT".into(), fault: "no answer in time".into() };
                    let _ = reply.send(result.map(|_| ()).map_err(late));
                }
            }
            _ => {}
        }
    }

    /// Tells of a peer once. A question whose asker reads nothing loses answers, and holds up nobody else.
    fn tell(&mut self, id: QueryId, peer: libp2p::PeerId, addresses: Vec<String>) {
        if let Some(lookup) = self.running.get_mut(&id)
            && lookup.told.insert(peer)
        {
            let _ = lookup.answers.try_send(Found { peer: peers::from_libp2p(&peer), addresses });
        }
    }
}

impl Handle {
    /// The known peers closest to a key, as the DHT finds them; the end of the channel is the end of the search.
    pub async fn closest_peers(&self, key: Vec<u8>) -> Result<mpsc::Receiver<Found>, NetError> {
        self.ask(|reply| Command::Lookup { question: Question::Closest(key), reply }).await?
    }

    /// Who provides a key.
    pub async fn providers(&self, key: Vec<u8>) -> Result<mpsc::Receiver<Found>, NetError> {
        self.ask(|reply| Command::Lookup { question: Question::Providers(key), reply }).await?
    }

    /// Says in the DHT that this peer provides a key, from now on.
    pub async fn provide(&self, key: Vec<u8>) -> Result<(), NetError> {
        self.ask(|reply| Command::Provide { key, reply }).await?
    }

    /// Says it no more.
    pub async fn stop_providing(&self, key: Vec<u8>) -> Result<(), NetError> {
        self.commands.send(Command::StopProviding { key }).await.map_err(|_| NetError::Stopped)
    }
}
