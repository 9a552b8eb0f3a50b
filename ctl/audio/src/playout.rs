//! What goes into the jitter buffer and what comes out of it.

/// A group as it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Epoch of the publisher.
    pub epoch: u64,
    /// Number of the group.
    pub seq: u64,
    /// Media time of its first sample, 48 kHz ticks.
    pub pts: u64,
    /// Publisher's wall clock at that sample, microseconds since 1970.
    pub capture_us: u64,
    /// Its packets.
    pub frames: Vec<Frame>,
}

/// A packet and how long it plays.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The packet.
    pub packet: Vec<u8>,
    /// 48 kHz ticks.
    pub ticks: u64,
}

/// What to play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Playout {
    /// This packet.
    Frame {
        /// Media time, 48 kHz ticks.
        pts: u64,
        /// The packet.
        packet: Vec<u8>,
    },
    /// Something in place of what did not come.
    Conceal {
        /// Media time, 48 kHz ticks.
        pts: u64,
        /// How long, in ticks: 20 ms at most, a multiple of 2.5 ms.
        ticks: u64,
    },
    /// The publisher began a new epoch: the decoder is reset.
    Restart,
}
