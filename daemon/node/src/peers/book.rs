//! Who was connected, kept across restarts, and dialled again at a start.

use p2pd_core::{
    id::PeerId,
    multiaddr::Multiaddr,
    peer_book::{self, Known, MAX_PEERS},
    time::RunMs,
};
use p2pd_net::PeerInfo;
use p2pd_store::{Learnt, PeerRecord, StoreError};

use super::{Peers, PeersError};

fn known(record: PeerRecord) -> Known {
    let (first, last) = (RunMs(record.first), RunMs(record.seen));
    Known { addresses: readable(&record.addresses), first, last, dialled: record.dialled }
}

/// Addresses as they were kept, or as others tell them. One that cannot be read is left out: where a peer is, is learnt anew.
pub fn readable(addresses: &[String]) -> Vec<Multiaddr> {
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

impl Peers {
    /// Everybody of the peer book. What of it cannot be read is counted and given up.
    pub(super) fn known_peers(&self) -> Result<Vec<(PeerId, Known)>, StoreError> {
        let Learnt { records, mut unreadable } = self.0.with.disk.store().peers()?;
        let (mut book, mut addresses) = (Vec::new(), 0usize);
        for (key, record) in records {
            let kept = record.addresses.len();
            let known = known(record);
            addresses = addresses.saturating_add(kept.saturating_sub(known.addresses.len()));
            match PeerId::from_bytes(&key) {
                Ok(peer) => book.push((peer, known)),
                Err(_) => unreadable.push(key),
            }
        }
        if !unreadable.is_empty() || addresses > 0 {
            let peers = unreadable.len();
            tracing::warn!(peers, addresses, "parts of the peer book cannot be read, and are learnt anew");
            self.0.with.disk.store().forget_peers(&unreadable)?;
        }
        Ok(book)
    }

    /// Dials peers that were connected before, without waiting.
    pub(super) fn redial(&self, book: Vec<(PeerId, Known)>) {
        for (peer, known) in peer_book::to_dial(book, self.0.with.clock.running()) {
            let net = self.0.with.net.clone();
            self.0.with.tasks.until_stop(async move {
                if let Err(error) = net.dial.connect_peer(&peer, known.addresses).await {
                    tracing::debug!(%error, "known peer not reached");
                }
            });
        }
    }

    /// Writes a peer that told who it is into the peer book.
    pub(super) async fn remember(&self, peer: &PeerId) -> Result<(), PeersError> {
        let info = self.get(peer).await?;
        let (key, now) = (peer.as_bytes().to_vec(), self.0.with.clock.running());
        Ok(self
            .0
            .with
            .disk
            .run(move |store| {
                let before = store.peer(&key)?;
                let record = PeerRecord {
                    addresses: reached_at(&info).iter().map(Multiaddr::to_string).collect(),
                    seen: now.0,
                    first: before.as_ref().map_or(now.0, |before| before.first),
                    // Whoever came by itself is dialled too, when it has gone: that says nothing for it.
                    dialled: before
                        .map_or_else(|| info.connections.iter().any(|c| !c.inbound), |before| before.dialled),
                };
                store.put_peer(key, record)?;
                let Learnt { records, unreadable } = store.peers()?;
                let all: Vec<_> = records.into_iter().map(|(peer, record)| (peer, known(record))).collect();
                let gone = peer_book::surplus(&all, MAX_PEERS.saturating_sub(unreadable.len()), now);
                store.forget_peers(&gone)
            })
            .await?)
    }
}

/// Addresses to reach a peer at: where we dialled it, then where it says it listens, as far as that is of use here.
pub fn reached_at(info: &PeerInfo) -> Vec<Multiaddr> {
    let dialled = info.connections.iter().filter(|c| !c.inbound).map(|c| c.address.clone());
    let near = info.connections.iter().map(|c| c.address.peer_scope()).min();
    let said = info.addresses.iter().filter(|address| address.is_plain() && Some(address.reach()) >= near);
    dialled.chain(said.cloned()).take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    /// A peer that is connected at the first of these addresses, and says that it has the others.
    fn info(at: &str, inbound: bool, said: &[&str]) -> PeerInfo {
        let connection = p2pd_net::Connection {
            address: at.parse().unwrap(),
            inbound,
            opened: p2pd_core::time::UnixMs(0),
            security: "noise",
            muxer: "yamux",
            traffic: p2pd_net::Traffic::default(),
            streams: p2pd_net::Streams::default(),
        };
        PeerInfo {
            peer: PeerId::from_ed25519(&[1; 32]),
            connections: vec![connection],
            agent: String::new(),
            protocols: Vec::new(),
            addresses: said.iter().map(|address| address.parse().unwrap()).collect(),
            rtt: None,
            score: 0.0,
            gossip_ended: false,
            by_protocol: Vec::new(),
            lost: 0,
            kept: Vec::new(),
        }
    }

    fn reached(info: &PeerInfo) -> Vec<String> {
        reached_at(info).iter().map(Multiaddr::to_string).collect()
    }

    #[test]
    fn a_peer_is_not_believed_of_addresses_nearer_than_it_is() {
        let said = ["/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/1"];
        assert_eq!(reached(&info("/ip4/10.0.0.9/tcp/5", true, &said)), said[1..]);
        assert_eq!(reached(&info("/ip4/10.0.0.9/tcp/5", false, &said[2..])), ["/ip4/10.0.0.9/tcp/5", said[2]]);
        // Behind a relay that is near, it may be anywhere.
        let circuit = format!("/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit");
        assert_eq!(reached(&info(&circuit, true, &said)), said[2..]);
        assert_eq!(reached(&info(&circuit, false, &said)), [&circuit, said[2]]);
    }

    #[test]
    fn what_cannot_be_read_back_is_not_written() {
        let mut info = info("/ip4/192.0.2.9/tcp/5", true, &["/ip4/192.0.2.1/tcp/1"]);
        let made_up = libp2p::Multiaddr::empty().with(libp2p::multiaddr::Protocol::Dns4("a/ip4/127.0.0.1".into()));
        info.addresses.push(made_up.into());
        assert_eq!(reached(&info), ["/ip4/192.0.2.1/tcp/1"]);
    }
}
