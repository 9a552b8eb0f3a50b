//! The settings of `[topics]`.

use p2pd_core::setting::{Fault, within};
use serde::Serialize;

/// Most topics with a log, whatever is set.
const MAX_LOGS: u32 = 32;

/// Topics of programs.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct TopicLimits {
    /// Most topics whose messages are kept on disk for durable subscriptions, 0 to 32. Logs that are there already stay.
    #[config(default = 32, env = "P2PD_TOPICS_MAX_LOGS")]
    pub max_logs: u32,
}

impl TopicLimits {
    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        within("max_logs", &self.max_logs, &(0..=MAX_LOGS))
    }
}
