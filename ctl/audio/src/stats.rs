//! What a listener counted.

/// Numbers of one listening session; frames are counted, times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Groups that came, each counted once.
    pub groups: u64,
    /// Groups that came again.
    pub duplicates: u64,
    /// Groups that came after a later one, by repair or another path, and still in time.
    pub reordered: u64,
    /// Frames that came after they were due.
    pub late: u64,
    /// Frames played.
    pub played: u64,
    /// Frames concealed.
    pub concealed: u64,
    /// Frames skipped to be live again after a cut.
    pub skipped: u64,
    /// Times the buffer ran empty.
    pub underruns: u64,
    /// Times the publisher began anew.
    pub restarts: u64,
    latencies: Vec<u32>,
}

/// Latencies kept for the median.
const KEPT: usize = 4096;

impl Stats {
    pub(crate) fn latency(&mut self, us: u64) {
        if self.latencies.len() >= KEPT {
            self.latencies.drain(..KEPT / 2);
        }
        self.latencies.push(u32::try_from(us).unwrap_or(u32::MAX));
    }

    /// Median of capture to playout; compares two machines' clocks, so it is as right as they are.
    pub fn median_latency_us(&self) -> Option<u32> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}
