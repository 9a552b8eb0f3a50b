//! What a local reader of a stream is given.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use p2pd_core::ring::Next;
use p2pd_net::queue::Reader;

use crate::group::Group;

/// What a reader of a stream gets.
#[derive(Clone, Debug)]
pub enum StreamItem {
    /// A group of a native stream.
    Group {
        /// Signed by its publisher.
        group: Arc<Group>,
        /// Gossip did not bring it; a peer was asked for it.
        repaired: bool,
    },
    /// A slice of an encoded file, in the old format.
    Chunk(Bytes),
    /// A JSON object.
    Metadata(String),
    /// The stream is over, for this reason.
    Ended(&'static str),
}

impl StreamItem {
    pub(super) fn weight(&self) -> usize {
        match self {
            StreamItem::Chunk(chunk) => chunk.len(),
            StreamItem::Metadata(json) => json.len(),
            StreamItem::Group { .. } | StreamItem::Ended(_) => 0,
        }
    }
}

/// A reader's end: the burst, then what comes.
pub struct StreamReader {
    pub(super) burst: std::vec::IntoIter<Arc<Group>>,
    pub(super) seen: HashSet<(u64, u64)>,
    pub(super) live: Reader<StreamItem>,
}

impl StreamReader {
    /// The next item or gap; `None` when the daemon lets go of the stream.
    pub async fn next(&mut self) -> Option<Next<StreamItem>> {
        if let Some(group) = self.burst.next() {
            self.seen.insert((group.body.epoch, group.body.seq));
            return Some(Next::Item(StreamItem::Group { group, repaired: false }));
        }
        loop {
            let next = self.live.next().await?;
            match &next {
                // Came live while the burst was being read.
                Next::Item(StreamItem::Group { group, .. })
                    if self.seen.remove(&(group.body.epoch, group.body.seq)) => {}
                _ => return Some(next),
            }
        }
    }
}
