//! The command line as clap sees it: nouns with verbs, and beside them the short forms, which are the same arguments
//! without the noun. What a command does is in `cmd`.

mod dht;
mod explain;
mod help;
mod peer;
mod protocol;
mod stream;
mod topic;
mod values;

use std::{any::TypeId, path::PathBuf, time::Duration};

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use self::dht::{Dht, DhtAction};
pub(crate) use self::explain::Explain;
pub(crate) use self::peer::{Peer, PeerAction};
pub(crate) use self::protocol::{Hold, Protocol, ProtocolAction};
#[cfg(feature = "audio")]
pub(crate) use self::stream::{Listen, Publish, SampleArg, WireArg};
pub(crate) use self::stream::{Stream, StreamAction, StreamList};
pub(crate) use self::topic::{IdentityArg, Pub, Sub, Topic, TopicAction, TopicSet, TopicVerb};
use self::{
    help::examples,
    values::{duration, event_cursor, whole},
};

/// The command line that was given. Prints help or what is wrong with it, and ends the process, where that is to be done.
pub(crate) fn parse() -> Cli {
    let matches = command().try_get_matches_from(std::env::args_os());
    let cli = matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    cli.unwrap_or_else(|fault| help::with_example(fault, &command(), std::env::args_os()).exit())
}

/// All commands, with the page of `--help`.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let page = help::page(&command);
    take_negatives(command.help_template(page))
}

/// Has `-5` taken as a value of options that are numbers or durations, so that the error names the option and what it
/// takes. Otherwise clap calls it an unknown flag.
fn take_negatives(command: clap::Command) -> clap::Command {
    let numbers = [TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<f32>(), TypeId::of::<Duration>()];
    let is_number = move |arg: &Arg| {
        let takes = arg.get_value_parser().type_id();
        arg.get_action().takes_values() && numbers.iter().any(|number| takes == *number)
    };
    command
        .mut_args(move |arg| if is_number(&arg) { arg.allow_hyphen_values(true) } else { arg })
        .mut_subcommands(take_negatives)
}

/// The command line of p2pd, the libp2p system daemon.
#[derive(Parser)]
#[command(name = "p2pctl", version, after_help = help::end())]
pub(crate) struct Cli {
    /// Socket of the daemon; else P2PD_SOCKET, the user's own daemon, the system's.
    #[arg(long, short, global = true, help_heading = GLOBAL)]
    pub(crate) socket: Option<PathBuf>,
    /// table for people, json or jsonl for programs; for `listen` also a file (.opus, .wav), card for the
    /// sound card, or - for standard output.
    #[arg(long, short, global = true, default_value = "table", help_heading = GLOBAL)]
    pub(crate) output: String,
    /// How long to wait for an answer of the daemon, as in 500ms, 10s, 2m; 25s by default, and for dht, all answers
    /// together, 65s. The time of --wait is not among it. Commands that run until stopped, such as sub, events and handle,
    /// have no time limit.
    #[arg(long, global = true, value_parser = duration, help_heading = GLOBAL)]
    pub(crate) timeout: Option<Duration>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";

impl Cli {
    pub(crate) fn timeout(&self) -> Duration {
        // Longer than the daemon tries: it ends a search after a minute, and the opening of a stream after twenty seconds.
        let usual = if matches!(self.command, Command::Dht(_)) { 65 } else { 25 };
        self.timeout.unwrap_or(Duration::from_secs(usual))
    }
}

/// Commands that belong together.
struct Group {
    title: &'static str,
    rows: &'static [Row],
}

/// A command, and what does the same as its verbs without the noun.
struct Row {
    name: &'static str,
    short: &'static [&'static str],
}

const fn row(name: &'static str) -> Row {
    Row { name, short: &[] }
}

const GROUPS: [Group; 5] = [
    Group {
        title: "Audio",
        rows: &[Row {
            name: "stream",
            short: if cfg!(feature = "audio") { &["streams", "publish-stream", "listen"] } else { &["streams"] },
        }],
    },
    Group { title: "Messages", rows: &[Row { name: "topic", short: &["topics", "pub", "sub", "validate"] }] },
    Group {
        title: "Protocols",
        rows: &[Row { name: "protocol", short: &["open", "handle", "call", "serve", "forward", "expose"] }],
    },
    Group { title: "Network", rows: &[Row { name: "peer", short: &["peers"] }, row("dht")] },
    Group {
        title: "Daemon",
        rows: &[
            row("status"),
            row("doctor"),
            row("explain"),
            row("bandwidth"),
            row("events"),
            row("wait"),
            row("rpc"),
            row("version"),
            row("completion"),
        ],
    },
];

