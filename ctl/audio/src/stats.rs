//! What a listener counted.

/// Numbers of one listening session; frames are counted, times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Groups that came, each counted once.
    pub groups: u64,
    /// Groups that never came, of those between the first and the newest.
    pub lost: u64,
    /// Groups that the daemon had to ask a peer for, of those that came.
    pub repaired: u64,
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
    /// Times the buffer ran empty while the stream went on.
    pub underruns: u64,
    /// Times the publisher began anew.
    pub restarts: u64,
    /// How much faster the publisher's clock runs than ours, in parts per million; known after a minute or so.
    pub drift_ppm: Option<f64>,
    /// The 95th percentile of the delays beyond the fastest group's, in microseconds.
    pub spread_us: u64,
    latencies: Latencies,
}

/// Latencies kept for the median.
const KEPT: usize = 4096;

#[derive(Clone, Default, PartialEq)]
struct Latencies(Vec<u32>);

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of them", self.0.len())
    }
}

impl Stats {
    pub(crate) fn latency(&mut self, us: u64) {
        let Latencies(latencies) = &mut self.latencies;
        if latencies.len() >= KEPT {
            latencies.drain(..KEPT / 2);
        }
        latencies.push(u32::try_from(us).unwrap_or(u32::MAX));
    }

    /// Median from capture to playout. It compares the clocks of two machines, and is as exact as they are.
    pub fn median_latency_us(&self) -> Option<u32> {
        let mut sorted = self.latencies.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_newest_latencies() {
        let mut stats = Stats::default();
        assert_eq!(stats.median_latency_us(), None);
        [50, 10, 30].into_iter().for_each(|us| stats.latency(us));
        assert_eq!(stats.median_latency_us(), Some(30));
        stats.latency(u64::MAX);
        assert_eq!(stats.median_latency_us(), Some(50), "the upper one of two");
        (4..4_096).for_each(|_| stats.latency(7));
        assert_eq!(format!("{:?}", stats.latencies), "4096 of them");
        stats.latency(9);
        assert_eq!(
            format!("{:?}", stats.latencies),
            "2049 of them",
            "half of them are forgotten when there are too many"
        );
        (0..2_047).for_each(|_| stats.latency(9));
        assert_eq!((stats.latencies.0.len(), stats.median_latency_us()), (4_096, Some(9)));
    }
}
