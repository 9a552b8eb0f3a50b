//! The distributed hash table, as programs see it.

use p2pd_core::id::PeerId;
use p2pd_net::{Found, NetError};
use tokio::sync::mpsc::Receiver;

use super::{Node, NodeError};

fn check(key: &[u8]) -> Result<Vec<u8>, NodeError> {
    if (1..=128).contains(&key.len()) {
        return Ok(key.to_vec());
    }
    Err(NodeError::Field { field: "key", fault: format!("has {} bytes, takes 1 to 128", key.len()) })
}

impl Node {
    /// The addresses of a peer: of its connections, or as the DHT knows them.
    pub(crate) async fn find_peer(&self, peer: &PeerId) -> Result<Vec<String>, NodeError> {
        if let Ok(info) = self.peer(peer).await {
            return Ok(info.connections.into_iter().map(|c| c.address).collect());
        }
        let mut found = self.0.net.closest_peers(peer.as_bytes().to_vec()).await?;
        while let Some(next) = found.recv().await {
            if next.peer == *peer {
                return Ok(next.addresses);
            }
        }
        Err(NodeError::PeerNotFound(peer.to_string()))
    }

    /// The known peers closest to a key.
    pub(crate) async fn closest_peers(&self, key: &[u8]) -> Result<Receiver<Found>, NodeError> {
        Ok(self.0.net.closest_peers(check(key)?).await?)
    }

    /// Who provides a key.
    pub(crate) async fn providers(&self, key: &[u8]) -> Result<Receiver<Found>, NodeError> {
        Ok(self.0.net.providers(check(key)?).await?)
    }

    /// Provides a key.
    pub(crate) async fn provide(&self, key: &[u8]) -> Result<(), NodeError> {
        let key = check(key)?;
        if self.0.net.peers().await?.is_empty() {
            let fault = "no peer is connected".into();
            return Err(NetError::Unreachable { peer: "the DHT".into(), fault }.into());
        }
        Ok(self.0.net.provide(key).await?)
    }

    /// Provides it no more.
    pub(crate) async fn stop_providing(&self, key: &[u8]) -> Result<(), NodeError> {
        Ok(self.0.net.stop_providing(check(key)?).await?)
    }
}
