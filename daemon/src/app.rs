//! Assembly: lock, store, network, owners, API, in this order, and stopped in reverse within ten seconds. A long-lived
//! task that ends by itself ends the process; systemd starts it again.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::unistd::{Uid, User};
use p2pd_net::Identity;
use p2pd_store::{Store, StoreError};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    VERSION,
    api::{self, SocketFile},
    config::Config,
    lock::{self, Lock},
    owners::{self, Owners},
    paths::{Mode, Named, Paths},
    systemd::Probe,
    unreadable,
};

/// Name of the identity's file in the data directory.
pub const IDENTITY_FILE: &str = "identity.key";
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
    owners: Owners,
    network: JoinHandle<()>,
    running: JoinHandle<()>,
    server: JoinHandle<anyhow::Result<()>>,
    pub(crate) probe: Probe,
    pub(crate) stop_api: CancellationToken,
    stop_network: CancellationToken,
    _socket_file: SocketFile,
    _lock: Lock,
    pub(crate) temporary: Option<TempDir>,
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
        let listeners = config.network.listen.len();
        let network = p2pd_net::Config {
            network: config.network.clone(),
            relay: config.relay.clone(),
            bandwidth: config.bandwidth,
            topic_of_all: p2pd_live::topic::directory(&config.network.name),
            meshes,
            agent: format!("p2pd/{VERSION}"),
        };
        let network = p2pd_net::prepare(&network, &identity)?;
        let owners::Running { owners, network, task: running } =
            owners::start(&config, &identity, store, network, stop_network.clone()).await?;
        let (listener, socket_file) = api::bind(&paths)?;
        let probe = Probe::default();
        let server = tokio::spawn(api::serve(
            listener,
            owners.clone(),
            config.api.clone(),
            paths.clone(),
            probe.clone(),
            stop_api.clone(),
        ));
        let addresses = owners.peers.listening(listeners).await?.iter().map(ToString::to_string).collect();
        Ok(Daemon {
            socket: paths.socket,
            addresses,
            owners,
            network,
            running,
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
            self.owners.finish().await;
            self.stop_network.cancel();
            let _ = (&mut self.network).await;
            let _ = (&mut self.running).await;
            self.owners.disk.finish().await;
        };
        if tokio::time::timeout(STOP, clean).await.is_err() {
            tracing::warn!("not everything stopped within 10 s");
            self.stop_network.cancel();
            self.server.abort();
        }
    }

    /// Waits for a part to end, which none does by itself.
    pub(crate) async fn part_ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.network => "network",
            _ = &mut self.running => "owners",
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
