//! Topics of local programs: one subscription of the network for all readers of a topic.

use bytes::Bytes;
use p2pd_core::id::PeerId;
use p2pd_net::{TopicRule, queue::Reader};

use super::{Node, NodeError, fanout::Fanout, lock};

/// What a reader may be behind.
const READER: (usize, usize) = (256, 1 << 20);
/// Largest payload, in bytes; leaves room for the envelope in gossipsub's 64 KiB.
pub(crate) const MAX_PAYLOAD: usize = 60 * 1024;

/// A message of a topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicItem {
    pub(crate) sender: PeerId,
    pub(crate) data: Bytes,
    pub(crate) received_ms: u64,
}

impl Node {
    fn check_topic(&self, topic: &str) -> Result<(), NodeError> {
        let fault = if topic.is_empty() || topic.len() > 256 {
            "takes 1 to 256 bytes".into()
        } else if topic == self.directory_topic()
            || topic.starts_with("/p2pd/")
            || topic.starts_with(&format!("{}/stream/", self.network()))
        {
            format!("`{topic}` belongs to p2pd's own protocols; use the stream calls")
        } else {
            return Ok(());
        };
        Err(NodeError::Field { field: "topic", fault })
    }

    /// Sends a message. Returns how many connected peers follow the topic. Local readers get it too.
    pub(crate) async fn publish(&self, topic: &str, data: Bytes) -> Result<usize, NodeError> {
        self.check_topic(topic)?;
        if data.len() > MAX_PAYLOAD {
            return Err(NodeError::Field {
                field: "data",
                fault: format!("has {} bytes, takes at most {MAX_PAYLOAD}", data.len()),
            });
        }
        let sent = self.0.net.publish(topic, data.clone()).await;
        let local = lock(&self.0.topics).get_mut(topic).is_some_and(|readers| readers.sweep() > 0);
        match sent {
            Err(p2pd_net::NetError::NoListeners) if local => {}
            other => other?,
        }
        self.on_message(topic, self.0.me.clone(), data);
        Ok(self.0.net.topic_peers(topic).await?.len())
    }

    /// Follows a topic.
    pub(crate) async fn subscribe(&self, topic: &str) -> Result<Reader<TopicItem>, NodeError> {
        self.check_topic(topic)?;
        let _leaving = self.0.following.lock().await;
        let reader = lock(&self.0.topics).entry(topic.into()).or_insert_with(Fanout::new).join(READER.0, READER.1);
        self.0.net.subscribe(topic, TopicRule::Open).await?;
        Ok(reader)
    }

    pub(super) fn on_message(&self, topic: &str, sender: PeerId, data: Bytes) {
        if let Some(readers) = lock(&self.0.topics).get(topic) {
            let weight = data.len();
            readers.push(weight, &TopicItem { sender, data, received_ms: super::wall().0 });
        }
    }

    /// Lets go of topics without readers. Returns the topics to leave.
    pub(super) fn sweep_topics(&self) -> Vec<String> {
        let mut topics = lock(&self.0.topics);
        let mut left = Vec::new();
        topics.retain(|topic, readers| {
            let keep = readers.sweep() > 0;
            if !keep {
                left.push(topic.clone());
            }
            keep
        });
        left
    }

    /// The topics that the daemon follows, ordered.
    pub(crate) async fn topics(&self) -> Result<Vec<String>, NodeError> {
        let mut topics = self.0.net.topics().await?;
        topics.sort();
        Ok(topics)
    }

    /// The connected peers that follow a topic.
    pub(crate) async fn topic_peers(&self, topic: &str) -> Result<Vec<PeerId>, NodeError> {
        Ok(self.0.net.topic_peers(topic).await?)
    }
}
