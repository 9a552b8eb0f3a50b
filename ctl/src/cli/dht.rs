//! Flags of `dht`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{help::examples, values::duration};

#[derive(Args)]
pub(crate) struct Dht {
    #[command(subcommand)]
    pub(crate) action: DhtAction,
}

#[derive(Subcommand)]
pub(crate) enum DhtAction {
    /// Put a value of this daemon's under a name, signed.
    #[command(after_help = examples(&["p2pctl dht put home https://example.org --ttl 48h"]))]
    Put {
        /// 1 to 64 characters.
        name: String,
        /// At most 4096 bytes.
        #[arg(allow_hyphen_values = true)]
        data: String,
        /// How long it holds, 1s to 48h.
        #[arg(long, value_parser = duration, default_value = "24h")]
        ttl: Duration,
    },
    /// Print what a peer has put under a name.
    #[command(after_help = examples(&["p2pctl dht get home ..mv1eVMvL"]))]
    Get {
        /// As it was put.
        name: String,
        /// Peer id of who has put it; else this daemon.
        peer: Option<String>,
    },
    /// Print the addresses of a peer.
    #[command(after_help = examples(&["p2pctl dht find-peer 12D3KooWAqyvds96sXRQFsWyCfGq5ahqxsCS4dxMF7fCmv1eVMvL"]))]
    FindPeer {
        /// Peer id
        peer: String,
    },
    /// Print the peers closest to a key.
    #[command(after_help = examples(&["p2pctl dht closest town-archive"]))]
    Closest {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
    /// Announce this daemon as a provider of a key.
    #[command(after_help = examples(&["p2pctl dht provide town-archive"]))]
    Provide {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
    /// Stop announcing a key.
    #[command(after_help = examples(&["p2pctl dht stop town-archive"]))]
    Stop {
        /// As it was provided
        key: String,
    },
    /// Print the providers of a key.
    #[command(after_help = examples(&[
        "p2pctl dht providers town-archive",
        "p2pctl dht providers bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
    ]))]
    Providers {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
}
