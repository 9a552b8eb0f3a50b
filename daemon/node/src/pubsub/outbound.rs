//! Messages of programs on their way to the network, and then to local readers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use p2pd_net::{NetError, Sending, Sent};

use super::{PubSub, PubSubError, Room};
use crate::lock;

/// Messages of one program on their way, in their order. Dropped before they are there, they go on all the same: what the
/// network has taken, local readers get too.
pub struct Outbound {
    owner: PubSub,
    messages: VecDeque<Message>,
}

struct Message {
    topic: String,
    data: Bytes,
    /// Or why it was refused.
    sending: Result<Sending, PubSubError>,
    /// Given back once it is gone.
    _room: Arc<Room>,
}

impl Outbound {
    /// How many are on their way.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Hands a message to the network, after those before it; [`Outbound::next`] tells what became of it.
    pub async fn hand(&mut self, topic: &str, data: Bytes, room: Arc<Room>) {
        let sending = self.owner.hand(topic, &data).await;
        self.messages.push_back(Message { topic: topic.to_owned(), data, sending, _room: room });
    }

    /// What became of the oldest message. Local readers have it then, too. `None` when none is on its way. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Sent, PubSubError>> {
        let sent = match &mut self.messages.front_mut()?.sending {
            Ok(sending) => Some(sending.sent().await),
            Err(_) => None,
        };
        let Message { topic, data, sending, _room } = self.messages.pop_front()?;
        Some(match sent {
            Some(sent) => self.owner.published(&topic, data, sent),
            None => sending.map(|_| Sent::default()),
        })
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if !messages.is_empty() {
            let mut left = Outbound { owner: self.owner.clone(), messages };
            self.owner.0.with.tasks.before_the_end(async move { while left.next().await.is_some() {} });
        }
    }
}

impl PubSub {
    /// For the messages of one program.
    pub fn outbound(&self) -> Outbound {
        Outbound { owner: self.clone(), messages: VecDeque::new() }
    }

    async fn hand(&self, topic: &str, data: &Bytes) -> Result<Sending, PubSubError> {
        self.check_topic(topic)?;
        let most = usize::try_from(self.settings(topic).max_message).unwrap_or(usize::MAX);
        if data.len() > most {
            let fault = format!("has {} bytes, takes at most {most}", data.len());
            return Err(PubSubError::Field { field: "data", fault });
        }
        self.wait_for_room(topic).await;
        Ok(self.0.with.net.pubsub.publish_ahead(topic, data.clone()).await?)
    }

    /// Waits until the readers who are to be waited for have caught up, or for as long as each of them may cost.
    async fn wait_for_room(&self, topic: &str) {
        let began = Instant::now();
        let rooms = lock(&self.0.topics).get(topic).map(|topic| topic.readers.rooms()).unwrap_or_default();
        for (room, patience) in rooms {
            let _ = tokio::time::timeout(patience.saturating_sub(began.elapsed()), room.wait()).await;
        }
    }

    /// Sends a message, waiting so long for somebody who follows the topic. Local readers get it too.
    pub async fn publish(&self, topic: &str, data: Bytes, wait: Duration, room: Room) -> Result<Sent, PubSubError> {
        let room = Arc::new(room);
        let deadline = Instant::now().checked_add(wait);
        let mut outbound = self.outbound();
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            outbound.hand(topic, data.clone(), room.clone()).await;
            match outbound.next().await.unwrap_or(Err(NetError::Stopped.into())) {
                Err(PubSubError::NoListeners(_)) if deadline.is_some_and(|at| Instant::now() < at) => {
                    if let Some(at) = deadline {
                        let _ = tokio::time::timeout_at(at.into(), changed).await;
                    }
                }
                sent => return sent,
            }
        }
    }

    /// Gives a message to local readers once the network has taken it.
    fn published(&self, topic: &str, data: Bytes, sent: Result<Sent, NetError>) -> Result<Sent, PubSubError> {
        let sent = match sent {
            Err(NetError::NoListeners) if self.is_read(topic) => Sent::default(),
            Err(NetError::NoListeners) => return Err(PubSubError::NoListeners(topic.to_owned())),
            sent => sent?,
        };
        self.on_message(topic, Some(self.0.with.me.clone()), data, sent.id.clone());
        Ok(sent)
    }

    /// Whether a program of this daemon gets the topic's messages, or will.
    fn is_read(&self, topic: &str) -> bool {
        lock(&self.0.topics).get_mut(topic).is_some_and(|topic| topic.log.is_some() || topic.readers.sweep() > 0)
    }
}
