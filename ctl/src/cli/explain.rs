//! `explain`.

use clap::Subcommand;

use super::help::examples;

/// What is explained.
#[derive(Subcommand)]
pub(crate) enum Explain {
    /// Why a peer is connected or not.
    #[command(after_help = examples(&["p2pctl explain peer ..mv1eVMvL"]))]
    Peer {
        /// Peer id.
        peer: String,
    },
    /// What an address leads to, and what would keep it from being dialled.
    #[command(after_help = examples(&["p2pctl explain address /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."]))]
    Address {
        /// Multiaddr that ends in /p2p/ and the peer id.
        address: String,
    },
    /// Who hears what is published on a topic, and what its messages are held to.
    #[command(after_help = examples(&["p2pctl explain topic chat"]))]
    Topic {
        /// Topic.
        topic: String,
    },
    /// Whether a stream is known, and how its publisher is reached.
    #[command(after_help = examples(&["p2pctl explain stream town-radio", "p2pctl explain stream town-radio@..mv1eVMvL"]))]
    Stream {
        /// stream or stream@publisher.
        stream: String,
    },
}
