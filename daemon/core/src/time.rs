//! The clocks of p2pd, kept apart by type so that one is never compared with another.

/// Wall clock, milliseconds since 1970-01-01T00:00:00Z. Crosses the network; may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

/// Monotonic clock, milliseconds since an origin that the process chose. Never leaves the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoMs(pub u64);

/// Running time, milliseconds: begins with the wall clock at a daemon's first start, and from then on counts only while the daemon runs
/// and the machine is awake, also across restarts. Never jumps; kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunMs(pub u64);

impl UnixMs {
    /// How long ago `earlier` was, zero if it lies in the future.
    pub fn since(self, earlier: UnixMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl MonoMs {
    /// How long ago `earlier` was, zero if it lies in the future.
    pub fn since(self, earlier: MonoMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl RunMs {
    /// How long ago `earlier` was, zero if it lies in the future.
    pub fn since(self, earlier: RunMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
