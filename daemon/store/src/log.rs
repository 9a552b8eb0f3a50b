//! Logs of topics: messages kept by number, for readers who come back.

use bytes::Bytes;
use prost::Message;
use rocksdb::{DB, Direction, IteratorMode, WriteBatch};

use crate::{
    Rows, Store, StoreError,
    record::{LogRecord, MessageRecord, TopicRecord},
    schema::{MESSAGES, TOPICS, message_key, read_message_key},
    table::{Reach, table, unreadable},
};

/// How much a log may keep.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Payload bytes.
    pub bytes: u64,
    /// Messages that came before this go, in running time.
    pub since: u64,
}

impl Store {
    /// Every topic that has settings or a log.
    pub fn topics(&self) -> Result<Vec<(String, TopicRecord)>, StoreError> {
        Ok(self.topic_rows()?.into_iter().collect::<Result<_, _>>()?)
    }

    /// The same without those whose records cannot be read.
    pub fn readable_topics(&self) -> Result<Vec<(String, TopicRecord)>, StoreError> {
        Ok(self.topic_rows()?.into_iter().flatten().collect())
    }

    pub(crate) fn topic_rows(&self) -> Result<Rows<(String, TopicRecord)>, StoreError> {
        self.rows(TOPICS, |key, value| {
            Ok((key.to_owned(), TopicRecord::decode(value).map_err(|error| error.to_string())?))
        })
    }

