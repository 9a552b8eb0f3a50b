//! The loop of what happens in the network and with each second: who came and went, heartbeats, sweeps. It never waits for the disk.

use std::{sync::atomic::Ordering, time::Duration};

use p2pd_core::{announce::Filter, id::PeerId, ring::Next};
use p2pd_net::{Event, queue};
use tokio_util::sync::CancellationToken;

use super::{Node, lock};

/// Runs until `stop`, or until the network is gone.
pub(super) async fn run(node: Node, mut events: queue::Reader<Event>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            next = events.next() => match next {
                Some(Next::Item(event)) => node.on_event(event).await,
                // Which peers came or went, and what they follow, is lost.
                Some(Next::Gap { .. }) => {
                    node.0.peers.on_gap();
                    node.0.pubsub.note_change();
                }
                None => return,
            },
            _ = tick.tick() => node.on_second().await,
        }
    }
}

impl Node {
    /// Counts what was lost before it came here.
    pub(super) fn note_dropped(&self, from: u64, to: u64) {
        self.0.counters.dropped.fetch_add(to.saturating_sub(from).saturating_add(1), Ordering::Relaxed);
    }

    /// Counts a message that was refused for its size, and logs the first of a topic.
    pub(super) fn note_too_large(&self, topic: &str, sender: Option<&PeerId>, bytes: usize, most: usize) {
        /// Most topics of which is remembered that it was said.
        const MAX_SAID: usize = 256;
        self.0.counters.too_large.fetch_add(1, Ordering::Relaxed);
        let from = sender.map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let mut said = lock(&self.0.said_too_large);
        if said.len() >= MAX_SAID {
            said.clear();
        }
        if said.insert(topic.to_owned()) {
            tracing::warn!(
                topic,
                from,
                bytes,
                most,
                "a message was refused, since it is larger than the topic takes; more are only counted"
            );
        }
    }

    async fn on_event(&self, event: Event) {
        self.0.peers.on_event(&event);
        match event {
            // A newcomer asks at once instead of waiting for the next heartbeat, and is told likewise.
            Event::Joined { peer, topic } if topic == self.directory_topic() => {
                self.announce_to(peer).await;
                self.ask(Filter::default()).await;
            }
            Event::Joined { peer, topic } => {
                self.on_joined(&peer, &topic);
                self.count_old_listeners(Some(&topic)).await;
                self.0.pubsub.note_change();
            }
            Event::Left { topic, .. } => {
                self.count_old_listeners(Some(&topic)).await;
                self.0.pubsub.note_change();
            }
            Event::Disconnected { .. } => self.0.pubsub.note_change(),
            _ => {}
        }
    }

    /// Follows no more what nobody here reads.
    async fn leave_unread(&self) {
        let _joining = self.0.following.lock().await;
        for topic in self.sweep_streams() {
            let _ = self.0.net.pubsub.unsubscribe(&topic).await;
        }
    }

    async fn on_second(&self) {
        self.count_old_listeners(None).await;
        self.heartbeats().await;
        self.look_at_clocks().await;
        self.tell_addresses().await;
        self.ask_pending().await;
        self.announce_pending().await;
        self.answer_pending().await;
        self.favour_publishers().await;
        self.sweep_directory();
        self.reach_publishers();
        self.leave_unread().await;
    }
}
