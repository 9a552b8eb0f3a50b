//! The command line of the daemon.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use p2pd_net::Identity;

use crate::{
    app::{self, Setup},
    config::{Config, Mode},
    paths::{self, Named, Paths},
    process, telemetry, unreadable,
};

const AFTER: &str = "Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 70 a part of the daemon died, 78 bad configuration.\n\
This p2pd is not the Go program of the same name (go-libp2p-daemon).";

/// The libp2p system daemon.
#[derive(Parser)]
#[command(name = "p2pd", version, after_help = AFTER)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or Ctrl-C.
    Run(Run),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at or move the key that is this peer.
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Look for damaged records of a stopped daemon, and remove them.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Manual {
        /// It must be there.
        directory: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Configuration file instead of the usual one.
    #[arg(long, env = "P2PD_CONFIG", value_parser = path())]
    config: Option<PathBuf>,
    /// For demos and tests: everything in a temporary directory, free ports on loopback, no mDNS.
    #[arg(long)]
    dev: bool,
    /// What the daemon is for. Files, variables and other flags go before what it sets.
    #[arg(long, env = "P2PD_MODE", value_enum, default_value_t)]
    mode: Mode,
    /// Directory of identity and database.
    #[arg(long, env = "P2PD_DATA", value_parser = path())]
    data: Option<PathBuf>,
    /// Socket of the API.
    #[arg(long, env = "P2PD_SOCKET", value_parser = path())]
    socket: Option<PathBuf>,
    /// Listen here instead; may be repeated.
    #[arg(long)]
    listen: Vec<String>,
    /// Stay connected to this peer too; may be repeated.
    #[arg(long)]
    bootstrap: Vec<String>,
    /// Name of the network.
    #[arg(long)]
    network: Option<String>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every key with its documentation and default.
    Default,
    /// Say whether a file (or the usual one) is good.
    Check {
        /// The file.
        #[arg(env = "P2PD_CONFIG", value_parser = path())]
        file: Option<PathBuf>,
    },
    /// Print what is in force: defaults, file and environment together.
    Show {
        /// Configuration file instead of the usual one.
        #[arg(long, env = "P2PD_CONFIG", value_parser = path())]
        config: Option<PathBuf>,
        /// What the daemon is for.
        #[arg(long, env = "P2PD_MODE", value_enum, default_value_t)]
        mode: Mode,
    },
}

#[derive(Subcommand)]
enum IdentityCommand {
    /// Print the peer id.
    Show(Data),
    /// Take over a key in libp2p's protobuf encoding from standard input. Refused where there is one already.
    Import(Data),
    /// Print the key in libp2p's protobuf encoding. Whoever has it is this peer.
    Export(Data),
}

#[derive(Subcommand)]
enum StoreCommand {
    /// List the records that cannot be read, for which the daemon does not start.
    Check(Data),
    /// Remove one of them for good. What can be read is not removed.
    Drop {
        #[command(flatten)]
        data: Data,
        /// Table, as `p2pd store check` names it.
        table: String,
        /// Key, likewise.
        key: String,
    },
}

#[derive(Args)]
struct Data {
    /// Directory of identity and database.
    #[arg(long, env = "P2PD_DATA", value_parser = path())]
    data: Option<PathBuf>,
}

/// Runs the program and says how it ended.
pub fn main() -> ExitCode {
    let (done, code) = match Flags::parse().command {
        Command::Run(flags) => return run(flags),
        Command::Config(command) => (config(command), 78),
        Command::Identity(command) => (identity(command), 1),
        Command::Store(command) => (store(command), 1),
        Command::Manual { directory } => (clap_mangen::generate_to(Flags::command(), directory).map_err(Into::into), 1),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, code),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    telemetry::say(format_args!("p2pd: {error:#}"));
    ExitCode::from(code)
}

fn run(flags: Run) -> ExitCode {
    match setup(flags) {
        Ok(setup) => process::main(setup),
        Err(error) => fail(&error, 78),
    }
}

