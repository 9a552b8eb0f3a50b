//! Fetches what gossip did not bring: groups that are missing, and the last seconds for a newcomer.

use std::{sync::Arc, time::Duration};

use p2pd_core::id::PeerId;
use p2pd_net::Handle;
use tokio::sync::Semaphore;

use super::{Stream, fetch, state::Ask};
use crate::lock;

/// Most requests of one stream under way.
const ASKING: usize = 16;
/// Most groups taken from one answer.
const MAX_FETCHED: usize = 256;
/// Followers that are asked for the last seconds at first.
const BURST_FROM: usize = 2;
/// Least time between two looks for missing groups; one is worth fetching for some 50 ms.
const PAUSE: Duration = Duration::from_millis(10);

impl Stream {
    /// Fetches what is missing, for as long as it is polled.
    pub async fn repair(&self, net: &Handle) {
        let room = Arc::new(Semaphore::new(ASKING));
        loop {
            self.until_due().await;
            // Nobody to ask is told to the state, too.
            let followers = self.followers(net).await;
            let asks = lock(&self.0.state).due(followers, self.0.clock.now());
            for ask in asks {
                self.ask(net, ask, &room);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks those who follow the stream for its last seconds, if there is nothing of it yet.
    pub async fn burst(&self, net: &Handle) {
        for peer in self.followers(net).await.into_iter().take(BURST_FROM) {
            self.burst_from(net, peer);
        }
    }

    /// The same of one who has just begun to follow it.
    pub fn burst_from(&self, net: &Handle, peer: PeerId) {
        if let Some(ask) = lock(&self.0.state).burst(peer) {
            self.ask(net, ask, &Arc::new(Semaphore::new(1)));
        }
    }

    async fn followers(&self, net: &Handle) -> Vec<PeerId> {
        net.pubsub.topic_peers(&self.0.topic).await.unwrap_or_default().followers
    }

    async fn until_due(&self) {
        loop {
            let wake = lock(&self.0.state).wake(self.0.clock.now());
            let wake = wake.and_then(|at| self.0.clock.instant(at));
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = tokio::time::sleep_until(wake.unwrap_or_else(std::time::Instant::now).into()), if wake.is_some() => return,
            }
        }
    }

    /// Asks a peer, unless too many are being asked.
    fn ask(&self, net: &Handle, Ask { peer, request }: Ask, room: &Arc<Semaphore>) {
        let Ok(room) = room.clone().try_acquire_owned() else { return };
        let (stream, streams) = (self.clone(), net.streams.clone());
        tokio::spawn(async move {
            let _room = room;
            match fetch::fetch(&streams, &peer, request).await {
                Ok(response) => stream.take(&peer, response),
                Err(error) => tracing::debug!(%peer, %error, "groups not fetched"),
            }
        });
    }

    /// Takes what a peer sent because it was asked.
    fn take(&self, peer: &PeerId, response: fetch::Response) {
        let (now, wall) = (self.0.clock.now(), self.0.clock.wall());
        for signed in response.groups.into_iter().take(MAX_FETCHED) {
            let admitted = lock(&self.0.state).fetched(signed, peer, now, wall);
            if let Some(admitted) = admitted {
                self.hand_on(admitted);
            }
        }
    }
}
