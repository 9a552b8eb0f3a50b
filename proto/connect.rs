//! Finding the daemon's socket and dialling it, with errors that say what to do.

use std::{
    env, fs, io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
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
    #[error(
        "p2pd is not running: there is no {0}. Start it with `sudo systemctl start p2pd`, or for yourself with `p2pd run`"
    )]
    Missing(PathBuf),
    /// Not allowed.
    #[error("no permission for {0}. Join its group with `sudo usermod -aG p2pd $USER`, then log in again")]
    Denied(PathBuf),
    /// The daemon hangs up at once.
    #[error(
        "the daemon at {0} does not admit you: a user's own daemon admits its owner alone, the system's root and group p2pd"
    )]
    Refused(PathBuf),
    /// Nobody answers behind the socket.
    #[error("nobody answers at {0}: the daemon has died. See `journalctl{user} -u p2pd -n 50`, then start it again", user = of_user(.0))]
    Stale(PathBuf),
    /// Anything else.
    #[error("cannot use the socket {0}: {1}")]
    Other(PathBuf, String),
}

fn of_user(socket: &Path) -> &'static str {
    if socket == Path::new(SYSTEM_SOCKET) { "" } else { " --user" }
}

/// The socket to use when none was named: `P2PD_SOCKET`, else the user's own daemon if it runs, else the system's.
pub fn default_socket() -> PathBuf {
    if let Some(path) = env::var_os("P2PD_SOCKET").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let inside = |dir: &str, path: &str| env::var_os(dir).map(|dir| Path::new(&dir).join(path));
    let users = [
        inside("XDG_RUNTIME_DIR", "p2pd/api.sock"),
        // Where a user's daemon listens when there is no runtime directory.
        inside("XDG_STATE_HOME", "p2pd/api.sock"),
        inside("HOME", ".local/state/p2pd/api.sock"),
    ];
    users.into_iter().flatten().find(|path| path.exists()).unwrap_or_else(|| SYSTEM_SOCKET.into())
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
