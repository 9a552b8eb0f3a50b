//! Answers peers that ask for groups of the streams that are followed here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use p2pd_core::id::{PeerId, StreamKey};
use p2pd_net::{Handle, NetError, PeerStream};
use tokio::sync::Semaphore;

use super::{
    Stream,
    fetch::{self, PROTOCOL, Request, Response},
};
use crate::lock;

/// Requests that are answered at the same time, and those of one peer. Others wait for their turn, 64 of them; what one peer asks beyond
/// is reset.
const ANSWERING: usize = 64;
const OF_PEER: usize = 8;

/// The streams that peers may ask for.
#[derive(Clone, Default)]
pub struct Server(Arc<Shared>);

#[derive(Default)]
struct Shared {
    streams: Mutex<HashMap<StreamKey, Stream>>,
    /// How many requests of each peer are being answered.
    answering: Mutex<HashMap<PeerId, usize>>,
}

/// A request that is being answered, until dropped.
struct Answering {
    shared: Arc<Shared>,
    peer: PeerId,
}

impl Answering {
    fn begin(shared: &Arc<Shared>, peer: PeerId) -> Option<Self> {
        let mut answering = lock(&shared.answering);
        let count = answering.entry(peer.clone()).or_default();
        if *count >= OF_PEER {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Answering { shared: shared.clone(), peer })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut answering = lock(&self.shared.answering);
        if let Some(count) = answering.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                answering.remove(&self.peer);
            }
        }
    }
}

impl Server {
    /// Has a stream's groups told to those who ask.
    pub fn add(&self, key: StreamKey, stream: Stream) {
        lock(&self.0.streams).insert(key, stream);
    }

    /// And no more.
    pub fn remove(&self, key: &StreamKey) {
        lock(&self.0.streams).remove(key);
    }

    /// Answers until the network stops.
    pub async fn run(self, net: Handle) -> Result<(), NetError> {
        let mut inbound = net.streams.accept(PROTOCOL).await?;
        let room = Arc::new(Semaphore::new(ANSWERING));
        while let Some(PeerStream { peer, stream, .. }) = inbound.next().await {
            let Some(answering) = Answering::begin(&self.0, peer.clone()) else { continue };
            // Never closed.
            let Ok(room) = room.clone().acquire_owned().await else { return Ok(()) };
            let server = self.clone();
            tokio::spawn(async move {
                let _held = (room, answering);
                if let Err(error) = fetch::serve(stream, |request| server.answer(request)).await {
                    tracing::debug!(%peer, %error, "a request for groups was not answered");
                }
            });
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Response {
        let streams: Vec<Stream> = lock(&self.0.streams).values().cloned().collect();
        let answer = |stream: Stream| {
            let state = lock(&stream.0.state);
            (*state.hash() == request.stream).then(|| state.answer(request, stream.0.clock.now()))
        };
        streams.into_iter().find_map(answer).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_answered_so_many_requests_at_once() {
        let shared = Arc::<Shared>::default();
        let [greedy, other] = [1, 2].map(|n| PeerId::from_ed25519(&[n; 32]));
        let mut held: Vec<Answering> = (0..OF_PEER).filter_map(|_| Answering::begin(&shared, greedy.clone())).collect();
        assert_eq!(held.len(), OF_PEER);
        assert!(Answering::begin(&shared, greedy.clone()).is_none());
        assert!(Answering::begin(&shared, other).is_some());
        held.pop();
        assert!(Answering::begin(&shared, greedy).is_some());
        held.clear();
        assert!(lock(&shared.answering).is_empty());
    }
}
