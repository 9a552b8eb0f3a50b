//! What topics bring.

use bytes::Bytes;
use p2pd_core::id::PeerId;

/// What is heard on a topic.
#[derive(Debug)]
pub(super) enum Heard {
    Message {
        sender: Option<PeerId>,
        data: Bytes,
        /// What tells it apart from others.
        id: Bytes,
    },
    /// In the place of a message that was refused.
    TooLarge { sender: Option<PeerId>, bytes: usize, most: usize },
}

impl Heard {
    pub(super) fn weight(&self) -> usize {
        match self {
            Heard::Message { data, .. } => data.len(),
            Heard::TooLarge { .. } => 0,
        }
    }
}