fn setup(flags: Run) -> anyhow::Result<Setup> {
    let named = Named { config: given(flags.config), data: given(flags.data), socket: given(flags.socket) };
    let mut setup = if flags.dev {
        let config = match &named.config {
            Some(file) => load(Some(file), file, flags.mode)?,
            None => load(None, Path::new(""), flags.mode)?,
        };
        Setup::temporary(config)?.moved(named)?
    } else {
        let file = named.config.clone();
        let paths = Paths::find(named)?;
        let config = load(file.as_deref(), &paths.config, flags.mode)?;
        Setup::new(config, paths)
    };
    if !flags.listen.is_empty() {
        setup.config.network.listen = flags.listen;
    }
    setup.config.network.bootstrap.extend(flags.bootstrap);
    if let Some(network) = flags.network {
        setup.config.network.name = network;
    }
    setup.config.check()?;
    Ok(setup)
}

/// Reads the configuration, and tells what is set by an old name.
fn load(named: Option<&Path>, usual: &Path, mode: Mode) -> anyhow::Result<Config> {
    let (config, notes) = Config::load(named, usual, mode)?;
    notes.iter().for_each(|note| telemetry::say(format_args!("p2pd: configuration: {note}")));
    Ok(config)
}

/// Takes an empty path too, as an empty variable is.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A path from a flag or variable; an empty one counts as not given.
fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// Writes to standard output; that its reader has gone is no fault.
fn say(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn config(command: ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Default => say(&Config::template()),
        ConfigCommand::Check { file } => {
            let usual = paths::usual_config();
            let file = given(file);
            load(file.as_deref(), &usual, Mode::Machine)?;
            let file = file.unwrap_or(usual);
            let absent = if file.exists() { "" } else { " is not there, so the defaults hold" };
            say(&format!("good: {}{absent}\n", file.display()))
        }
        ConfigCommand::Show { config, mode } => {
            say(&toml::to_string(&load(given(config).as_deref(), &paths::usual_config(), mode)?)?)
        }
    }
}

/// The data directory that is meant.
fn directory(flags: &Data) -> anyhow::Result<PathBuf> {
    given(flags.data.clone()).or_else(paths::usual_data).context("no home directory is known; name --data")
}

fn store(command: StoreCommand) -> anyhow::Result<()> {
    match command {
        StoreCommand::Check(data) => {
            let data = directory(&data)?;
            app::check_owner(&data)?;
            let bad = unreadable::check(&data)?;
            say(&bad.iter().map(|line| format!("{line}\n")).collect::<String>())?;
            match bad.len() {
                0 => say(&format!("good: {}\n", data.display())),
                count => anyhow::bail!("{count} records cannot be read; `p2pd store drop TABLE KEY` removes one"),
            }
        }
        StoreCommand::Drop { data, table, key } => {
            let data = directory(&data)?;
            app::check_owner(&data)?;
            unreadable::remove(&data, &table, &key)?;
            say(&format!("removed: {table} '{key}'\n"))
        }
    }
}

fn identity(command: IdentityCommand) -> anyhow::Result<()> {
    let (IdentityCommand::Show(flags) | IdentityCommand::Import(flags) | IdentityCommand::Export(flags)) = &command;
    let data = directory(flags)?;
    let file = data.join(app::IDENTITY_FILE);
    if let IdentityCommand::Import(_) = command {
        let mut bytes = Vec::new();
        io::stdin().take(4096).read_to_end(&mut bytes).context("cannot read standard input")?;
        let identity =
            Identity::from_bytes(&bytes).context("standard input takes what `p2pd identity export` prints")?;
        app::make_data(&data)?;
        if file.exists() {
            anyhow::bail!("{} is there already; move it away first, it cannot be had again", file.display());
        }
        identity.save_new(&file)?;
        return say(&format!("{}\n", identity.peer_id()));
    }
    let identity = Identity::load(&file)?
        .with_context(|| format!("no identity in {} yet; `p2pd run` makes one at its first start", data.display()))?;
    match command {
        IdentityCommand::Export(_) => Ok(io::stdout().write_all(&identity.to_bytes()?)?),
        _ => say(&format!("{}\n", identity.peer_id())),
    }
}