    /// Keeps settings and log bounds of a topic; survives power loss once it has returned.
    pub fn put_topic(&self, topic: &str, record: &TopicRecord) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            batch.put_cf(table(db, TOPICS)?, topic, record.encode_to_vec());
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Forgets a topic's log, and the topic with it unless it has settings.
    pub fn end_log(&self, topic: &str, left: &TopicRecord) -> Result<(), StoreError> {
        self.call(|db| {
            let mut batch = WriteBatch::default();
            match left.settings {
                Some(_) => batch.put_cf(table(db, TOPICS)?, topic, left.encode_to_vec()),
                None => batch.delete_cf(table(db, TOPICS)?, topic),
            }
            batch.delete_range_cf(table(db, MESSAGES)?, message_key(topic, 0), message_key(topic, u64::MAX));
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Appends messages to a topic's log, whose numbers grow, and drops the oldest beyond what is kept. They survive power
    /// loss once this has returned. `record` is brought up to date.
    pub fn append(
        &self,
        topic: &str,
        record: &mut TopicRecord,
        messages: &[(u64, MessageRecord)],
        keep: Keep,
    ) -> Result<(), StoreError> {
        self.call(|db| {
            let table = table(db, MESSAGES)?;
            let mut batch = WriteBatch::default();
            let mut log = record.log.unwrap_or_default();
            for (number, message) in messages {
                batch.put_cf(table, message_key(topic, *number), message.encode_to_vec());
                log.next = log.next.max(number.saturating_add(1));
                log.bytes = log.bytes.saturating_add(weight(message));
            }
            let first = log.oldest;
            drop_old(db, topic, &mut log, keep)?;
            // What was appended just now may be too much, too, and is not in the iterator yet: the next append drops it.
            if log.oldest > first {
                batch.delete_range_cf(table, message_key(topic, first), message_key(topic, log.oldest));
            }
            record.log = Some(log);
            batch.put_cf(self::table(db, TOPICS)?, topic, record.encode_to_vec());
            self.write(db, batch, Reach::Disk)
        })
    }

    /// Messages of a log from number `from` on, oldest first, at most so many and, beyond the first, so many bytes.
    pub fn messages_from(
        &self,
        topic: &str,
        from: u64,
        most: usize,
        bytes: u64,
    ) -> Result<Vec<(u64, MessageRecord)>, StoreError> {
        let start = message_key(topic, from);
        self.call(|db| {
            let rows = db.iterator_cf(table(db, MESSAGES)?, IteratorMode::From(&start, Direction::Forward));
            let mut messages = Vec::new();
            let mut left = bytes;
            for row in rows.take(most) {
                let (key, value) = row?;
                let Some(number) = read_message_key(topic, &key) else { break };
                let message = read(&key, &value)?;
                left = left.saturating_sub(weight(&message));
                if left == 0 && !messages.is_empty() {
                    break;
                }
                messages.push((number, message));
            }
            Ok(messages)
        })
    }

    /// Ids of the newest messages of a log, at most so many, and when those came in running time, oldest first.
    pub fn newest_ids(&self, topic: &str, most: usize) -> Result<Vec<(Bytes, u64)>, StoreError> {
        let end = message_key(topic, u64::MAX);
        self.call(|db| {
            let rows = db.iterator_cf(table(db, MESSAGES)?, IteratorMode::From(&end, Direction::Reverse));
            let mut ids = Vec::new();
            for row in rows.take(most) {
                let (key, value) = row?;
                let Some(_) = read_message_key(topic, &key) else { break };
                let message = read(&key, &value)?;
                let came = message.came();
                ids.push((message.id, came));
            }
            ids.reverse();
            Ok(ids)
        })
    }
}

/// Moves the beginning of a log past what is not kept any more.
fn drop_old(db: &DB, topic: &str, log: &mut LogRecord, keep: Keep) -> Result<(), StoreError> {
    let from = message_key(topic, log.oldest);
    for row in db.iterator_cf(table(db, MESSAGES)?, IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = row?;
        let Some(number) = read_message_key(topic, &key) else { break };
        let message = read(&key, &value)?;
        if log.bytes <= keep.bytes && message.came() >= keep.since {
            break;
        }
        log.bytes = log.bytes.saturating_sub(weight(&message));
        log.oldest = number.saturating_add(1);
    }
    Ok(())
}

fn read(key: &[u8], value: &[u8]) -> Result<MessageRecord, StoreError> {
    Ok(MessageRecord::decode(value).map_err(|error| unreadable(MESSAGES, key, error.to_string()))?)
}

/// What a message counts: its payload, and what it costs beside.
fn weight(message: &MessageRecord) -> u64 {
    u64::try_from(message.data.len()).unwrap_or(u64::MAX).saturating_add(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(received: u64, size: usize) -> MessageRecord {
        MessageRecord { data: vec![7; size].into(), received, ..MessageRecord::default() }
    }

    #[test]
    fn a_log_is_read_by_number_and_bounded_by_bytes_and_age() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut record =
            TopicRecord { log: Some(LogRecord { oldest: 5, next: 5, ..Default::default() }), settings: None };
        let mut other = TopicRecord::default();
        store.append("chats", &mut other, &[(1, message(0, 1))], Keep { bytes: 1000, since: 0 }).unwrap();
        let all = Keep { bytes: 10_000, since: 0 };
        store.append("chat", &mut record, &[(5, message(10, 900)), (6, message(20, 900))], all).unwrap();
        store.append("chat", &mut record, &[(9, message(30, 900))], all).unwrap();
        let numbers = |from| -> Vec<u64> {
            store.messages_from("chat", from, 100, 1 << 20).unwrap().iter().map(|(n, _)| *n).collect()
        };
        assert_eq!(numbers(0), [5, 6, 9]);
        assert_eq!(numbers(7), [9]);
        let times = |most| -> Vec<u64> {
            store.newest_ids("chat", most).unwrap().into_iter().map(|(_, received)| received).collect()
        };
        assert_eq!((times(9), times(2)), (vec![10, 20, 30], vec![20, 30]));
        assert_eq!(store.messages_from("chat", 0, 2, 1 << 20).unwrap().len(), 2);
        assert_eq!(store.messages_from("chat", 0, 9, 1).unwrap().len(), 1, "one comes at least");
        store.append("chat", &mut record, &[(10, message(40, 900))], Keep { bytes: 3000, since: 20 }).unwrap();
        store.append("chat", &mut record, &[], Keep { bytes: 3000, since: 0 }).unwrap();
        assert_eq!(numbers(0), [6, 9, 10]);
        assert_eq!(record.log.unwrap().oldest, 6);
        assert_eq!(store.topics().unwrap(), [("chat".to_owned(), record.clone()), ("chats".to_owned(), other)]);
        store.append("chat", &mut record, &[], Keep { bytes: 3000, since: 99 }).unwrap();
        assert_eq!(numbers(0), [0; 0]);
        assert_eq!((record.log.unwrap().oldest, record.log.unwrap().bytes), (11, 0));
        let left = TopicRecord { settings: Some(crate::SettingsRecord::default()), log: None };
        store.end_log("chat", &left).unwrap();
        assert_eq!(store.topics().unwrap()[0], ("chat".to_owned(), left));
        store.end_log("chat", &TopicRecord::default()).unwrap();
        assert_eq!(store.topics().unwrap().len(), 1);
        assert_eq!(store.messages_from("chats", 0, 9, 99).unwrap().len(), 1);
    }
}
