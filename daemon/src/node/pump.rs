//! Carries what the network tells to the owners.

use p2pd_core::ring::Next;
use p2pd_net::{Event, queue};
use tokio_util::sync::CancellationToken;

use super::Node;

/// Runs until `stop`, or until the network is gone.
pub(super) async fn run(node: Node, mut events: queue::Reader<Event>, stop: CancellationToken) {
    let carry = async {
        while let Some(next) = events.next().await {
            match next {
                Next::Item(event) => node.on_event(event).await,
                // Which peers came or went, and what they follow, is lost.
                Next::Gap { .. } => {
                    node.0.peers.on_gap();
                    node.0.pubsub.note_change();
                }
            }
        }
    };
    stop.run_until_cancelled(carry).await;
}

impl Node {
    async fn on_event(&self, event: Event) {
        self.0.peers.on_event(&event);
        self.0.live.on_event(&event).await;
        if matches!(event, Event::Joined { .. } | Event::Left { .. } | Event::Disconnected { .. }) {
            self.0.pubsub.note_change();
        }
    }
}
