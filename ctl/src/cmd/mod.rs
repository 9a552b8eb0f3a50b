//! Runs the commands. Each noun has a folder or a file, and so has each command without a noun.

mod bandwidth;
mod cid;
mod context;
mod dht;
mod doctor;
mod events;
mod explain;
mod peer;
mod peer_id;
mod program;
mod protocol;
mod rpc;
mod status;
mod stream;
mod topic;
mod wait;

use std::path::Path;

use clap::ValueEnum;

use crate::{
    cli::{self, Cli, Command, StreamAction, TopicAction},
    client::Client,
    error::{Exit, fail},
    output::{self, Format},
};

use self::context::Context;

pub(crate) async fn run(cli: Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut cli::command(), "p2pctl", &mut script);
            Ok(output::line(String::from_utf8(script)?.trim_end())?)
        }
        Command::Manual { directory } => manual(directory),
        Command::Wait { condition } => {
            let timeout = cli.timeout();
            wait::run(cli.socket, timeout, condition).await
        }
        Command::Doctor { probe } => {
            let (format, timeout) = (format(&cli)?, cli.timeout());
            doctor::run(cli.socket, timeout, format, *probe).await
        }
        _ => ask_daemon(cli).await,
    }
}

/// Writes a page for each command. The page of a command's other name refers to it.
fn manual(directory: &Path) -> anyhow::Result<()> {
    let all = cli::command();
    for command in all.get_subcommands() {
        for alias in command.get_visible_aliases() {
            let refer = format!(".so man1/p2pctl-{}.1\n", command.get_name());
            std::fs::write(directory.join(format!("p2pctl-{alias}.1")), refer)?;
        }
    }
    Ok(clap_mangen::generate_to(all, directory)?)
}

/// The format that the user wants. `listen` also takes a file in `-o`, and then prints for people.
fn format(cli: &Cli) -> anyhow::Result<Format> {
    match (Format::from_str(&cli.output, true), &cli.command) {
        (Ok(format), _) => Ok(format),
        (Err(_), command) if is_listen(command) => Ok(Format::Table),
        (Err(_), _) => Err(fail(Exit::Usage, format!("-o `{}`: takes table, json or jsonl", cli.output))),
    }
}

#[cfg(feature = "audio")]
fn is_listen(command: &Command) -> bool {
    matches!(command, Command::Listen(_) | Command::Stream(cli::Stream { action: Some(StreamAction::Listen(_)) }))
}

#[cfg(not(feature = "audio"))]
fn is_listen(_: &Command) -> bool {
    false
}

/// Runs a command that needs the daemon.
async fn ask_daemon(cli: Cli) -> anyhow::Result<()> {
    let (format, timeout) = (format(&cli)?, cli.timeout());
    let connected = Client::connect(cli.socket, timeout).await;
    let client = match (connected, &cli.command) {
        (Err(error), Command::Version) => {
            output::line(&format!("p2pctl {}", env!("CARGO_PKG_VERSION")))?;
            return Err(error);
        }
        (client, _) => client?,
    };
    let context = Context { client, format };
    let list = || StreamAction::List(cli::StreamList::default());
    match cli.command {
        Command::Stream(noun) => stream::run(&context, noun.action.unwrap_or_else(list), cli.output).await,
        Command::Streams(list) => stream::run(&context, StreamAction::List(list), cli.output).await,
        #[cfg(feature = "audio")]
        Command::PublishStream(flags) => stream::run(&context, StreamAction::Publish(flags), cli.output).await,
        #[cfg(feature = "audio")]
        Command::Listen(flags) => stream::run(&context, StreamAction::Listen(flags), cli.output).await,
        Command::Topic(noun) => topic::run(&context, noun.action.unwrap_or(TopicAction::List)).await,
        Command::TopicVerb(verb) => topic::run(&context, TopicAction::Verb(verb)).await,
        Command::Protocol(cli::Protocol { action }) | Command::ProtocolVerb(action) => {
            protocol::run(&context, action).await
        }
        Command::Peer(noun) => peer::run(&context, noun.action.unwrap_or(cli::PeerAction::List)).await,
        Command::Dht(dht) => dht::run(&context, dht.action).await,
        Command::Status => status::status(&context).await,
        Command::Version => status::version(&context).await,
        Command::Bandwidth { rates } => bandwidth::run(&context, &rates).await,
        Command::Explain { subject } => explain::run(&context, subject).await,
        Command::Events(flags) => events::run(&context, &flags).await,
        Command::Rpc { method, message } => rpc::run(&context, &method, &message).await,
        Command::Doctor { .. } | Command::Wait { .. } | Command::Completion { .. } | Command::Manual { .. } => Ok(()),
    }
}
