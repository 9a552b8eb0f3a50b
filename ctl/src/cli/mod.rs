//! The command line as clap sees it.

mod pubsub;
#[cfg(feature = "audio")]
mod streams;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use p2pd_api::v1::HandleProtocolRequest;

pub(crate) use self::pubsub::{IdentityArg, Pub, Sub, TopicSet, Topics, TopicsAction};
#[cfg(feature = "audio")]
pub(crate) use self::streams::{Listen, PublishStream, SampleArg, WireArg};
use crate::exit::CODES;

pub(crate) fn parse() -> Cli {
    Cli::parse()
}

/// The command line of p2pd, the libp2p system daemon.
#[derive(Parser)]
#[command(name = "p2pctl", version, after_help = CODES)]
pub(crate) struct Cli {
    /// Socket of the daemon; else P2PD_SOCKET, the user's own daemon, the system's.
    #[arg(long, short, global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// table for people, json or jsonl for programs; for `listen` also a file (.opus, .wav), card for the
    /// sound card, or - for standard output.
    #[arg(long, short, global = true, default_value = "table")]
    pub(crate) output: String,
    /// How long to wait for an answer of the daemon, as in 500ms, 10s, 2m; 25s by default, and for dht, all answers
    /// together, 65s. The time of --wait is not among it. Commands that run until stopped, such as sub, events and handle,
    /// have no time limit.
    #[arg(long, global = true, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    pub(crate) fn timeout(&self) -> Duration {
        // Longer than the daemon tries: it ends a search after a minute, and the opening of a stream after twenty seconds.
        let usual = if matches!(self.command, Command::Dht(_)) { 65 } else { 25 };
        self.timeout.unwrap_or(Duration::from_secs(usual))
    }
}

