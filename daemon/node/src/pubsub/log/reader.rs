//! Readers of logs, who page through the disk at their own pace.

use std::collections::VecDeque;

use p2pd_core::id::PeerId;
use p2pd_store::MessageRecord;
use tokio::sync::watch;

use super::super::TopicItem;
use crate::{
    lock,
    pubsub::{PubSub, PubSubError},
};

/// How much of the disk a reader reads ahead.
const PAGE: (usize, u64) = (256, 1 << 20);

/// A reader of a log.
pub struct LogReader {
    owner: PubSub,
    topic: String,
    /// Number that is read next.
    next: u64,
    written: watch::Receiver<u64>,
    page: VecDeque<(u64, MessageRecord)>,
}

/// What a log's reader gets.
pub enum Logged {
    /// A message.
    Item(TopicItem),
    /// Messages that are not to be had.
    Gap {
        /// The first number.
        from: u64,
        /// The last one.
        to: u64,
        /// As the API names it.
        reason: &'static str,
    },
}

/// What a record of the log is to a reader.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The daemon was away, then and during what is missing before it.
    Away,
    /// It is not the next.
    Missing,
    /// It is the next, a message or a note that one was too large.
    Next,
}

/// Of a record with this number, for a reader who is at `next`; `oldest` is kept.
fn step(next: u64, number: u64, away: bool, oldest: Option<u64>) -> Step {
    let nothing_expired = oldest.is_none_or(|oldest| oldest <= next);
    if away && (nothing_expired || number <= next) {
        Step::Away
    } else if number > next {
        Step::Missing
    } else {
        Step::Next
    }
}

impl LogReader {
    pub(super) fn new(owner: PubSub, topic: &str, next: u64, written: watch::Receiver<u64>) -> Self {
        LogReader { owner, topic: topic.to_owned(), next, written, page: VecDeque::new() }
    }

    /// The cursor after what was read last.
    pub fn cursor(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// What comes next; `None` when the log is forgotten.
    pub async fn next(&mut self) -> Option<Result<Logged, PubSubError>> {
        loop {
            if let Some((number, message)) = self.page.pop_front() {
                let step = step(self.next, number, message.away, self.oldest());
                if step == Step::Missing {
                    self.page.push_front((number, message));
                    return Some(Ok(self.gap(number).await));
                }
                let from = std::mem::replace(&mut self.next, number.saturating_add(1));
                if step == Step::Away || message.too_large {
                    let reason = if message.away { "daemon-away" } else { "too-large" };
                    return Some(Ok(Logged::Gap { from, to: number, reason }));
                }
                let sender = (!message.sender.is_empty()).then(|| PeerId::from_bytes(&message.sender)).transpose();
                let Ok(sender) = sender else { return Some(Err(PubSubError::Internal("a sender in a log".into()))) };
                let item = TopicItem { sender, data: message.data, received_ms: message.received };
                return Some(Ok(Logged::Item(item)));
            }
            let written = *self.written.borrow_and_update();
            if self.next < written {
                let (topic, from) = (self.topic.clone(), self.next);
                match self.owner.0.with.disk.run(move |store| store.messages_from(&topic, from, PAGE.0, PAGE.1)).await {
                    Ok(page) if page.is_empty() => return Some(Ok(self.gap(written).await)),
                    Ok(page) => self.page = page.into(),
                    Err(error) => return Some(Err(error.into())),
                }
                continue;
            }
            self.written.changed().await.ok()?;
        }
    }

    /// The oldest number that is kept; `None` when the log is forgotten.
    fn oldest(&self) -> Option<u64> {
        lock(&self.owner.0.topics).get(&self.topic).and_then(|topic| Some(topic.log.as_ref()?.record.oldest))
    }

    /// The numbers up to `number` are not there, or no more.
    async fn gap(&mut self, number: u64) -> Logged {
        // What the disk has let go of is known once the batch is written.
        drop(self.owner.0.writing.lock().await);
        let from = std::mem::replace(&mut self.next, number);
        let expired = self.oldest().is_none_or(|oldest| from < oldest);
        let reason = if expired { "expired" } else { "store-busy" };
        Logged::Gap { from, to: number.saturating_sub(1), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_daemon_was_away_is_never_a_message() {
        assert_eq!(step(5, 7, true, Some(1)), Step::Away, "with what is missing before it");
        // What was before it has expired meanwhile, and it too.
        assert_eq!(step(5, 7, true, Some(8)), Step::Missing);
        assert_eq!(step(7, 7, true, Some(8)), Step::Away);
        assert_eq!(step(5, 7, false, Some(1)), Step::Missing, "before a message or a note that one was too large");
        assert_eq!(step(7, 7, false, Some(1)), Step::Next);
    }
}
