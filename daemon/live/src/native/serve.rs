//! Answers peers that ask for groups of the streams that are followed here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use p2pd_core::id::StreamKey;
use p2pd_net::{Inbound, PeerStream, Reservation, StreamClass};

use super::{
    Stream,
    fetch::{self, PROTOCOL, Request, Response},
};
use crate::lock;

/// How peers ask for groups. What one peer asks beyond eight requests at once is reset.
pub(crate) const RESERVATION: Reservation =
    Reservation { protocol: PROTOCOL, class: StreamClass::Live, most: 64, of_peer: 8 };

/// The streams that peers may ask for.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<HashMap<StreamKey, Stream>>>);

impl Server {
    /// Has a stream's groups told to those who ask.
    pub fn add(&self, key: StreamKey, stream: Stream) {
        lock(&self.0).insert(key, stream);
    }

    /// And no more.
    pub fn remove(&self, key: &StreamKey) {
        lock(&self.0).remove(key);
    }

    /// Answers until the network stops.
    pub async fn run(self, inbound: Inbound) {
        let serve = |PeerStream { peer, stream, .. }: PeerStream| {
            let server = self.clone();
            async move {
                if let Err(error) = fetch::serve(stream, |request| server.answer(request)).await {
                    tracing::debug!(%peer, %error, "a request for groups was not answered");
                }
            }
        };
        inbound.serve(serve).await;
    }

    fn answer(&self, request: &Request) -> Response {
        let streams: Vec<Stream> = lock(&self.0).values().cloned().collect();
        let answer = |stream: Stream| {
            let state = lock(&stream.0.state);
            (*state.hash() == request.stream).then(|| state.answer(request, stream.0.clock.now()))
        };
        streams.into_iter().find_map(answer).unwrap_or_default()
    }
}
