//! Finding the daemon's socket and dialling it, with errors that say what to do.

use std::{
    env, fmt, fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, net::UnixStream};
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
    /// No socket there; other daemons of this user that answer.
    #[error("p2pd is not running: there is no {0}. Start it {start}{1}", start = start())]
    Missing(PathBuf, Others),
    /// Not allowed.
    #[error("no permission for {0}. Join its group with `sudo usermod -aG p2pd $USER`, then log in again{1}")]
    Denied(PathBuf, Others),
    /// The daemon hangs up at once.
    #[error(
        "the daemon at {0} does not admit you: a user's own daemon admits its owner alone, the system's root and group p2pd"
    )]
    Refused(PathBuf),
    /// The daemon has no place for another connection; its own words.
    #[error("the daemon at {0} takes no further connection: {1}")]
    Full(PathBuf, String),
    /// Nobody answers behind the socket.
    #[error("nobody answers at {0}: the daemon has died. {advice}{1}", advice = again(.0))]
    Stale(PathBuf, Others),
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

/// What to do about a daemon that died: read its log first, if systemd started it.
fn again(socket: &Path) -> &'static str {
    match socket {
        _ if !has_systemd() => "Start it again",
        socket if socket == Path::new(SYSTEM_SOCKET) => "See `journalctl -u p2pd -n 50`, then start it again",
        socket if users_sockets().any(|own| own == socket) => {
            "See `journalctl --user -u p2pd -n 50`, then start it again"
        }
        _ => "Start it again",
    }
}

/// The daemons that this user runs with --dev.
#[derive(Debug, Default)]
pub struct Others(Vec<PathBuf>);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        let all: Vec<_> = self.0.iter().map(|socket| socket.display().to_string()).collect();
        let first = first.display();
        write!(f, "; a daemon of --dev answers at {}: export P2PD_SOCKET={first}", all.join(", and one at "))
    }
}

/// Sockets of running `p2pd run --dev` of this user, which keeps each, or a link to it, in a temporary directory.
async fn others() -> Others {
    // Whose /proc/self is, we are.
    let Ok(me) = fs::metadata("/proc/self").map(|own| own.uid()) else { return Others::default() };
    let is_ours = |entry: &fs::DirEntry| {
        let named = entry.file_name().to_string_lossy().starts_with("p2pd-");
        named && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == me)
    };
    let entries = fs::read_dir(env::temp_dir()).into_iter().flatten().take(MOST_SEEN).flatten().filter(is_ours);
    let mut found = Vec::new();
    for socket in entries.filter_map(|entry| fs::canonicalize(entry.path().join("api.sock")).ok()) {
        if found.len() < MOST_NAMED && dial(&socket).await.is_ok() {
            found.push(socket);
        }
    }
    Others(found)
}

/// Dials a socket, and waits no longer than a daemon needs that is there: one whose queue is full answers nobody.
async fn dial(socket: &Path) -> io::Result<UnixStream> {
    let dialled = tokio::time::timeout(FIRST_ANSWER, UnixStream::connect(socket)).await;
    dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
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
async fn answers(socket: &Path) -> Result<(), ConnectError> {
    let Err(error) = dial(socket).await else { return Ok(()) };
    let path = socket.to_path_buf();
    Err(match error.kind() {
        _ if fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket()) => {
            ConnectError::Other(path, "it is no socket; --socket and P2PD_SOCKET take the daemon's".into())
        }
        io::ErrorKind::NotFound => ConnectError::Missing(path, others().await),
        io::ErrorKind::PermissionDenied => ConnectError::Denied(path, others().await),
        io::ErrorKind::ConnectionRefused => ConnectError::Stale(path, others().await),
        io::ErrorKind::TimedOut => ConnectError::Other(path, "its queue of callers is full".into()),
        _ => ConnectError::Other(path, error.to_string()),
    })
}

/// Why the daemon hung up: it has no place, does not admit us, or has just died.
async fn refused(socket: &Path) -> ConnectError {
    const MOST: u64 = 4096;
    let path = socket.to_path_buf();
    if let Ok(stream) = dial(socket).await {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(FIRST_ANSWER, stream.take(MOST).read_to_end(&mut said)).await;
        match (last_words(&said), ended) {
            (Some(why), _) => return ConnectError::Full(path, why),
            (None, Ok(_)) => {}
            // It waits for our first word this time.
            (None, Err(_)) => return ConnectError::Full(path, "it had no place a moment ago; try again".into()),
        }
    }
    answers(socket).await.err().unwrap_or(ConnectError::Refused(path))
}

/// The reason in an HTTP/2 GOAWAY frame, which a daemon sends that has no place. RFC 9113, 4.1 and 6.8.
fn last_words(mut frames: &[u8]) -> Option<String> {
    const GOAWAY: u8 = 7;
    loop {
        let ([a, b, c, kind, ..], rest) = frames.split_first_chunk::<9>()?;
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        if *kind == GOAWAY {
            let why: String = String::from_utf8_lossy(payload.get(8..)?).chars().filter(|c| !c.is_control()).collect();
            return Some(why).filter(|why| !why.is_empty());
        }
        frames = rest;
    }
}

fn has_hung_up(error: &tonic::transport::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let hung_up = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof];
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()).is_some_and(|io| hung_up.contains(&io.kind()))
}

/// Dials the daemon behind `socket`, and sees that it admits us.
pub async fn connect(socket: &Path) -> Result<Channel, ConnectError> {
    answers(socket).await?;
    let path = socket.to_path_buf();
    let dial = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = dial.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS);
    let channel = match endpoint.connect_with_connector(connector).await {
        Ok(channel) => channel,
        Err(error) if has_hung_up(&error) => return Err(refused(socket).await),
        Err(error) => return Err(ConnectError::Other(path, error.to_string())),
    };
    // We speak first in HTTP/2, so that a daemon that hangs up may be noticed only where its answer should be.
    let mut node = NodeServiceClient::new(channel.clone());
    match tokio::time::timeout(FIRST_ANSWER, node.get_info(GetInfoRequest {})).await {
        // Not a word of the daemon's, but made here of a connection that broke.
        Ok(Err(status)) if std::error::Error::source(&status).is_some() => Err(refused(socket).await),
        _ => Ok(channel),
    }
}
