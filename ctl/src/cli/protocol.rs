//! Flags of `protocol`, and of its verbs without the noun.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{help::examples, values::duration};

#[derive(Args)]
pub(crate) struct Protocol {
    #[command(subcommand)]
    pub(crate) action: ProtocolAction,
}

#[derive(Subcommand)]
pub(crate) enum ProtocolAction {
    /// Open a stream to a peer: standard input goes there, what it answers to standard output.
    #[command(after_help = examples(&["p2pctl protocol open ..mv1eVMvL /chat/1.0.0"]))]
    Open {
        /// Peer id.
        peer: String,
        /// Such as /chat/1.0.0; of several the first that the peer speaks.
        #[arg(required = true, num_args = 1..=8)]
        protocols: Vec<String>,
    },
    /// Wait for a peer to open a stream: standard input goes there, what it sends to standard output.
    #[command(after_help = examples(&["p2pctl protocol handle /chat/1.0.0"]))]
    Handle {
        /// Such as /chat/1.0.0
        protocol: String,
        #[command(flatten)]
        hold: Hold,
    },
    /// Ask a peer: standard input is the request, its answer goes to standard output.
    #[command(after_help = examples(&[
        "p2pctl protocol call ..mv1eVMvL /weather/1.0.0 Zurich",
        "p2pctl protocol call ..mv1eVMvL /weather/2.0.0 --or /weather/1.0.0 <request.json",
    ]))]
    Call {
        /// Peer id.
        peer: String,
        /// Such as /weather/1.0.0
        protocol: String,
        /// The request; else standard input.
        #[arg(allow_hyphen_values = true)]
        data: Option<String>,
        /// A protocol to ask on where the peer does not speak the first; may be repeated.
        #[arg(long)]
        or: Vec<String>,
    },
    /// Answer what peers ask: a command gets each request on standard input and prints the answer.
    #[command(after_help = examples(&["p2pctl protocol serve /upper/1 tr a-z A-Z"]))]
    Serve {
        /// Such as /weather/1.0.0
        protocol: String,
        #[command(flatten)]
        hold: Hold,
        /// The command with its arguments, run once for each request; it gets P2PD_SENDER in its environment.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Lead a local address to a peer's protocol.
    #[command(after_help = examples(&["p2pctl protocol forward 127.0.0.1:2222 ..mv1eVMvL /ssh/1"]))]
    Forward {
        /// HOST:PORT or unix:PATH to listen on.
        listen: String,
        /// Peer id.
        peer: String,
        /// Such as /ssh/1.0.0
        protocol: String,
    },
    /// Lead a protocol to a local address, for named peers.
    #[command(after_help = examples(&["p2pctl protocol expose /ssh/1 127.0.0.1:22 --allow ..mv1eVMvL"]))]
    Expose {
        /// Such as /ssh/1.0.0
        protocol: String,
        /// HOST:PORT or unix:PATH to connect to.
        target: String,
        /// Peer ids that may, or `any`.
        #[arg(long, required = true)]
        allow: Vec<String>,
        #[command(flatten)]
        hold: Hold,
    },
}

/// How a protocol is held.
#[derive(Args)]
pub(crate) struct Hold {
    /// Let others who say so handle the protocol, too; each gets a stream or request in turn.
    #[arg(long, conflicts_with = "lease")]
    pub(crate) share: bool,
    /// Keep the protocol after this program has ended, until a program of the same user claims it with the same lease;
    /// 1 to 64 bytes.
    #[arg(long, value_name = "NAME")]
    pub(crate) lease: Option<String>,
    /// How long, at most 10m. Streams that come meanwhile wait, each 10s at most.
    #[arg(long, value_parser = duration, default_value = "10s", requires = "lease")]
    pub(crate) lease_for: Duration,
}
