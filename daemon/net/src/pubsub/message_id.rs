//! Settings of topics, as gossipsub asks for them: which messages it reads, and how it tells them apart.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use libp2p::{
    PeerId,
    gossipsub::{
        self, DataTransform, MaxCountSubscriptionFilter, Message, MessageId, RawMessage, TopicHash,
        TopicSubscriptionFilter,
    },
};
use p2pd_core::topic_settings::{Identity, TIME, TopicSettings};
use sha2::{Digest, Sha256};

/// Bytes in the name of a topic.
pub(super) const MAX_NAME: usize = 256;

/// Gossipsub with the settings of topics.
pub(crate) type Gossipsub = gossipsub::Behaviour<Settings, MaxCountSubscriptionFilter<ShortNames>>;

/// Takes no subscription to a topic whose name is longer than any here: a peer may say that it follows a hundred, and each name is kept.
#[derive(Clone, Default)]
pub(crate) struct ShortNames;

impl TopicSubscriptionFilter for ShortNames {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        topic.as_str().len() <= MAX_NAME
    }
}

/// Of topics of programs that have any, and of p2pd's own that differ from the usual.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    topics: Arc<RwLock<HashMap<TopicHash, TopicSettings>>>,
    publishing: Arc<Mutex<Publishing>>,
}

/// The message of our own that gossipsub is publishing, and those that it has refused.
#[derive(Default)]
struct Publishing {
    now: bool,
    ids: Option<Ids>,
    /// Of topics that take the same content once: ids, and how often each was refused. Gossipsub takes them for sent.
    unsent: HashMap<MessageId, u32>,
}

/// The ids of a message of our own.
pub(crate) struct Ids {
    /// As other peers have it.
    pub(crate) everywhere: MessageId,
    /// As our gossipsub has it: another one where that takes the same content for sent.
    pub(crate) here: MessageId,
    /// Its sequence number.
    pub(crate) number: u64,
}

/// Most refused messages that are remembered; another try of others is a duplicate for a minute.
const UNSENT: usize = 4096;

impl Settings {
    /// Holds a topic to these from now on; `None`: to the usual ones.
    pub(crate) fn set(&self, topic: TopicHash, settings: Option<TopicSettings>) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        match settings {
            Some(settings) => topics.insert(topic, settings),
            None => topics.remove(&topic),
        };
    }

    pub(crate) fn of(&self, topic: &TopicHash) -> TopicSettings {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or_default()
    }

    /// Runs what publishes a message, and tells the ids that it got.
    pub(crate) fn publishing<T>(&self, publish: impl FnOnce() -> T) -> (T, Option<Ids>) {
        self.own().now = true;
        let published = publish();
        let mut own = self.own();
        own.now = false;
        (published, own.ids.take())
    }

    fn own(&self) -> MutexGuard<'_, Publishing> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that content was refused, or that it went out.
    pub(crate) fn note_unsent(&self, id: &MessageId, refused: bool) {
        let mut own = self.own();
        if !refused {
            own.unsent.remove(id);
            return;
        }
        if own.unsent.len() >= UNSENT {
            own.unsent.clear();
        }
        let times = own.unsent.entry(id.clone()).or_default();
        *times = times.saturating_add(1);
    }

    /// The id of a message for our gossipsub.
    pub(crate) fn id_here(&self, message: &Message) -> MessageId {
        let everywhere = self.id(message);
        let mut own = self.own();
        if !own.now {
            return everywhere;
        }
        let here = match own.unsent.get(&everywhere) {
            Some(times) => MessageId::new(&[everywhere.0.as_slice(), &times.to_be_bytes()].concat()),
            None => everywhere.clone(),
        };
        own.ids = Some(Ids { everywhere, here: here.clone(), number: message.sequence_number.unwrap_or_default() });
        here
    }

    /// The id of a message, as other implementations have it, so that their offers of messages name the same ones.
    pub(crate) fn id(&self, message: &Message) -> MessageId {
        let settings = self.of(&message.topic);
        let number = message.sequence_number.unwrap_or_default().to_be_bytes();
        let numbered = |sender: &[u8]| MessageId::new(&[sender, &number].concat());
        match (settings.identity, &message.source) {
            (Identity::Sender, Some(sender)) => numbered(&sender.to_bytes()),
            (Identity::Key, Some(sender)) => numbered(key(sender)),
            (Identity::Key, None) => MessageId::new(&Sha256::digest(&message.data)),
            (Identity::Sender, None) | (Identity::Content, _) => {
                let dated = settings.identity == Identity::Content && settings.max_age_ms > 0;
                let content = message.data.get(if dated { TIME } else { 0 }..).unwrap_or_default();
                let hash = Sha256::new().chain_update(message.topic.as_str()).chain_update([0]).chain_update(content);
                MessageId::new(&hash.finalize())
            }
        }
    }
}

/// The encoded public key of a peer, which its id holds if it is short, such as those of Ed25519; otherwise (RSA) a hash of it,
/// which is not what js-libp2p has.
fn key(peer: &PeerId) -> &[u8] {
    peer.as_ref().digest()
}

