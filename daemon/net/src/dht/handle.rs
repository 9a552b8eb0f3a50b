//! How the DHT is asked.

use std::time::Duration;

use bytes::Bytes;
use p2pd_core::{dht_value::ValueBody, id::PeerId};
use tokio::sync::mpsc;

use super::{Command, Found, Question};
use crate::{NetError, commands::Commands, ids};

/// Answers that wait for who asked; a query finds 20 peers.
const ANSWERS: usize = 64;

/// Asks the DHT.
#[derive(Clone)]
pub struct Handle(pub(crate) Commands<Command>);

impl Handle {
    /// Where a peer is: its addresses, each once, as they are found.
    pub async fn find_peer(&self, peer: &PeerId) -> Result<mpsc::Receiver<Found>, NetError> {
        let peer = ids::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        self.look_up(|answers| Question::Peer(peer, answers)).await
    }

    /// The known peers closest to a key, as the DHT finds them; the end of the channel is the end of the search.
    pub async fn closest_peers(&self, key: Vec<u8>) -> Result<mpsc::Receiver<Found>, NetError> {
        self.look_up(|answers| Question::Closest(key, answers)).await
    }

    /// Who provides a key.
    pub async fn providers(&self, key: Vec<u8>) -> Result<mpsc::Receiver<Found>, NetError> {
        self.look_up(|answers| Question::Providers(key, answers)).await
    }

    /// The values of a place, each newer than the one before.
    pub async fn values(&self, key: Bytes) -> Result<mpsc::Receiver<ValueBody>, NetError> {
        self.look_up(|answers| Question::Value(key, answers)).await
    }

    async fn look_up<T>(
        &self,
        question: impl FnOnce(mpsc::Sender<T>) -> Question,
    ) -> Result<mpsc::Receiver<T>, NetError> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        self.0.ask(|reply| Command::Lookup { question: question(answers), reply }).await??;
        Ok(receiver)
    }

    /// Puts a signed value in its place, where it is kept for so long.
    pub async fn put_value(&self, key: Bytes, signed: Bytes, holds: Duration) -> Result<(), NetError> {
        self.0.ask(|reply| Command::Put { key, signed, holds, reply }).await?
    }

    /// Says in the DHT that this peer provides a key, from now on.
    pub async fn provide(&self, key: Vec<u8>) -> Result<(), NetError> {
        self.0.ask(|reply| Command::Provide { key, reply }).await?
    }

    /// Says it no more.
    pub async fn stop_providing(&self, key: Vec<u8>) -> Result<(), NetError> {
        self.0.say(Command::StopProviding { key }).await
    }
}
