//! The distributed hash table, as programs see it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use p2pd_core::{
    dht_value::{self, MAX_DATA, MAX_NAME, MAX_TTL_MS, ValueBody},
    id::PeerId,
    multiaddr::Multiaddr,
    time::UnixMs,
};
use p2pd_net::{Found, Handle, NetError};
use p2pd_store::StoreError;
use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    clock::{Clock, wall},
    disk::{Disk, DiskError, number},
    lock,
    peers::{Peers, PeersError, reached_at},
};

/// Name of the setting that keeps the number of the last value.
pub const VALUE: &str = "value-seq";
/// How often the number of the last value is written, if it has changed.
const WRITE: Duration = Duration::from_secs(1);
/// The library gives a minute to each of the two steps of telling others.
const WITHIN: Duration = Duration::from_secs(60);

/// Why the DHT did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// The network's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The owner of peers has not told.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// A value is out of its range.
    #[error("{field}: {fault}")]
    Field {
        /// As the API names it.
        field: &'static str,
        /// What is wrong, and what would be right.
        fault: String,
    },
    /// Nobody knows where it is.
    #[error(
        "no peer that was asked knows {0}; one that nobody has dialled yet is in no table, and reached by its address alone"
    )]
    PeerNotFound(String),
}

/// What the owner of the DHT is given.
pub struct Setup {
    /// Who this daemon is.
    pub me: PeerId,
    /// The secret key of its identity.
    pub signer: [u8; 32],
    /// The network.
    pub net: Handle,
    /// Peers.
    pub peers: Peers,
    /// The store.
    pub disk: Disk,
    /// Time.
    pub clock: Clock,
}

/// Numbers of values: each is larger than the one before, also over a restart, whatever becomes of the clock.
struct Numbers {
    last: u64,
    written: u64,
}

struct Shared {
    me: PeerId,
    signer: [u8; 32],
    net: Handle,
    peers: Peers,
    disk: Disk,
    clock: Clock,
    numbers: Mutex<Numbers>,
}

/// The owner of what programs put into the DHT and find there, behind a cloneable handle.
#[derive(Clone)]
pub struct Dht(Arc<Shared>);

fn check(key: &[u8]) -> Result<Vec<u8>, DhtError> {
    if (1..=128).contains(&key.len()) {
        return Ok(key.to_vec());
    }
    Err(DhtError::Field { field: "key", fault: format!("has {} bytes, takes 1 to 128", key.len()) })
}

/// Where a peer's value of this name belongs.
fn place(peer: &PeerId, name: &str) -> Result<Bytes, DhtError> {
    let fault = || format!("takes 1 to {MAX_NAME} printable characters of ASCII without `/` and space");
    dht_value::key(peer, name).ok_or_else(|| DhtError::Field { field: "name", fault: fault() })
}

/// With addresses that each end in the peer's id, as dialling takes them, and each once.
fn named(Found { peer, addresses }: Found) -> Found {
    let mut addresses: Vec<_> = addresses.into_iter().map(|address| address.with_peer(&peer)).collect();
    addresses.sort_by_cached_key(Multiaddr::to_string);
    addresses.dedup();
    Found { peer, addresses }
}

async fn within_a_minute<T>(told: impl Future<Output = Result<T, NetError>>) -> Result<T, DhtError> {
    let late = || NetError::Unreachable { peer: "the DHT".into(), fault: "no answer within a minute".into() };
    Ok(tokio::time::timeout(WITHIN, told).await.unwrap_or_else(|_| Err(late()))?)
}

impl Dht {
    /// Goes on with the numbers of values that were kept.
    pub fn restore(setup: Setup) -> Result<Self, StoreError> {
        let Setup { me, signer, net, peers, disk, clock } = setup;
        let last = number(disk.store(), VALUE)?.unwrap_or_default();
        let numbers = Mutex::new(Numbers { last, written: last });
        Ok(Dht(Arc::new(Shared { me, signer, net, peers, disk, clock, numbers })))
    }

    /// Who this daemon is.
    pub fn me(&self) -> &PeerId {
        &self.0.me
    }

    /// Writes the number of the last value each second, until the daemon ends. Nothing live waits for the disk.
    pub async fn run(&self) {
        let mut tick = tokio::time::interval(WRITE);
        loop {
            tick.tick().await;
            if let Err(error) = self.write().await {
                tracing::debug!(%error, "the number of the last value was not written; trying again");
            }
        }
    }