/// Shape of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The API's message as JSON.
    Json,
    /// One JSON object a line.
    Jsonl,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Who the daemon is and how it fares.
    Status,
    /// The connected peers.
    Peers(Peers),
    /// The distributed hash table.
    Dht(Dht),
    /// The live streams.
    Streams {
        /// Only this category.
        #[arg(long, default_value = "")]
        category: String,
        /// Go on with each change.
        #[arg(long, short)]
        watch: bool,
    },
    /// Publish a file, standard input or a tone as a live stream.
    #[cfg(feature = "audio")]
    PublishStream(PublishStream),
    /// Listen to a stream.
    #[cfg(feature = "audio")]
    Listen(Listen),
    /// Send a message to a topic; without one, each line of standard input.
    Pub(Pub),
    /// Print the messages of a topic.
    Sub(Sub),
    /// The topics that this daemon follows or has settings for.
    Topics(Topics),
    /// Judge each message of a topic with a command, before it is delivered or passed on.
    ///
    /// The command gets the message on standard input, P2PD_SENDER and P2PD_SOURCE (the peer that passed it on) in its
    /// environment. It ends with 0 to accept, 1 to reject, which costs that peer score, else the message is ignored.
    Validate {
        /// Topic.
        topic: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
    /// Open a stream to a peer: standard input goes there, what it answers to standard output.
    Open {
        /// Peer id.
        peer: String,
        /// Such as /chat/1.0.0; of several the first that the peer speaks.
        #[arg(required = true, num_args = 1..=8)]
        protocols: Vec<String>,
    },
    /// Wait for a peer to open a stream: standard input goes there, what it sends to standard output.
    Handle {
        /// Such as /chat/1.0.0
        protocol: String,
        #[command(flatten)]
        hold: Hold,
    },
    /// Ask a peer: standard input is the request, its answer goes to standard output.
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
    #[command(name = "serve")]
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
    Forward {
        /// HOST:PORT or unix:PATH to listen on.
        listen: String,
        /// Peer id.
        peer: String,
        /// Such as /ssh/1.0.0
        protocol: String,
    },
    /// Lead a protocol to a local address, for named peers.
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
    /// Print what happens.
    Events {
        /// Begin with the oldest kept event.
        #[arg(long)]
        from_oldest: bool,
        /// Continue after this cursor.
        #[arg(long, conflicts_with = "from_oldest")]
        after: Option<u64>,
        /// End after so many events.
        #[arg(long, short = 'n')]
        count: Option<u64>,
    },
    /// Wait until something holds: ready, peers=N or stream=ID.
    Wait {
        /// ready, peers=N or stream=ID
        condition: String,
    },
    /// Print a completion script.
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Manual {
        /// It must be there.
        directory: PathBuf,
    },
    /// Versions of p2pctl and the daemon.
    Version,
    /// Call any unary method of the API with a JSON message.
    Rpc {
        /// As in p2pd.v1.PeerService/ListPeers
        method: String,
        /// The request.
        #[arg(default_value = "{}")]
        message: String,
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

impl Hold {
    /// The request for a protocol.
    pub(crate) fn of(&self, protocol: &str) -> HandleProtocolRequest {
        let lease_ms = self.lease.as_ref().map_or(0, |_| u32::try_from(self.lease_for.as_millis()).unwrap_or(u32::MAX));
        let lease = self.lease.clone().unwrap_or_default();
        HandleProtocolRequest { protocol: protocol.into(), share: self.share, lease_ms, lease }
    }
}

#[derive(Args)]
pub(crate) struct Dht {
    #[command(subcommand)]
    pub(crate) action: DhtAction,
}

#[derive(Subcommand)]
pub(crate) enum DhtAction {
    /// Put a value of this daemon's under a name, signed.
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
    Get {
        /// As it was put.
        name: String,
        /// Peer id of who has put it; else this daemon.
        peer: Option<String>,
    },
    /// Print the addresses of a peer.
    FindPeer {
        /// Peer id
        peer: String,
    },
    /// Print the peers closest to a key.
    Closest {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
    /// Announce this daemon as a provider of a key.
    Provide {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
    /// Stop announcing a key.
    Stop {
        /// As it was provided
        key: String,
    },
    /// Print the providers of a key.
    Providers {
        /// A CID, with /ipfs/ or without; or any text, or hex: and bytes in hexadecimal
        key: String,
    },
}

#[derive(Args)]
pub(crate) struct Peers {
    #[command(subcommand)]
    pub(crate) action: Option<PeersAction>,
}

#[derive(Subcommand)]
pub(crate) enum PeersAction {
    /// One peer: its connections and what each protocol has carried.
    Show {
        /// Peer id.
        peer: String,
    },
    /// Measure round trips to a peer.
    Ping {
        /// Peer id.
        peer: String,
        /// How many.
        #[arg(long, short = 'n', default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// From one to the next, 10ms to 1m.
        #[arg(long, value_parser = duration, default_value = "1s")]
        interval: Duration,
    },
    /// All of them.
    List,
    /// All of them, then each change.
    Watch,
    /// Dial a peer.
    Connect {
        /// Multiaddr that ends in /p2p/ and the peer id
        address: String,
    },
    /// Close all connections to a peer.
    Disconnect {
        /// Peer id
        peer: String,
    },
    /// Stay connected to a peer, also after restarts.
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
    Unpin {
        /// Peer id
        peer: String,
        /// Only take this tag; may be repeated. The peer stays pinned for others.
        #[arg(long)]
        tag: Vec<String>,
    },
    /// The pinned peers.
    Pins,
    /// The connections that closed last, and why.
    Closed,
    /// The rules that allow and deny peers.
    Rules,
    /// Accept connections of a peer or addresses, beyond the limits and despite deny rules.
    Allow {
        /// Peer id, IP address, or a range like 192.0.2.0/24
        subject: String,
    },
    /// Refuse connections of a peer or addresses.
    Deny {
        /// Peer id, IP address, or a range like 192.0.2.0/24
        subject: String,
    },
    /// Remove a rule.
    Unrule {
        /// As it was given
        subject: String,
    },
}

/// Longest duration that is taken.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads 500ms, 10s, 2m, 1h or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no duration; one looks like 10s"))?;
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit; takes ms, s, m and h")),
    };
    let time = Duration::try_from_secs_f64(number * scale).map_err(|e| e.to_string())?;
    if time > LONGEST {
        return Err(format!("`{text}` is too long; takes at most 1 year, 8760h"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("8760h"), Ok(Duration::from_secs(365 * 24 * 3600)));
        for bad in ["", "s", "5y", "-1s", "NaN", "8761h", "1e300h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
