//! The settings of `[streams]`.

use p2pd_core::setting::{Fault, within};
use serde::Serialize;

/// Live streams.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct StreamSettings {
    /// Most streams that local programs publish at once, 1 to 64.
    #[config(default = 16, env = "P2PD_STREAMS_MAX_PUBLICATIONS")]
    pub max_publications: u32,

    /// Fetch groups of audio that gossip did not bring in time.
    #[config(default = true, env = "P2PD_STREAMS_REPAIR")]
    pub repair: bool,

    /// Drop this percentage of groups on arrival, 0 to 90, to try how listeners fare on a bad network.
    #[config(default = 0, env = "P2PD_STREAMS_DROP_PERCENT")]
    pub drop_percent: u8,
}

impl StreamSettings {
    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        within("max_publications", &self.max_publications, &(1..=64))?;
        within("drop_percent", &self.drop_percent, &(0..=90))
    }
}
