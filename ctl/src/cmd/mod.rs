//! One file per noun of the command line.

mod call;
mod cid;
mod dht;
mod events;
mod node;
mod peer_id;
mod peers;
mod program;
mod protocol;
mod pubsub;
#[cfg(feature = "audio")]
mod sound;
mod streams;
mod topics;
mod wait;

use clap::{CommandFactory, ValueEnum};

use crate::{
    cli::{Cli, Command, Format},
    client::Client,
    exit::fail,
    output,
};

/// What every command needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
}

pub(crate) async fn run(cli: Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "p2pctl", &mut script);
            Ok(output::line(String::from_utf8(script)?.trim_end())?)
        }
        Command::Manual { directory } => Ok(clap_mangen::generate_to(Cli::command(), directory)?),
        Command::Wait { condition } => {
            let timeout = cli.timeout();
            wait::run(cli.socket, timeout, condition).await
        }
        _ => ask_daemon(cli).await,
    }
}

/// The format that the user wants. `listen` also takes a file there, and then writes as for people.
fn format(cli: &Cli) -> anyhow::Result<Format> {
    match (Format::from_str(&cli.output, true), &cli.command) {
        (Ok(format), _) => Ok(format),
        #[cfg(feature = "audio")]
        (Err(_), Command::Listen(_)) => Ok(Format::Table),
        (Err(_), _) => Err(fail(2, format!("-o `{}`: takes table, json or jsonl", cli.output))),
    }
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
    match cli.command {
        Command::Status => node::status(&context).await,
        Command::Version => node::version(&context).await,
        Command::Rpc { method, message } => {
            let pretty = format != Format::Jsonl;
            Ok(output::line(&output::call_method(&context.client, &method, &message, pretty).await?)?)
        }
        Command::Peers(peers) => peers::run(&context, peers.action).await,
        Command::Dht(dht) => dht::run(&context, dht.action).await,
        Command::Streams { category, watch } => streams::run(&context, category, watch).await,
        #[cfg(feature = "audio")]
        Command::PublishStream(flags) => sound::publish(&context, flags).await,
        #[cfg(feature = "audio")]
        Command::Listen(flags) => sound::listen(&context, flags, cli.output).await,
        Command::Pub(flags) => pubsub::publish(&context, flags).await,
        Command::Sub(flags) => pubsub::subscribe(&context, flags).await,
        Command::Topics(topics) => topics::run(&context, topics.action).await,
        Command::Validate { topic, command } => topics::validate(&context, topic, command).await,
        Command::Open { peer, protocols } => {
            let peer = peer_id::resolve(&context, "PEER", &peer).await?;
            protocol::open(&context, &peer, &protocols).await
        }
        Command::Handle { protocol, hold } => protocol::handle(&context, &hold.of(&protocol)).await,
        Command::Forward { listen, peer, protocol } => protocol::forward(&context, &listen, &peer, &protocol).await,
        Command::Expose { protocol, target, allow, hold } => {
            protocol::expose(&context, &hold.of(&protocol), &target, &allow).await
        }
        Command::Call { peer, protocol, data, or } => {
            let protocols = std::iter::once(protocol).chain(or).collect();
            let peer = peer_id::resolve(&context, "PEER", &peer).await?;
            call::call(&context, peer, protocols, data).await
        }
        Command::Serve { protocol, hold, command } => call::serve(&context, hold.of(&protocol), &command).await,
        Command::Events { from_oldest, after, count } => events::run(&context, from_oldest, after, count).await,
        Command::Wait { .. } | Command::Completion { .. } | Command::Manual { .. } => Ok(()),
    }
}