/// The commands. A new noun is a file beside this one, a row here and in a group above, and one in `cmd`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the live audio streams, publish one, listen to one.
    #[command(after_help = examples(&stream::EXAMPLES))]
    Stream(Stream),
    /// The live streams.
    Streams(StreamList),
    /// Publish a file, standard input or a tone as a live stream.
    #[cfg(feature = "audio")]
    PublishStream(Publish),
    /// Listen to a stream.
    #[cfg(feature = "audio")]
    Listen(Listen),
    /// Send and read messages; settings, logs and validators of topics.
    #[command(
        visible_alias = "topics",
        after_help = examples(&["p2pctl topic sub chat", "p2pctl topic pub chat \"good day\""])
    )]
    Topic(Topic),
    #[command(flatten)]
    TopicVerb(TopicVerb),
    /// Streams, calls and tunnels on protocols of your own.
    #[command(after_help = examples(&[
        "p2pctl protocol serve /upper/1 tr a-z A-Z",
        "p2pctl protocol call ..mv1eVMvL /upper/1 \"quiet words\"",
    ]))]
    Protocol(Protocol),
    #[command(flatten)]
    ProtocolVerb(ProtocolAction),
    /// The connected peers: connect, pin, ping, allow and deny.
    #[command(
        visible_alias = "peers",
        after_help = examples(&["p2pctl peer", "p2pctl peer ping ..mv1eVMvL", "p2pctl peer deny 198.51.100.0/24"])
    )]
    Peer(Peer),
    /// The distributed hash table: providers and signed values.
    #[command(after_help = examples(&["p2pctl dht provide town-archive", "p2pctl dht providers town-archive"]))]
    Dht(Dht),
    /// Who the daemon is and how it fares.
    #[command(after_help = examples(&["p2pctl status", "p2pctl -o json status"]))]
    Status,
    /// Say what is well, what is not, and what mends it.
    ///
    /// Also where no daemon answers. Ends with 1 where something does not work.
    #[command(after_help = examples(&["p2pctl doctor", "p2pctl -o json doctor --probe"]))]
    Doctor {
        /// Try things, too, for up to 10 s: whether UDP gets through to peers.
        #[arg(long)]
        probe: bool,
    },
    /// Say what decides how it is with a peer, address, topic or stream.
    ///
    /// Nothing is tried.
    #[command(after_help = examples(&["p2pctl explain peer ..mv1eVMvL", "p2pctl explain stream town-radio"]))]
    Explain {
        #[command(subcommand)]
        subject: Explain,
    },
    /// How fast bytes go to peers and come from them.
    ///
    /// Rates that are given hold until the daemon ends. Its configuration, under bandwidth, says what each name means, and has the rates of
    /// its start.
    #[command(after_help = examples(&["p2pctl bandwidth", "p2pctl bandwidth wan_upload=1800kbit/s bulk_upload=0"]))]
    Bandwidth {
        /// As in upload=2Mbit/s or peer_upload=500KiB/s; 0 for no bound.
        #[arg(value_parser = values::rate)]
        rates: Vec<(String, u64)>,
    },
    /// Print what happens.
    Events(Events),
    /// Wait until something holds: ready, peers=N or stream=ID.
    #[command(after_help = examples(&["p2pctl wait ready", "p2pctl wait peers=1 --timeout 1m"]))]
    Wait {
        /// ready, peers=N or stream=ID
        condition: String,
    },
    /// Call any unary method of the API with a JSON message.
    #[command(after_help = examples(&[
        "p2pctl rpc p2pd.v1.PeerService/ListPeers",
        "p2pctl rpc p2pd.v1.StreamService/GetStream '{\"stream\": \"town-radio\"}'",
    ]))]
    Rpc {
        /// As in p2pd.v1.PeerService/ListPeers
        method: String,
        /// The request.
        #[arg(default_value = "{}")]
        message: String,
    },
    /// Versions of p2pctl and the daemon.
    #[command(after_help = examples(&["p2pctl version"]))]
    Version,
    /// Print a completion script.
    #[command(after_help = examples(&["p2pctl completion bash > ~/.local/share/bash-completion/completions/p2pctl"]))]
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    #[command(hide = true, after_help = examples(&["p2pctl manual ~/.local/share/man/man1"]))]
    Manual {
        /// It must be there.
        directory: PathBuf,
    },
}

#[derive(Args)]
#[command(after_help = examples(&["p2pctl events --past", "p2pctl events --kind relay- --kind address-", "p2pctl -o jsonl events --after 1234"]))]
pub(crate) struct Events {
    /// Begin with the oldest kept event.
    #[arg(long)]
    pub(crate) from_oldest: bool,
    /// Continue after this cursor.
    #[arg(long, conflicts_with = "from_oldest", value_parser = event_cursor)]
    pub(crate) after: Option<u64>,
    /// Only this kind, or with - at its end all that begin so, as in relay-; may be repeated.
    #[arg(long = "kind")]
    pub(crate) kinds: Vec<String>,
    /// Only those whose subject contains this, such as a peer id.
    #[arg(long, default_value = "")]
    pub(crate) subject: String,
    /// Only the events that there are, from the oldest on or after a cursor; then end.
    #[arg(long)]
    pub(crate) past: bool,
    /// Tell every 30 seconds without an event that the daemon is there.
    #[arg(long)]
    pub(crate) heartbeat: bool,
    /// End after so many events.
    #[arg(long, short = 'n', value_parser = whole(0..=u64::MAX))]
    pub(crate) count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_value_below_zero_is_an_error_about_the_value() {
        let options = [
            &["events", "--after", "-5"][..],
            &["sub", "chat", "--after", "-1"],
            &["topic", "sub", "chat", "-n", "-1"],
            &["peer", "ping", "..mv1eVMvL", "--interval", "-5s"],
            &["--timeout", "-1s", "status"],
        ];
        for line in options {
            let fault = command().try_get_matches_from([&["p2pctl"], line].concat()).unwrap_err();
            assert_eq!(fault.kind(), clap::error::ErrorKind::ValueValidation, "{line:?}: {fault}");
        }
    }
}
