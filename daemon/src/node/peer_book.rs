//! Who was connected, kept across restarts, and dialled again at a start.

use p2pd_core::{
    id::PeerId,
    peer_book::{self, Known, MAX_PEERS},
    scope,
    time::RunMs,
};
use p2pd_net::PeerInfo;
use p2pd_store::PeerRecord;

use super::{Node, NodeError, blocking};

fn known(record: PeerRecord) -> Known {
    let (first, last) = (RunMs(record.first), RunMs(record.seen));
    Known { addresses: record.addresses, first, last, dialled: record.dialled }
}

impl Node {
    /// Dials peers that were connected before, without waiting.
    pub(super) fn redial(&self, book: Vec<(Vec<u8>, PeerRecord)>) {
        let book = book.into_iter().filter_map(|(peer, record)| Some((PeerId::from_bytes(&peer).ok()?, known(record))));
        for (peer, known) in peer_book::to_dial(book.collect(), self.running()) {
            let net = self.0.net.clone();
            self.until_stop(async move {
                if let Err(error) = net.dial.connect_peer(&peer, &known.addresses).await {
                    tracing::debug!(%error, "known peer not reached");
                }
            });
        }
    }

    /// Writes a peer that told who it is into the peer book.
    pub(super) async fn remember(&self, peer: &PeerId) -> Result<(), NodeError> {
        let info = self.peer(peer).await?;
        let (store, key, now) = (self.0.store.clone(), peer.as_bytes().to_vec(), self.running());
        blocking(move || {
            let before = store.peer(&key)?;
            let record = PeerRecord {
                addresses: reached_at(&info),
                seen: now.0,
                first: before.as_ref().map_or(now.0, |before| before.first),
                // Whoever came by itself is dialled too, when it has gone: that says nothing for it.
                dialled: before.map_or_else(|| info.connections.iter().any(|c| !c.inbound), |before| before.dialled),
            };
            store.put_peer(key, record)?;
            let all = store.peers()?.into_iter().map(|(peer, record)| (peer, known(record)));
            store.forget_peers(&peer_book::surplus(&all.collect::<Vec<_>>(), MAX_PEERS, now))
        })
        .await
    }
}

/// Addresses to reach a peer at: where we dialled it, then where it says it listens, as far as that is of use here.
pub(super) fn reached_at(info: &PeerInfo) -> Vec<String> {
    let dialled = info.connections.iter().filter(|c| !c.inbound).map(|c| c.address.clone());
    let reach = info.connections.iter().map(|c| scope::of(&c.address)).min();
    let said = info.addresses.iter().filter(|address| Some(scope::of(address)) >= reach);
    dialled.chain(said.cloned()).take(8).collect()
}
