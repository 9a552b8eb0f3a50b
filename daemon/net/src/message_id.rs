//! How gossipsub tells messages apart.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use libp2p::gossipsub::{Message, MessageId, TopicHash};
use sha2::{Digest, Sha256};

/// Topics whose messages are told apart by their bytes, from which one on.
#[derive(Clone, Default)]
pub(crate) struct ByContent(Arc<RwLock<HashMap<TopicHash, usize>>>);

impl ByContent {
    /// Tells the messages of a topic apart by their bytes from now on, from this one on; `None`: no more.
    pub(crate) fn set(&self, topic: &TopicHash, from: Option<usize>) {
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match from {
            Some(from) => topics.insert(topic.clone(), from),
            None => topics.remove(topic),
        };
    }

    /// The id of a message: sender and number as they travel, which is what go-libp2p and js-libp2p use, so that their
    /// offers of messages name the same ones; or a hash of topic and bytes, never of what a message merely claims.
    pub(crate) fn id(&self, message: &Message) -> MessageId {
        if let Some(from) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&message.topic) {
            let mut hash = Sha256::new();
            hash.update(message.topic.as_str());
            hash.update([0]);
            hash.update(message.data.get(*from..).unwrap_or_default());
            return MessageId::new(&hash.finalize());
        }
        let mut id = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
        id.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
        MessageId::new(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sender: libp2p::PeerId, number: u64, data: &[u8]) -> Message {
        let topic = TopicHash::from_raw("chat");
        Message { source: Some(sender), data: data.into(), sequence_number: Some(number), topic }
    }

    #[test]
    fn senders_numbers_or_bytes_tell_messages_apart() {
        let (a, b) = (libp2p::PeerId::random(), libp2p::PeerId::random());
        let ids = ByContent::default();
        assert_ne!(ids.id(&message(a, 1, b"x")), ids.id(&message(b, 1, b"x")));
        assert_ne!(ids.id(&message(a, 1, b"x")), ids.id(&message(a, 2, b"x")));
        ids.set(&TopicHash::from_raw("chat"), Some(0));
        assert_eq!(ids.id(&message(a, 1, b"x")), ids.id(&message(b, 7, b"x")));
        assert_ne!(ids.id(&message(a, 1, b"x")), ids.id(&message(a, 1, b"y")));
        ids.set(&TopicHash::from_raw("chat"), Some(2));
        assert_eq!(ids.id(&message(a, 1, b"1 x")), ids.id(&message(b, 7, b"2 x")), "whatever is before it");
    }
}
