//! Finding the daemon's socket and dialling it, with errors that say what to do.

use std::{
    env, fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::{GetInfoRequest, node_service_client::NodeServiceClient};

/// Where the system's daemon listens.
const SYSTEM_SOCKET: &str = "/run/p2pd/api.sock";
/// How long to wait for the first answer; a daemon that is slower is left to the deadlines of the calls to come.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Entries of the temporary directory that are looked at for daemons, and how many daemons are named.
const MOST_SEEN: usize = 10_000;
const MOST_NAMED: usize = 3;

/// Largest HTTP/2 frame that either side takes, in bytes: a message of 64 KiB goes in one and not in five.
pub const MAX_FRAME: u32 = 128 * 1024;

/// Calls of one connection that the daemon serves at once; others wait.
pub const CALLS: u32 = 64;
/// Bytes that may be on their way in one call, before its reader has taken them.
pub const WINDOW: u32 = 1 << 20;
/// The same of all calls of a connection: a call that nobody reads leaves room for the others.
pub const WINDOWS: u32 = (CALLS + 1) * WINDOW;

/// Why there is no way to the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket there.
    #[error("p2pd is not running: there is no {0}. Start it {start}{others}", start = start(), others = others())]
    Missing(PathBuf),
    /// Not allowed.
    #[error("no permission for {0}. Join its group with `sudo usermod -aG p2pd $USER`, then log in again{others}", others = others())]
    Denied(PathBuf),
    /// The daemon hangs up at once.
    #[error(
        "the daemon at {0} does not admit you: a user's own daemon admits its owner alone, the system's root and group p2pd"
    )]
    Refused(PathBuf),
    /// Nobody answers behind the socket.
    #[error("nobody answers at {0}: the daemon has died. {log}tart it again{others}", log = log(.0), others = others())]
    Stale(PathBuf),
    /// Anything else.
    #[error("cannot use the socket {0}: {1}")]
    Other(PathBuf, String),
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

fn start() -> &'static str {
    if has_systemd() { "with `sudo systemctl start p2pd`, or for yourself with `p2pd run`" } else { "with `p2pd run`" }
}

/// Where the log of the daemon behind `socket` is, as far as systemd started it.
fn log(socket: &Path) -> &'static str {
    match socket {
        _ if !has_systemd() => "S",
        socket if socket == Path::new(SYSTEM_SOCKET) => "See `journalctl -u p2pd -n 50`, then s",
        socket if users_sockets().any(|own| own == socket) => "See `journalctl --user -u p2pd -n 50`, then s",
        _ => "S",
    }
}

/// Names the daemons that this user runs with --dev.
fn others() -> String {
    let found = dev_sockets();
    let Some(first) = found.first() else { return String::new() };
    let all: Vec<_> = found.iter().map(|socket| socket.display().to_string()).collect();
    format!("; a daemon of --dev answers at {}: export P2PD_SOCKET={}", all.join(", and one at "), first.display())
}

/// Sockets of running `p2pd run --dev` of this user, which keeps each, or a link to it, in a temporary directory.
fn dev_sockets() -> Vec<PathBuf> {
    // Whose /proc/self is, we are.
    let Ok(me) = fs::metadata("/proc/self").map(|own| own.uid()) else { return Vec::new() };
    let is_ours = |entry: &fs::DirEntry| {
        let named = entry.file_name().to_string_lossy().starts_with("p2pd-");
        named && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == me)
    };
    let entries = fs::read_dir(env::temp_dir()).into_iter().flatten().take(MOST_SEEN).flatten().filter(is_ours);
    let sockets = entries.filter_map(|entry| fs::canonicalize(entry.path().join("api.sock")).ok());
    sockets.filter(|socket| answers(socket).is_ok()).take(MOST_NAMED).collect()
}

/// What is set, and not to nothing.
fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where a user's own daemon listens.
fn users_sockets() -> impl Iterator<Item = PathBuf> {
    let inside = |name: &str, path: &str| variable(name).map(|directory| directory.join(path));
    let sockets = [
        inside("XDG_RUNTIME_DIR", "p2pd/api.sock"),
        // Where it listens when there is no runtime directory.
        inside("XDG_STATE_HOME", "p2pd/api.sock"),
        inside("HOME", ".local/state/p2pd/api.sock"),
    ];
    sockets.into_iter().flatten()
}

/// The socket to use when none was named: `P2PD_SOCKET`, else the user's own daemon if it runs, else the system's.
pub fn default_socket() -> PathBuf {
    let own = || users_sockets().find(|path| path.exists());
    variable("P2PD_SOCKET").or_else(own).unwrap_or_else(|| SYSTEM_SOCKET.into())
}

/// Whether somebody answers behind `socket`. A plain connect tells what is wrong more exactly than the channel would.
fn answers(socket: &Path) -> Result<(), ConnectError> {
    let path = || socket.to_path_buf();
    UnixStream::connect(socket).map(drop).map_err(|error| match error.kind() {
        _ if fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) => {
            ConnectError::Other(path(), "it is no socket; --socket and P2PD_SOCKET take the daemon's".into())
        }
        io::ErrorKind::NotFound => ConnectError::Missing(path()),
        io::ErrorKind::PermissionDenied => ConnectError::Denied(path()),
        io::ErrorKind::ConnectionRefused => ConnectError::Stale(path()),
        _ => ConnectError::Other(path(), error.to_string()),
    })
}

/// Why the daemon hung up: it does not admit us, or has just died.
fn refused(socket: &Path) -> ConnectError {
    answers(socket).err().unwrap_or_else(|| ConnectError::Refused(socket.to_path_buf()))
}

/// Dials the daemon behind `socket`, and sees that it admits us.
pub async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    answers(socket)?;
    let path = socket.to_path_buf();
    let dial = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = dial.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let hung_up = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
        let io = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
        match io {
            Some(io) if hung_up.contains(&io.kind()) => refused(socket),
            _ => ConnectError::Other(path.clone(), error.to_string()),
        }
    })?;
    // We speak first in HTTP/2, so that a daemon that hangs up may be noticed only where its answer should be.
    let mut node = NodeServiceClient::new(channel.clone());
    match tokio::time::timeout(FIRST_ANSWER, node.get_info(GetInfoRequest {})).await {
        // Not a word of the daemon's, but made here of a connection that broke.
        Ok(Err(status)) if std::error::Error::source(&status).is_some() => Err(refused(socket)),
        _ => Ok(channel),
    }
}
