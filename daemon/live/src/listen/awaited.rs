//! Streams of the old format that somebody waits for before they are announced.

use p2pd_core::{
    id::{PeerId, StreamId},
    ring::Ring,
};

use super::{READER, StreamItem};
use crate::{Live, lock};

/// What is heard in the old format of a stream that somebody here waits for, before it is told who publishes it.
pub(super) struct Awaited {
    pub(super) waiting: usize,
    pub(super) heard: Ring<(PeerId, StreamItem)>,
}

impl Awaited {
    pub(super) fn new() -> Self {
        Awaited { waiting: 0, heard: Ring::new(READER.0, READER.1) }
    }

    /// What was heard of a publisher since it ended the stream last.
    pub(super) fn of(&self, publisher: &PeerId) -> Vec<(usize, StreamItem)> {
        let heard: Vec<_> = self.heard.items().filter(|(of, _)| of == publisher).collect();
        let ended = heard.iter().rposition(|(_, item)| matches!(item, StreamItem::Ended(_)));
        let since = heard.into_iter().skip(ended.map_or(0, |ended| ended + 1));
        since.map(|(_, item)| (item.weight(), item.clone())).collect()
    }
}

/// Holds on to what is heard of an awaited stream, until dropped.
pub struct Waiting {
    pub(super) live: Live,
    pub(super) stream: StreamId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(awaited) = lock(&self.live.0.streams).awaited.get_mut(&self.stream) {
            awaited.waiting = awaited.waiting.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_awaited_stream_begins_after_its_last_end() {
        let (one, other) = (PeerId::from_ed25519(&[1; 32]), PeerId::from_ed25519(&[2; 32]));
        let mut awaited = Awaited::new();
        let chunk = |text: &'static str| StreamItem::Chunk(text.into());
        for (of, item) in [
            (&one, chunk("old")),
            (&one, StreamItem::Ended("ended")),
            (&other, chunk("other")),
            (&one, chunk("new")),
            (&other, StreamItem::Ended("ended")),
        ] {
            awaited.heard.push(item.weight(), (of.clone(), item));
        }
        let heard = |of| awaited.of(of).into_iter().map(|(_, item)| format!("{item:?}")).collect::<Vec<_>>();
        assert_eq!(heard(&one), [r#"Chunk(b"new")"#]);
        assert!(heard(&other).is_empty());
    }
}
