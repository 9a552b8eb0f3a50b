//! This machine's clock, by which frames are dated.

use std::time::{SystemTime, UNIX_EPOCH};

use p2pd_audio::ticks;

/// Microseconds since 1970.
pub(super) fn wall_us() -> u64 {
    ticks::duration_us(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
