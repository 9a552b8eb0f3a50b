//! Who has to go when there are more peers than wanted.

use std::time::Duration;

use libp2p::PeerId;
use p2pd_core::pins::{Worth, surplus};

use super::table::Table;
use crate::{
    Network,
    standing::{Standing, Standings},
};

/// When the least useful peers are let go of.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaterMarks {
    /// From more connected peers than this on.
    pub(super) high: usize,
    /// Until so many remain.
    pub(super) low: usize,
    /// Those connected for less are left alone.
    pub(super) grace: Duration,
}

impl WaterMarks {
    pub(super) fn of(network: &Network) -> Self {
        WaterMarks {
            high: network.connections_high as usize,
            low: network.connections_low as usize,
            grace: network.connections_grace.0,
        }
    }
}

/// The least useful peers of those that are too many.
pub(super) fn surplus_of(table: &Table, standings: &Standings, marks: WaterMarks) -> Vec<PeerId> {
    let none = Standing::default();
    let worth = |(peer, age): (PeerId, Duration)| {
        let standing = standings.get(&peer).unwrap_or(&none);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let worth = Worth {
            kept: !standing.wanted.is_empty(),
            young: age < marks.grace,
            busy: table.is_busy(&peer),
            topics: standing.topics,
            score: standing.score,
            age_ms,
        };
        (peer, worth)
    };
    let all: Vec<_> = table.ages().map(worth).collect();
    surplus(&all, marks.high, marks.low)
}
