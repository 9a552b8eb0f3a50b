//! Flags of `topic`, and of its verbs without the noun.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    help::examples,
    values::{duration, log_cursor, whole},
};

#[derive(Args)]
pub(crate) struct Topic {
    /// Without one, lists the topics.
    #[command(subcommand)]
    pub(crate) action: Option<TopicAction>,
}

#[derive(Subcommand)]
pub(crate) enum TopicAction {
    /// The topics that this daemon follows or has settings for.
    #[command(after_help = examples(&["p2pctl topic list"]))]
    List,
    #[command(flatten)]
    Verb(TopicVerb),
    /// One topic: who is there, its log and settings.
    #[command(after_help = examples(&["p2pctl topic show chat"]))]
    Show {
        /// Topic.
        topic: String,
    },
    /// Ids of the connected peers that follow it.
    #[command(after_help = examples(&["p2pctl topic peers chat"]))]
    Peers {
        /// Topic.
        topic: String,
    },
    /// Who is there, now and with each change.
    #[command(after_help = examples(&["p2pctl topic watch chat"]))]
    Watch {
        /// Topic.
        topic: String,
    },
    /// Change settings; those not given are as usual again.
    Set(TopicSet),
    /// Forget settings and log.
    #[command(after_help = examples(&["p2pctl topic forget chat"]))]
    Forget {
        /// Topic.
        topic: String,
    },
}

/// What is also a command without `topic`.
#[derive(Subcommand)]
pub(crate) enum TopicVerb {
    /// Send a message to a topic; without one, each line of standard input.
    Pub(Pub),
    /// Print the messages of a topic.
    Sub(Sub),
    /// Judge each message of a topic with a command, before it is delivered or passed on.
    ///
    /// The command gets the message on standard input, P2PD_SENDER and P2PD_SOURCE (the peer that passed it on) in its
    /// environment. It ends with 0 to accept, 1 to reject, which costs that peer score, else the message is ignored.
    #[command(after_help = examples(&["p2pctl topic validate chat jq -e .text"]))]
    Validate {
        /// Topic.
        topic: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Args)]
#[command(after_help = examples(&[
    "p2pctl topic pub chat \"good day\" --wait 1m",
    "tail -f app.log | p2pctl topic pub app/log",
]))]
pub(crate) struct Pub {
    /// Topic.
    pub(crate) topic: String,
    /// The message.
    #[arg(allow_hyphen_values = true)]
    pub(crate) message: Option<String>,
    /// How long to wait for somebody who follows the topic.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub(crate) wait: Duration,
}

#[derive(Args)]
#[command(after_help = examples(&[
    "p2pctl topic sub chat",
    "p2pctl topic sub app/log --resume cursor >> app.log",
]))]
pub(crate) struct Sub {
    /// Topic.
    pub(crate) topic: String,
    /// End after so many messages.
    #[arg(long, short = 'n', value_parser = whole(0..=u64::MAX))]
    pub(crate) count: Option<u64>,
    /// How many messages this reader may be behind before the oldest go, 1 to 4096; at most 1 MiB of them in any case
    /// [default: 256]
    #[arg(
        long,
        value_parser = whole(1..=4096),
        conflicts_with_all = ["block", "durable", "from_oldest", "after", "resume"]
    )]
    pub(crate) behind: Option<u32>,
    /// Have local publishers wait while this reader is slow.
    #[arg(long, conflicts_with_all = ["durable", "from_oldest", "after", "resume"])]
    pub(crate) block: bool,
    /// Longest that one publication then waits, at most 10s.
    #[arg(long, value_parser = duration, default_value = "1s", requires = "block", conflicts_with = "durable")]
    pub(crate) max_wait: Duration,
    /// Read from the daemon's log, which keeps the topic's messages from now on.
    #[arg(long)]
    pub(crate) durable: bool,
    /// Begin with the oldest message of the log; with --resume, where there is no file yet.
    #[arg(long)]
    pub(crate) from_oldest: bool,
    /// Go on after this cursor of the log.
    #[arg(long, conflicts_with = "from_oldest", value_parser = log_cursor)]
    pub(crate) after: Option<u64>,
    /// Keep the cursor in this file, and go on after it.
    #[arg(long, conflicts_with = "after")]
    pub(crate) resume: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = examples(&["p2pctl topic set chat --closed --judging 500ms"]))]
pub(crate) struct TopicSet {
    /// Topic.
    pub(crate) topic: String,
    /// Largest message, bytes, up to 1048576; 0 for the default.
    #[arg(long, default_value_t = 61_440, value_parser = whole(0..=1_048_576u32))]
    pub(crate) max_message: u32,
    /// What makes two messages the same.
    #[arg(long, value_enum, default_value = "key")]
    pub(crate) identity: IdentityArg,
    /// Refuse what no validator has judged.
    #[arg(long)]
    pub(crate) closed: bool,
    /// Time of a validator, 10ms to 3s; 0s for the default.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub(crate) judging: Duration,
    /// How long the log keeps a message; 0s for the default.
    #[arg(long, value_parser = duration, default_value = "24h")]
    pub(crate) keep: Duration,
    /// What the log may hold, bytes; 0 for the default.
    #[arg(long, default_value_t = 67_108_864, value_parser = whole(0..=u64::MAX))]
    pub(crate) keep_bytes: u64,
    /// Peers that whole messages are exchanged with, 2 to 24; in force from the daemon's next start on.
    #[arg(long, default_value_t = 6, value_parser = whole(0..=u32::MAX))]
    pub(crate) mesh: u32,
    /// How old a message may be, 1s to 24h, by the time that it then begins with; every peer of the topic has to set it.
    #[arg(long, value_parser = duration)]
    pub(crate) max_age: Option<Duration>,
    /// Take messages without a signature, too; they come without a sender.
    #[arg(long)]
    pub(crate) unsigned: bool,
}

/// What makes two messages the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdentityArg {
    /// Sender and number, as js-libp2p has it.
    Key,
    /// Likewise, as go-libp2p has it.
    Sender,
    /// Bytes.
    Content,
}
