//! Messages that were refused for their size: counted, and told to the log once for each topic.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use p2pd_core::id::PeerId;

use crate::lock;

/// Topics whose messages too large the log has told of; then it begins anew.
const MAX_SAID: usize = 256;

/// What an owner has refused so.
#[derive(Debug, Default)]
pub struct Oversized {
    count: AtomicU64,
    said: Mutex<HashSet<String>>,
}

impl Oversized {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts one, and logs the first of a topic.
    pub fn note(&self, topic: &str, sender: Option<&PeerId>, bytes: usize, most: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let from = sender.map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let mut said = lock(&self.said);
        if said.len() >= MAX_SAID {
            said.clear();
        }
        if said.insert(topic.to_owned()) {
            tracing::warn!(
                topic,
                from,
                bytes,
                most,
                "a message was refused, since it is larger than the topic takes; more are only counted"
            );
        }
    }
}
