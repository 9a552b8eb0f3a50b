//! The way of a publication to the network: one message after the other, whatever format they are in.

use std::sync::{Arc, atomic::Ordering};

use p2pd_core::ring::Next;
use p2pd_net::{NetError, queue};

use super::Shared;
use crate::{Live, group::Group};

pub(super) enum Outgoing {
    Group(Arc<Group>),
    Json(Vec<u8>),
    /// A native stream in the old format.
    Old(Vec<u8>),
}

impl Outgoing {
    /// Whether its loss is one of the stream itself: listeners of the old format of a native one are served beside it.
    pub(super) fn is_of_the_stream(&self) -> bool {
        !matches!(self, Outgoing::Old(_))
    }
}

/// Carries groups to the network in their order; ends with the publication.
pub(super) async fn run(live: Live, shared: Arc<Shared>, mut queue: queue::Reader<Outgoing>) {
    while let Some(next) = queue.next().await {
        // What the queue dropped was counted when it did.
        let Next::Item(outgoing) = next else { continue };
        let lost = outgoing.is_of_the_stream();
        let sent = match outgoing {
            Outgoing::Group(group) => {
                let sent = live.0.with.net.pubsub.publish(&shared.topic, group.signed.clone()).await;
                // For those who ask for it.
                if let Some(stream) = live.native(&shared.key) {
                    stream.keep(group);
                }
                sent.map(|_| ())
            }
            Outgoing::Json(message) => live.0.with.net.pubsub.publish(&shared.topic, message.into()).await.map(|_| ()),
            Outgoing::Old(message) => {
                let topic = shared.old_topic.as_deref().unwrap_or(&shared.topic);
                live.0.with.net.pubsub.publish(topic, message.into()).await.map(|_| ())
            }
        };
        match sent {
            // Nobody listens elsewhere: nothing is lost.
            Ok(()) | Err(NetError::NoListeners) => {}
            Err(error) => {
                tracing::debug!(%error, stream = %shared.key, "not sent");
                shared.dropped.fetch_add(u64::from(lost), Ordering::Relaxed);
            }
        }
    }
}
