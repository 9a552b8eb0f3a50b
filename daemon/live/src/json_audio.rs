//! The judge of audio in the old format: messages of one stream id in JSON.

use std::sync::Arc;

use p2pd_core::{
    id::{PeerId, StreamId},
    verdict,
};
use p2pd_net::{Class, Judge, Message, Subscription, Time, Verdict, queue};

use crate::{
    Clocks, TooLarge,
    json_format::{self, AudioMessage},
    lock,
};

/// What waits for the subscriber, in messages and bytes.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 4 << 20;

/// What is heard.
#[derive(Clone, Debug)]
pub enum JsonItem {
    /// Of one publisher.
    Message {
        /// Who.
        sender: PeerId,
        /// What it says.
        message: AudioMessage,
    },
    /// In the place of a message that was refused.
    TooLarge(TooLarge),
    /// The stream of a publisher is over, for this reason.
    Ended {
        /// Whose.
        publisher: PeerId,
        /// Why.
        reason: &'static str,
    },
}

/// The topic of a stream id, as long as it is followed.
#[derive(Clone)]
pub struct JsonTopic(Arc<queue::Writer<JsonItem>>);

impl JsonTopic {
    /// Tells the subscriber that the stream of a publisher is over, after all messages that have come.
    pub fn end(&self, publisher: PeerId, reason: &'static str) {
        self.0.push(0, JsonItem::Ended { publisher, reason });
    }
}

/// Judges the topic of one stream id.
pub struct JsonJudge {
    stream: StreamId,
    clocks: Clocks,
    heard: Arc<queue::Writer<JsonItem>>,
}

impl JsonJudge {
    /// The topic of a stream id, how to follow it, and what is heard.
    pub fn subscription(stream: StreamId, clocks: Clocks) -> (JsonTopic, Subscription, queue::Reader<JsonItem>) {
        let (heard, reader) = queue::bounded(WAITING, WAITING_BYTES);
        let heard = Arc::new(heard);
        let topic = JsonTopic(heard.clone());
        let judge = Box::new(JsonJudge { stream, clocks, heard });
        (topic, Subscription { kind: "json audio", class: Class::Live, judge }, reader)
    }
}

impl Judge for JsonJudge {
    fn judge(&mut self, message: Message, time: Time) -> Verdict {
        let (bytes, most) = (message.data.len(), json_format::MAX_MESSAGE);
        if bytes > most {
            // Other networks may allow more, and whoever passed it on did nothing wrong.
            self.heard.push(0, JsonItem::TooLarge(TooLarge { sender: message.sender, bytes, most }));
            return Verdict::Ignore;
        }
        let Some(sender) = message.sender else { return Verdict::Reject("unsigned") };
        let Some((said, at)) = json_format::decode(&message.data, &self.stream) else {
            return Verdict::Reject("not a message of this stream");
        };
        if sender == message.source {
            lock(&self.clocks.0).heard(time.now, &sender, at);
        }
        let timely = Verdict::from(verdict::judge_time(time.wall, at));
        if timely == Verdict::Accept {
            self.heard.push(said.weight(), JsonItem::Message { sender, message: said });
        }
        timely
    }
}
