//! The distributed hash table, as programs see it.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use p2pd_core::{
    id::PeerId,
    multiaddr::Multiaddr,
    time::UnixMs,
    value::{self, MAX_DATA, MAX_NAME, MAX_TTL_MS, ValueBody},
};
use p2pd_net::{Found, NetError};
use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::ReceiverStream;

use super::{Node, NodeError, peer_book::reached_at, wall};

fn check(key: &[u8]) -> Result<Vec<u8>, NodeError> {
    if (1..=128).contains(&key.len()) {
        return Ok(key.to_vec());
    }
    Err(NodeError::Field { field: "key", fault: format!("has {} bytes, takes 1 to 128", key.len()) })
}

/// Where a peer's value of this name belongs.
fn place(peer: &PeerId, name: &str) -> Result<Bytes, NodeError> {
    let fault = || format!("takes 1 to {MAX_NAME} printable characters of ASCII without `/` and space");
    value::key(peer, name).ok_or_else(|| NodeError::Field { field: "name", fault: fault() })
}

/// With addresses that each end in the peer's id, as dialling takes them, and each once.
fn named(Found { peer, addresses }: Found) -> Found {
    let mut addresses: Vec<_> = addresses.into_iter().map(|address| address.with_peer(&peer)).collect();
    addresses.sort_by_cached_key(Multiaddr::to_string);
    addresses.dedup();
    Found { peer, addresses }
}

/// The library gives a minute to each of the two steps of telling others.
async fn within_a_minute<T>(told: impl Future<Output = Result<T, NetError>>) -> Result<T, NodeError> {
    let late = || NetError::Unreachable { peer: "the DHT".into(), fault: "no answer within a minute".into() };
    Ok(tokio::time::timeout(Duration::from_secs(60), told).await.unwrap_or_else(|_| Err(late()))?)
}

impl Node {
    /// The addresses of a peer: of its connections, or as the DHT finds them; fails in the end when there are none.
    pub(crate) async fn find_peer(
        &self,
        peer: &PeerId,
    ) -> Result<BoxStream<'static, Result<Vec<Multiaddr>, NodeError>>, NodeError> {
        let here = if *peer == self.0.me {
            self.addresses().await?
        } else {
            self.peer(peer).await.map(|info| reached_at(&info)).unwrap_or_default()
        };
        if !here.is_empty() {
            return Ok(stream::iter([Ok(named(Found { peer: peer.clone(), addresses: here }).addresses)]).boxed());
        }
        self.need_peers().await?;
        let found = self.0.net.dht.find_peer(peer).await?;
        let unknown = NodeError::PeerNotFound(peer.to_string());
        Ok(stream::unfold((found, Some(unknown)), async |(mut found, unknown)| match found.recv().await {
            Some(next) => Some((Ok(named(next).addresses), (found, None))),
            None => unknown.map(|error| (Err(error), (found, None))),
        })
        .boxed())
    }

    /// The known peers closest to a key.
    pub(crate) async fn closest_peers(&self, key: &[u8]) -> Result<impl Stream<Item = Found> + use<>, NodeError> {
        let key = check(key)?;
        self.need_peers().await?;
        Ok(ReceiverStream::new(self.0.net.dht.closest_peers(key).await?).map(named))
    }

    /// Who provides a key.
    pub(crate) async fn providers(&self, key: &[u8]) -> Result<impl Stream<Item = Found> + use<>, NodeError> {
        let key = check(key)?;
        self.need_peers().await?;
        let (me, own) = (self.0.me.clone(), self.addresses().await?);
        let found = ReceiverStream::new(self.0.net.dht.providers(key).await?);
        // Others say where we are only as far as they know.
        Ok(found.map(move |next| named(if next.peer == me { Found { addresses: own.clone(), ..next } } else { next })))
    }

    /// Provides a key.
    pub(crate) async fn provide(&self, key: &[u8]) -> Result<(), NodeError> {
        let key = check(key)?;
        self.need_peers().await?;
        within_a_minute(self.0.net.dht.provide(key)).await
    }

    /// Fails at once where nobody could be told.
    async fn need_peers(&self) -> Result<(), NodeError> {
        if self.0.net.peers.connected().await?.is_empty() {
            let fault = "no peer is connected".into();
            return Err(NetError::Unreachable { peer: "the DHT".into(), fault }.into());
        }
        Ok(())
    }

    /// Puts a value of ours under a name; it holds for so long. Its number.
    pub(crate) async fn put_value(&self, name: &str, data: Bytes, ttl: Duration) -> Result<u64, NodeError> {
        let field = |field, fault: String| NodeError::Field { field, fault };
        let key = place(&self.0.me, name)?;
        if data.len() > MAX_DATA {
            return Err(field("data", format!("has {} bytes, takes at most {MAX_DATA}", data.len())));
        }
        if ttl.is_zero() || ttl > Duration::from_millis(MAX_TTL_MS) {
            return Err(field("ttl_s", format!("is {}, takes 1 to {}", ttl.as_secs(), MAX_TTL_MS / 1000)));
        }
        self.need_peers().await?;
        let now = wall().0;
        let seq = self.next_value(UnixMs(now));
        let expires_ms = now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(MAX_TTL_MS));
        let signed = value::sign(&ValueBody { key: key.clone(), data, seq, expires_ms }, &self.0.signer);
        within_a_minute(self.0.net.dht.put_value(key, signed, ttl)).await?;
        Ok(seq)
    }

    /// What a peer has put under a name, each value newer than the one before.
    pub(crate) async fn values(&self, peer: &PeerId, name: &str) -> Result<Receiver<ValueBody>, NodeError> {
        Ok(self.0.net.dht.values(place(peer, name)?).await?)
    }

    /// Provides it no more.
    pub(crate) async fn stop_providing(&self, key: &[u8]) -> Result<(), NodeError> {
        Ok(self.0.net.dht.stop_providing(check(key)?).await?)
    }
}
