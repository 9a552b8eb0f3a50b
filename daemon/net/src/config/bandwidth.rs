//! The settings of `[bandwidth]`.

use confique::Config as _;
use p2pd_core::setting::{Fault, Rate, within};
use serde::Serialize;

/// How fast bytes go to peers and come from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Bandwidth {
    /// To all peers together. Where a line to the world also carries a VPN, set this, and not wan_upload alone.
    #[config(default = 0, env = "P2PD_BANDWIDTH_UPLOAD")]
    pub upload: Rate,

    /// From all peers together.
    #[config(default = 0, env = "P2PD_BANDWIDTH_DOWNLOAD")]
    pub download: Rate,

    /// To peers at addresses of the world, beside upload: what the line to the world carries.
    #[config(default = 0, env = "P2PD_BANDWIDTH_WAN_UPLOAD")]
    pub wan_upload: Rate,

    /// From peers at addresses of the world. Topics and sound count, and are not slowed down. In the mean: what a peer has sent already, up to 1MiB a stream, comes faster.
    #[config(default = 0, env = "P2PD_BANDWIDTH_WAN_DOWNLOAD")]
    pub wan_download: Rate,

    /// Program streams, tunnels and what a relay passes on, to each peer; the rest counts.
    #[config(default = 0, env = "P2PD_BANDWIDTH_PEER_UPLOAD")]
    pub peer_upload: Rate,

    /// The same, from each peer.
    #[config(default = 0, env = "P2PD_BANDWIDTH_PEER_DOWNLOAD")]
    pub peer_download: Rate,

    /// Program streams, tunnels, the DHT and what a relay passes on, to all peers together.
    #[config(default = 0, env = "P2PD_BANDWIDTH_BULK_UPLOAD")]
    pub bulk_upload: Rate,

    /// The same, from all peers together.
    #[config(default = 0, env = "P2PD_BANDWIDTH_BULK_DOWNLOAD")]
    pub bulk_download: Rate,

    /// Messages of topics, to all peers together. A program that publishes faster waits for a second, and then is refused.
    #[config(default = 0, env = "P2PD_BANDWIDTH_MESSAGES_UPLOAD")]
    pub messages_upload: Rate,
}

impl Bandwidth {
    /// What is in force where nothing is set.
    pub fn defaults() -> Result<Self, Fault> {
        Bandwidth::builder().load().map_err(|error| Fault(error.to_string()))
    }

    /// Each rate, by its name.
    pub fn rates(&self) -> [(&'static str, Rate); 9] {
        [
            ("upload", self.upload),
            ("download", self.download),
            ("wan_upload", self.wan_upload),
            ("wan_download", self.wan_download),
            ("peer_upload", self.peer_upload),
            ("peer_download", self.peer_download),
            ("bulk_upload", self.bulk_upload),
            ("bulk_download", self.bulk_download),
            ("messages_upload", self.messages_upload),
        ]
    }

    /// Whether there is any bound.
    pub(crate) fn is_bounded(&self) -> bool {
        self.rates().into_iter().any(|(_, rate)| rate.0 > 0)
    }

    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        let bounds = Rate(8_000)..=Rate(12_500_000_000);
        self.rates()
            .into_iter()
            .filter(|(_, rate)| rate.0 > 0)
            .try_for_each(|(name, rate)| within(name, &rate, &bounds))
    }
}