    /// Writes what is not on disk yet.
    pub async fn write(&self) -> Result<(), DiskError> {
        let last = {
            let numbers = lock(&self.0.numbers);
            if numbers.last == numbers.written {
                return Ok(());
            }
            numbers.last
        };
        self.0.disk.run(move |store| store.set_setting(VALUE, &last.to_string())).await?;
        lock(&self.0.numbers).written = last;
        Ok(())
    }

    /// The number of a value that is put now.
    fn next_number(&self, now: UnixMs) -> u64 {
        let running = self.0.clock.running();
        let numbers = &mut lock(&self.0.numbers);
        numbers.last = dht_value::next_seq(numbers.last, now, running);
        numbers.last
    }

    /// The addresses of a peer: of its connections, or as the DHT finds them; fails in the end when there are none.
    pub async fn find_peer(
        &self,
        peer: &PeerId,
    ) -> Result<BoxStream<'static, Result<Vec<Multiaddr>, DhtError>>, DhtError> {
        let here = if *peer == self.0.me {
            self.0.peers.addresses().await?
        } else {
            self.0.peers.get(peer).await.map(|info| reached_at(&info)).unwrap_or_default()
        };
        if !here.is_empty() {
            return Ok(stream::iter([Ok(named(Found { peer: peer.clone(), addresses: here }).addresses)]).boxed());
        }
        self.need_peers().await?;
        let found = self.0.net.dht.find_peer(peer).await?;
        let unknown = DhtError::PeerNotFound(peer.to_string());
        Ok(stream::unfold((found, Some(unknown)), async |(mut found, unknown)| match found.recv().await {
            Some(next) => Some((Ok(named(next).addresses), (found, None))),
            None => unknown.map(|error| (Err(error), (found, None))),
        })
        .boxed())
    }

    /// The known peers closest to a key.
    pub async fn closest_peers(&self, key: &[u8]) -> Result<impl Stream<Item = Found> + use<>, DhtError> {
        let key = check(key)?;
        self.need_peers().await?;
        Ok(ReceiverStream::new(self.0.net.dht.closest_peers(key).await?).map(named))
    }

    /// Who provides a key.
    pub async fn providers(&self, key: &[u8]) -> Result<impl Stream<Item = Found> + use<>, DhtError> {
        let key = check(key)?;
        self.need_peers().await?;
        let (me, own) = (self.0.me.clone(), self.0.peers.addresses().await?);
        let found = ReceiverStream::new(self.0.net.dht.providers(key).await?);
        // Others say where we are only as far as they know.
        Ok(found.map(move |next| named(if next.peer == me { Found { addresses: own.clone(), ..next } } else { next })))
    }

    /// Provides a key.
    pub async fn provide(&self, key: &[u8]) -> Result<(), DhtError> {
        let key = check(key)?;
        self.need_peers().await?;
        within_a_minute(self.0.net.dht.provide(key)).await
    }

    /// Fails at once where nobody could be told.
    async fn need_peers(&self) -> Result<(), DhtError> {
        if self.0.net.peers.connected().await?.is_empty() {
            let fault = "no peer is connected".into();
            return Err(NetError::Unreachable { peer: "the DHT".into(), fault }.into());
        }
        Ok(())
    }

    /// Puts a value of ours under a name; it holds for so long. Its number.
    pub async fn put_value(&self, name: &str, data: Bytes, ttl: Duration) -> Result<u64, DhtError> {
        let field = |field, fault: String| DhtError::Field { field, fault };
        let key = place(&self.0.me, name)?;
        if data.len() > MAX_DATA {
            return Err(field("data", format!("has {} bytes, takes at most {MAX_DATA}", data.len())));
        }
        if ttl.is_zero() || ttl > Duration::from_millis(MAX_TTL_MS) {
            return Err(field("ttl_s", format!("is {}, takes 1 to {}", ttl.as_secs(), MAX_TTL_MS / 1000)));
        }
        self.need_peers().await?;
        let now = wall().0;
        let seq = self.next_number(UnixMs(now));
        let expires_ms = now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(MAX_TTL_MS));
        let signed = dht_value::sign(&ValueBody { key: key.clone(), data, seq, expires_ms }, &self.0.signer);
        within_a_minute(self.0.net.dht.put_value(key, signed, ttl)).await?;
        Ok(seq)
    }

    /// What a peer has put under a name, each value newer than the one before.
    pub async fn values(&self, peer: &PeerId, name: &str) -> Result<Receiver<ValueBody>, DhtError> {
        Ok(self.0.net.dht.values(place(peer, name)?).await?)
    }

    /// Provides it no more.
    pub async fn stop_providing(&self, key: &[u8]) -> Result<(), DhtError> {
        Ok(self.0.net.dht.stop_providing(check(key)?).await?)
    }
}
