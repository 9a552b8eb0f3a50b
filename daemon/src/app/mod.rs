//! Assembly: lock, store, network, node, API, in this order, and stopped in reverse within ten seconds. A long-lived
//! task that ends by itself ends the process; systemd starts it again.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::unistd::{Uid, User};
use p2pd_net::Identity;
use p2pd_store::{Store, StoreError};
use sd_notify::NotifyState;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    VERSION,
    api::{self, SocketFile},
    config::Config,
    lock::{self, Lock},
    node::{self, Node, unreadable},
    paths::{Mode, Named, Paths},
    signals::Signals,
    systemd::{self, Probe},
    telemetry,
};

/// Name of the identity's file in the data directory.
pub const IDENTITY_FILE: &str = "identity.key";
/// Exit code when a part of the daemon has died.
const PART_DIED: u8 = 70;
const STOP: Duration = Duration::from_secs(10);

/// What a daemon is started with.
pub struct Setup {
    /// Settings.
    pub config: Config,
    /// Places.
    pub paths: Paths,
    temporary: Option<TempDir>,
}

impl Setup {
    /// A daemon with these settings in these places.
    pub fn new(config: Config, paths: Paths) -> Self {
        Setup { config, paths, temporary: None }
    }

    /// A daemon in a temporary directory, on free ports of loopback.
    pub fn temporary(mut config: Config) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("p2pd-").tempdir()?;
        let addresses = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"];
        config.network.listen = addresses.map(String::from).into();
        config.network.mdns = false;
        let path = directory.path();
        let paths = Paths {
            mode: Mode::User,
            config: path.join("p2pd.toml"),
            data: path.join("data"),
            socket: path.join("api.sock"),
        };
        Ok(Setup { config, paths, temporary: Some(directory) })
    }

    /// The same daemon with these places. Its temporary directory keeps a link to the socket, by which p2pctl finds it.
    pub(crate) fn moved(mut self, named: Named) -> anyhow::Result<Self> {
        if let Some(data) = named.data {
            self.paths.data = data;
        }
        if let Some(socket) = named.socket {
            let link = std::mem::replace(&mut self.paths.socket, std::path::absolute(socket)?);
            symlink(&self.paths.socket, link)?;
        }
        Ok(self)
    }
}

/// A daemon that runs.
pub struct Daemon {
    /// Socket of its API.
    pub socket: PathBuf,
    /// Own multiaddrs.
    pub addresses: Vec<String>,
    node: Node,
    network: JoinHandle<()>,
    pump: JoinHandle<()>,
    server: JoinHandle<anyhow::Result<()>>,
    probe: Probe,
    stop_api: CancellationToken,
    stop_network: CancellationToken,
    _socket_file: SocketFile,
    _lock: Lock,
    temporary: Option<TempDir>,
}

/// Makes the directory of identity and database, for its owner's eyes alone. Root may write into another user's, whose daemon
/// could not read that afterwards.
pub(crate) fn make_data(data: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    check_owner(data)?;
    let private = fs::set_permissions(data, fs::Permissions::from_mode(0o700));
    private.with_context(|| format!("cannot change the mode of {}", data.display()))
}

/// Refuses the data directory of another user. What root writes there, its daemon could not read afterwards.
pub(crate) fn check_owner(data: &Path) -> anyhow::Result<()> {
    let owner = fs::metadata(data).with_context(|| format!("cannot read {}", data.display()))?.uid();
    if owner != Uid::effective().as_raw() {
        let owner = User::from_uid(owner.into()).ok().flatten().map_or_else(|| owner.to_string(), |user| user.name);
        bail!(
            "{} belongs to {owner}: start its daemon as that user, the system's with `systemctl start p2pd`, or name \
             another directory with --data; other commands as `runuser -u {owner} -- p2pd ... --data {0}`",
            data.display()
        );
    }
    Ok(())
}

