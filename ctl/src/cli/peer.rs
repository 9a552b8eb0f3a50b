//! Flags of `peer`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    help::examples,
    values::{duration, whole},
};

#[derive(Args)]
pub(crate) struct Peer {
    /// Without one, lists the connected peers.
    #[command(subcommand)]
    pub(crate) action: Option<PeerAction>,
}

#[derive(Subcommand)]
pub(crate) enum PeerAction {
    /// One peer: its connections and what each protocol has carried.
    #[command(after_help = examples(&["p2pctl peer show ..mv1eVMvL"]))]
    Show {
        /// Peer id.
        peer: String,
    },
    /// Measure round trips to a peer.
    #[command(after_help = examples(&["p2pctl peer ping ..mv1eVMvL -n 10 --interval 100ms"]))]
    Ping {
        /// Peer id.
        peer: String,
        /// How many.
        #[arg(long, short = 'n', default_value_t = 3, value_parser = whole(1..=u32::MAX))]
        count: u32,
        /// From one to the next, 10ms to 1m.
        #[arg(long, value_parser = duration, default_value = "1s")]
        interval: Duration,
    },
    /// All of them.
    #[command(after_help = examples(&["p2pctl peer list", "p2pctl -o jsonl peer list | jq -r .peer_id"]))]
    List,
    /// All of them, then each change.
    #[command(after_help = examples(&["p2pctl peer watch"]))]
    Watch,
    /// Dial a peer.
    #[command(after_help = examples(&[
        "p2pctl peer connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooWAqyvds96sXRQFsWyCfGq5ahqxsCS4dxMF7fCmv1eVMvL",
    ]))]
    Connect {
        /// Multiaddr that ends in /p2p/ and the peer id
        address: String,
    },
    /// Close all connections to a peer.
    #[command(after_help = examples(&["p2pctl peer disconnect ..mv1eVMvL"]))]
    Disconnect {
        /// Peer id
        peer: String,
    },
    /// Stay connected to a peer, also after restarts.
    #[command(after_help = examples(&["p2pctl peer pin ..mv1eVMvL --tag relay"]))]
    Pin {
        /// Peer id, or a multiaddr that ends in /p2p/ and the peer id
        peer: String,
        /// Why; may be repeated.
        #[arg(long)]
        tag: Vec<String>,
        /// Protect its connections from pruning, but do not dial it.
        #[arg(long)]
        passive: bool,
    },
    /// Remove a pin.
    #[command(after_help = examples(&["p2pctl peer unpin ..mv1eVMvL --tag relay"]))]
    Unpin {
        /// Peer id
        peer: String,
        /// Only take this tag; may be repeated. The peer stays pinned for others.
        #[arg(long)]
        tag: Vec<String>,
    },
    /// The pinned peers.
    #[command(after_help = examples(&["p2pctl peer pins"]))]
    Pins,
    /// The connections that closed last, and why.
    #[command(after_help = examples(&["p2pctl peer closed"]))]
    Closed,
    /// The rules that allow and deny peers.
    #[command(after_help = examples(&["p2pctl peer rules"]))]
    Rules,
    /// Accept connections of a peer or addresses, beyond the limits and despite deny rules.
    #[command(after_help = examples(&["p2pctl peer allow 192.0.2.7", "p2pctl peer allow ..mv1eVMvL"]))]
    Allow {
        /// Peer id, IP address, or a range like 192.0.2.0/24
        subject: String,
    },
    /// Refuse connections of a peer or addresses.
    #[command(after_help = examples(&["p2pctl peer deny 198.51.100.0/24", "p2pctl peer deny ..mv1eVMvL"]))]
    Deny {
        /// Peer id, IP address, or a range like 192.0.2.0/24
        subject: String,
    },
    /// Remove a rule.
    #[command(after_help = examples(&["p2pctl peer unrule 198.51.100.0/24"]))]
    Unrule {
        /// As it was given
        subject: String,
    },
}
