//! How much of a connection a relay passes on, as it tells both ends, and whether that is why one has ended. A relay that cuts a connection
//! says nothing at that time.

use std::{collections::HashMap, time::Duration};

use p2pd_core::id::PeerId;

/// Relays whose limits are remembered.
const MAX_REMEMBERED: usize = 256;
/// Of a limit of bytes, the part from which on it counts as reached, in hundredths: the relay counts also what encryption and muxing add.
const REACHED: u64 = 90;
/// By so much a limit of time may be reached sooner by the clock here.
const SOONER: Duration = Duration::from_secs(2);

/// The limits of each connection; `None`: no limit that the relay tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CircuitLimit {
    pub(crate) time: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl CircuitLimit {
    /// As it was told: nothing, or 0, is no limit.
    pub(crate) fn new(time: Option<Duration>, bytes: Option<u64>) -> Self {
        CircuitLimit { time: time.filter(|time| !time.is_zero()), bytes: bytes.filter(|bytes| *bytes > 0) }
    }

    /// Why a connection has ended that has carried so much, if a limit is why.
    pub(crate) fn cut(&self, Carried { bytes, time }: Carried) -> Option<String> {
        let reached = |limit: &u64| bytes >= limit.saturating_mul(REACHED) / 100;
        if let Some(limit) = self.bytes.filter(reached) {
            return Some(format!("the relay passes on {limit} bytes of a connection, and no more"));
        }
        let limit = self.time.filter(|limit| time.saturating_add(SOONER) >= *limit)?;
        Some(format!("the relay passes on a connection for {} s, and no longer", limit.as_secs()))
    }
}

/// What relays have told.
#[derive(Debug, Default)]
pub(crate) struct CircuitLimits(HashMap<PeerId, CircuitLimit>);

impl CircuitLimits {
    pub(crate) fn note(&mut self, relay: PeerId, limit: CircuitLimit) {
        if self.0.len() < MAX_REMEMBERED || self.0.contains_key(&relay) {
            self.0.insert(relay, limit);
        }
    }

    pub(crate) fn of(&self, relay: &PeerId) -> Option<CircuitLimit> {
        self.0.get(relay).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_why_where_it_was_reached() {
        let limit = CircuitLimit { time: Some(Duration::from_secs(120)), bytes: Some(100_000) };
        let carried = |bytes, secs| limit.cut(Carried { bytes, time: Duration::from_secs(secs) });
        assert_eq!(carried(89_999, 117), None);
        assert!(carried(90_000, 0).is_some_and(|why| why.contains("100000 bytes")));
        assert!(carried(0, 118).is_some_and(|why| why.contains("for 120 s")));
        assert_eq!(CircuitLimit::default().cut(Carried { bytes: u64::MAX, time: Duration::MAX }), None);
    }

    #[test]
    fn a_crowd_of_relays_is_not_remembered_without_bound() {
        let mut limits = CircuitLimits::default();
        for n in 0..400_u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_be_bytes());
            limits.note(PeerId::from_ed25519(&key), CircuitLimit::default());
        }
        assert_eq!(limits.0.len(), MAX_REMEMBERED);
        assert!(limits.of(&PeerId::from_ed25519(&[0; 32])).is_some());
        assert!(limits.of(&PeerId::from_ed25519(&[9; 32])).is_none(), "it was never told");
    }
}