impl Daemon {
    /// Starts every part; returns when the API answers.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let Setup { config, paths, temporary } = setup;
        // The watchers of a child process would read the secrets of QUIC there.
        if std::env::var_os("SSLKEYLOGFILE").is_some_and(|file| !file.is_empty()) {
            bail!("SSLKEYLOGFILE is set, which would write the secrets of every connection to a file; unset it");
        }
        make_data(&paths.data)?;
        let lock = lock::take(&paths.data)?;
        let identity = identity(&paths)?;
        let database = paths.data.join("db");
        let opened = tokio::task::spawn_blocking(move || {
            let store = Store::open(&database)?;
            unreadable::refuse(&store)?;
            Ok::<_, StoreError>(store)
        });
        let store = opened.await??;
        let (stop_api, stop_network) = (CancellationToken::new(), CancellationToken::new());
        let meshes = p2pd_node::pubsub::meshes(&store)?;
        let network = p2pd_net::Config {
            network: config.network.clone(),
            topic_of_all: p2pd_core::topic::directory(&config.network.name),
            meshes,
            agent: format!("p2pd/{VERSION}"),
        };
        let net = p2pd_net::start(&network, &identity, stop_network.clone())?;
        let (node, pump) = Node::start(&config, &identity, store, net.handle, net.events, stop_network.clone()).await?;
        let (listener, socket_file) = api::bind(&paths)?;
        let probe = Probe::default();
        let server = tokio::spawn(api::serve(
            listener,
            node.clone(),
            config.api.clone(),
            paths.clone(),
            probe.clone(),
            stop_api.clone(),
        ));
        let addresses = node.listening().await?.iter().map(ToString::to_string).collect();
        Ok(Daemon {
            socket: paths.socket,
            addresses,
            node,
            network: net.task,
            pump,
            server,
            probe,
            stop_api,
            stop_network,
            _socket_file: socket_file,
            _lock: lock,
            temporary,
        })
    }

    /// Stops every part in reverse order: tells readers, deregisters streams, writes what is kept.
    pub async fn stop(mut self) {
        let clean = async {
            self.stop_api.cancel();
            let _ = (&mut self.server).await;
            self.node.finish().await;
            self.stop_network.cancel();
            let _ = (&mut self.network).await;
            let _ = (&mut self.pump).await;
        };
        if tokio::time::timeout(STOP, clean).await.is_err() {
            tracing::warn!("not everything stopped within 10 s");
            self.stop_network.cancel();
            self.server.abort();
        }
    }

    /// Waits for a part to end, which none does by itself.
    async fn part_ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.network => "network",
            _ = &mut self.pump => "node",
            _ = &mut self.server => "API",
        }
    }
}

fn identity(paths: &Paths) -> anyhow::Result<Identity> {
    let file = paths.data.join(IDENTITY_FILE);
    if let Some(identity) = Identity::load(&file)? {
        return Ok(identity);
    }
    let identity = Identity::generate();
    identity.save_new(&file)?;
    tracing::info!(peer = %identity.peer_id(), "made a new identity");
    Ok(identity)
}

/// Ends the process when any part of it panics: a daemon that has lost a part, or a lock, would only look alive.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let stack = Backtrace::capture();
        match stack.status() {
            BacktraceStatus::Captured => telemetry::say(format_args!("p2pd: {panic}\n{stack}")),
            _ => telemetry::say(format_args!("p2pd: {panic}")),
        }
        std::process::exit(i32::from(PART_DIED));
    }));
}

/// Runs a daemon until it is told to stop, and says how it ended.
pub fn main(setup: Setup) -> ExitCode {
    let fail = |error: anyhow::Error, code: u8| {
        telemetry::say(format_args!("p2pd: {error:#}"));
        ExitCode::from(code)
    };
    if let Err(error) = telemetry::start(&setup.config.log) {
        return fail(error, 78);
    }
    end_on_panic();
    node::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error.into(), 1),
    };
    let code = runtime.block_on(async {
        // Before all else, so that none ends the process out of order.
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return fail(error.into(), 1),
        };
        let started = tokio::select! {
            started = Daemon::start(setup) => started,
            () = signals.stop() => return ExitCode::SUCCESS,
        };
        match started {
            Ok(daemon) => until_stopped(daemon, signals).await,
            Err(error) => fail(error, 1),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    telemetry::flush();
    code
}

async fn until_stopped(mut daemon: Daemon, mut signals: Signals) -> ExitCode {
    let watchdog = systemd::watchdog(daemon.socket.clone(), daemon.probe.clone(), daemon.stop_api.clone());
    let watchdog = tokio::spawn(watchdog);
    systemd::notify(NotifyState::Ready);
    announce(&daemon);
    let died = tokio::select! {
        () = signals.stop() => None,
        part = daemon.part_ended() => Some(part),
    };
    if let Some(part) = died {
        telemetry::say(format_args!("p2pd: the {part} part has died; the log above says why"));
        return ExitCode::from(PART_DIED);
    }
    systemd::notify(NotifyState::Stopping);
    daemon.stop().await;
    let _ = watchdog.await;
    ExitCode::SUCCESS
}

/// Tells a terminal or a script where we are. Whoever reads it may have gone: that is no reason to stop.
fn announce(daemon: &Daemon) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "ready: socket {}", daemon.socket.display());
    for address in &daemon.addresses {
        let _ = writeln!(out, "address: {address}");
    }
    if daemon.temporary.is_some() {
        let _ = writeln!(out, "for p2pctl in another terminal: export P2PD_SOCKET={}", daemon.socket.display());
    }
    let _ = out.flush();
}
