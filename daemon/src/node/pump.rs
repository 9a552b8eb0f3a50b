//! The task that carries what the network brings to where it belongs, and keeps the time: heartbeats, sweeps. It never waits
//! for the disk.

use std::{sync::atomic::Ordering, time::Duration};

use p2pd_core::{announce::Filter, directory::Origin, id::StreamKey, ring::Next};
use p2pd_net::{Event, Incoming, TooLarge, TopicRule, queue};
use tokio_util::sync::CancellationToken;

use super::{Node, lock};

/// Runs until `stop`, or until the network is gone.
pub(super) async fn run(
    node: Node,
    mut incoming: queue::Reader<Incoming>,
    mut events: queue::Reader<Event>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            next = incoming.next() => match next {
                Some(Next::Item(incoming)) => node.on_incoming(incoming).await,
                Some(Next::Gap { from, to, .. }) => {
                    let count = (to - from).saturating_add(1);
                    node.0.counters.dropped.fetch_add(count, Ordering::Relaxed);
                }
                None => return,
            },
            next = events.next() => match next {
                Some(Next::Item(event)) => node.on_event(event).await,
                // Which peers came or went, and what they follow, is lost.
                Some(Next::Gap { .. }) => {
                    let _ = node.0.peers_changed.send(None);
                    node.0.topics_changed.notify_waiters();
                }
                None => return,
            },
            _ = tick.tick() => node.on_second().await,
        }
    }
}

impl Node {
    async fn on_incoming(&self, incoming: Incoming) {
        match incoming {
            Incoming::Group { key, group, repaired } => {
                self.0.counters.groups_in.fetch_add(1, Ordering::Relaxed);
                self.on_group(&key, group, repaired);
            }
            Incoming::Audio { sender, stream, message } => self.on_audio(sender, stream, message),
            Incoming::Directory { via, sender, message, time } => {
                self.apply(Origin { signer: &sender, via: &via, time }, message).await;
            }
            Incoming::Message { topic, sender, data, id } => self.on_message(&topic, sender, data, id),
            Incoming::TooLarge(refused) => self.on_too_large(refused),
        }
    }

    fn on_too_large(&self, TooLarge { topic, rule, sender, bytes, most }: TooLarge) {
        /// Most topics of which is remembered that it was said.
        const MAX_SAID: usize = 256;
        self.0.counters.too_large.fetch_add(1, Ordering::Relaxed);
        let from = sender.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
        match (rule, sender) {
            (TopicRule::Open, _) => self.refused_message(&topic),
            (TopicRule::Native(key), _) => self.lose_of_stream(&key),
            (TopicRule::Json(stream), Some(publisher)) => self.lose_of_stream(&StreamKey { publisher, stream }),
            (TopicRule::Json(_), None) | (TopicRule::Directory, _) => {}
        }
        let mut said = lock(&self.0.said_too_large);
        if said.len() >= MAX_SAID {
            said.clear();
        }
        if said.insert(topic.clone()) {
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
        match event {
            Event::Connected(peer) => {
                self.happened_to(Some(&peer), "peer-connected", &peer.to_string());
                self.changed(&peer);
            }
            Event::Disconnected { peer, for_good } => {
                self.happened_to(Some(&peer), "peer-disconnected", &peer.to_string());
                self.changed(&peer);
                self.0.topics_changed.notify_waiters();
                self.look_for_pinned(&peer);
                if for_good {
                    self.give_up(&peer);
                } else {
                    self.win_back(peer);
                }
            }
            Event::Lost { topic, count } => self.lost_messages(&topic, count),
            Event::Identified(peer) => {
                self.changed(&peer);
                let _ = self.0.to_remember.try_send(peer);
            }
            // A newcomer asks at once instead of waiting for the next heartbeat, and is told likewise.
            Event::Joined { peer, topic } if topic == self.directory_topic() => {
                self.announce_to(peer).await;
                self.ask(Filter::default()).await;
            }
            Event::Joined { topic, .. } | Event::Left { topic, .. } => {
                self.count_old_listeners(Some(&topic)).await;
                self.0.topics_changed.notify_waiters();
            }
            Event::Incompatible { who, why } => {
                tracing::info!(who, why, "a peer cannot be connected");
                self.happened_to(None, "peer-incompatible", &format!("{who}: {why}"));
            }
            Event::Listening(address) => {
                tracing::info!(%address, "listening");
            }
            Event::ListeningNoMore(address) => {
                tracing::info!(%address, "listening no more");
                self.note_lost_address();
            }
            Event::GossipEnded(peer) => {
                self.0.counters.gossip_ended.fetch_add(1, Ordering::Relaxed);
                self.happened_to(Some(&peer), "gossip-ended", &peer.to_string());
            }
        }
    }

    /// Follows no more what nobody here reads.
    async fn leave_unread(&self) {
        let _joining = self.0.following.lock().await;
        for topic in self.sweep_streams().into_iter().chain(self.sweep_topics()) {
            let _ = self.0.net.pubsub.unsubscribe(&topic).await;
        }
    }

    fn changed(&self, peer: &p2pd_core::id::PeerId) {
        let _ = self.0.peers_changed.send(Some(peer.clone()));
    }

    async fn on_second(&self) {
        self.count_old_listeners(None).await;
        self.heartbeats().await;
        self.look_at_clocks().await;
        self.on_moved().await;
        self.tell_left_out();
        self.ask_pending().await;
        self.announce_pending().await;
        self.answer_pending().await;
        self.favour_publishers().await;
        self.sweep_directory();
        self.reach_publishers();
        self.leave_unread().await;
    }
}