impl DataTransform for Settings {
    /// Gossipsub has verified what a message has. What is neither wholly signed (StrictSign) nor, where its topic allows it,
    /// wholly unsigned (StrictNoSign) is refused here: other peers would blame whoever passed it on. A refused message has no
    /// id yet, so it cannot stand in the way of another.
    fn inbound_transform(&self, message: RawMessage) -> io::Result<Message> {
        let RawMessage { source, data, sequence_number, topic, signature, key, .. } = message;
        let signed = source.is_some() && sequence_number.is_some() && signature.is_some();
        let bare = source.is_none() && sequence_number.is_none() && signature.is_none() && key.is_none();
        if signed || (bare && self.of(&topic).allow_unsigned) {
            return Ok(Message { source, data, sequence_number, topic });
        }
        Err(io::Error::other(if bare { "without a signature" } else { "neither signed nor unsigned" }))
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicHash {
        TopicHash::from_raw("chat")
    }

    fn message(sender: PeerId, number: u64, data: &[u8]) -> Message {
        Message { source: Some(sender), data: data.into(), sequence_number: Some(number), topic: topic() }
    }

    #[test]
    fn senders_numbers_or_bytes_tell_messages_apart() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let settings = Settings::default();
        let same = |one: Message, other: Message| settings.id(&one) == settings.id(&other);
        assert!(!same(message(a, 1, b"x"), message(b, 1, b"x")));
        assert!(!same(message(a, 1, b"x"), message(a, 2, b"x")));
        let by_content = TopicSettings { identity: Identity::Content, ..TopicSettings::default() };
        settings.set(topic(), Some(by_content));
        assert!(same(message(a, 1, b"x"), message(b, 7, b"x")));
        assert!(!same(message(a, 1, b"x"), message(a, 1, b"y")));
        settings.set(topic(), Some(TopicSettings { max_age_ms: 1_000, ..by_content }));
        assert!(same(message(a, 1, b"1 o'clockx"), message(b, 7, b"2 o'clockx")), "whatever the time before it");
    }

    #[test]
    fn refused_content_has_another_id_here_until_it_goes_out() {
        let (settings, content) = (Settings::default(), message(PeerId::random(), 1, b"x"));
        let publish = || settings.publishing(|| settings.id_here(&content)).1.unwrap();
        let first = publish();
        assert_eq!(first.here, first.everywhere);
        settings.note_unsent(&first.everywhere, true);
        let second = publish();
        settings.note_unsent(&first.everywhere, true);
        let third = publish();
        assert_ne!(second.here, first.here);
        assert_ne!(third.here, second.here);
        assert_eq!((&second.everywhere, &third.everywhere), (&first.everywhere, &first.everywhere));
        assert_eq!(settings.id_here(&content), first.everywhere, "what others send");
        settings.note_unsent(&first.everywhere, false);
        assert_eq!(publish().here, first.everywhere);
    }

    /// Sender and number as the specification joins them, and what gossipsub 17.1 of js-libp2p made of the same.
    #[test]
    fn ids_are_those_of_others() {
        let key = "08011220f680dc77b0533ef684ca7a43862e9fe79e4a0a8f682a70ac0afd85834369ef3c";
        let bytes = |hex: String| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let sender = PeerId::from_bytes(&bytes(format!("0024{key}"))).unwrap();
        let settings = Settings::default();
        let id = |settings: &Settings| settings.id(&message(sender, 5, b"x"));
        assert_eq!(id(&settings), MessageId::new(&bytes(format!("{key}0000000000000005"))));
        settings.set(topic(), Some(TopicSettings { identity: Identity::Sender, ..TopicSettings::default() }));
        assert_eq!(id(&settings), MessageId::new(&bytes(format!("0024{key}0000000000000005"))));
    }

    #[test]
    fn a_message_is_signed_or_where_its_topic_allows_it_bare() {
        let settings = Settings::default();
        let bare = RawMessage {
            source: None,
            data: b"x".to_vec(),
            sequence_number: None,
            topic: topic(),
            signature: None,
            key: None,
            validated: false,
        };
        let (source, signature) = (Some(PeerId::random()), Some(vec![1]));
        let signed = RawMessage { source, sequence_number: Some(1), signature: signature.clone(), ..bare.clone() };
        let read = |raw: &RawMessage| settings.inbound_transform(raw.clone());
        assert!(read(&bare).is_err());
        assert!(read(&signed).is_ok(), "gossipsub has verified it");
        settings.set(topic(), Some(TopicSettings { allow_unsigned: true, ..TopicSettings::default() }));
        for neither in [
            RawMessage { source, ..bare.clone() },
            RawMessage { sequence_number: Some(1), ..bare.clone() },
            RawMessage { key: Some(vec![1]), ..bare.clone() },
            RawMessage { signature, ..bare.clone() },
            RawMessage { sequence_number: None, ..signed.clone() },
            RawMessage { signature: None, ..signed.clone() },
        ] {
            assert!(read(&neither).is_err(), "{neither:?}");
        }
        assert!(read(&signed).is_ok());
        let id = |topic: &str| settings.id(&Message { topic: TopicHash::from_raw(topic), ..read(&bare).unwrap() });
        assert_eq!(id("chat"), MessageId::new(&Sha256::digest(b"x")), "as js-libp2p has it");
        let by_sender = TopicSettings { identity: Identity::Sender, allow_unsigned: true, ..TopicSettings::default() };
        settings.set(topic(), Some(by_sender));
        settings.set(TopicHash::from_raw("others"), Some(by_sender));
        assert_ne!(id("chat"), id("others"), "the same bytes on another topic are another message");
    }
}
