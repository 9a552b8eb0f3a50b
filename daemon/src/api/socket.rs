//! The socket: made without a moment in which others could use it, and an accept loop that no caller can exhaust.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    unistd::{Group, chown},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::{
    caller::Admission,
    turned_away::{turn_away, turn_away_now},
};
use crate::{
    paths::{Mode, Paths},
    systemd::Probe,
};

/// How long a new connection may stay silent.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// Most connections of all users.
pub(super) const MAX_CONNECTIONS: u32 = 512;
/// Most connections that wait for their caller to be admitted.
const ARRIVING: usize = 256;
/// Most callers who are waited for while they read that there is no place; others are closed at once. A bound of their own, so that a
/// user who dials and does not read keeps nobody else from being admitted.
const TURNED_AWAY: usize = 32;
/// For a caller when there is no descriptor left.
const NO_DESCRIPTOR: &str = "p2pd has no file descriptor left for this connection: end some of the programs that use it, or raise its \
    limit (LimitNOFILE of its unit, or `ulimit -n`)";
/// Callers that are told so one after the other.
const REFUSED_AT_ONCE: usize = 64;
/// How long to leave a full table of descriptors alone.
const BACK_OFF: Duration = Duration::from_millis(200);
/// How often it is logged that connections are not accepted.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The file of a bound socket. It goes with this value, so that nobody is led to a socket without a daemon; what stands in its place by
/// then stays.
pub(crate) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket with mode 0660, in system mode for group p2pd. A stale one is replaced, a living one is not.
pub(crate) fn bind(paths: &Paths) -> anyhow::Result<(UnixListener, SocketFile)> {
    let path = &paths.socket;
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another daemon answers at {}; stop it, or choose another --socket", path.display());
    }
    // Made under another name, and moved to its own once only the right callers can open it.
    let unready = path.with_extension("new");
    for place in [path, &unready] {
        if fs::symlink_metadata(place).is_ok_and(|found| !found.file_type().is_socket()) {
            bail!("{} is there and is no socket; move it away, or choose another --socket", place.display());
        }
    }
    let _ = fs::remove_file(&unready);
    let listener =
        UnixListener::bind(&unready).with_context(|| format!("cannot make the socket {}", path.display()))?;
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o660))?;
    if paths.mode == Mode::System {
        give_to_group(&unready)?;
    }
    let made = fs::symlink_metadata(&unready)?;
    fs::rename(&unready, path).with_context(|| format!("cannot make the socket {}", path.display()))?;
    Ok((listener, SocketFile { path: path.clone(), device_and_inode: (made.dev(), made.ino()) }))
}

/// Lets group p2pd use the socket. Under systemd the group is the daemon's own already, and `chown` is forbidden there.
fn give_to_group(socket: &Path) -> anyhow::Result<()> {
    match Group::from_name("p2pd") {
        Ok(Some(group)) if fs::metadata(socket)?.gid() == group.gid.as_raw() => Ok(()),
        Ok(Some(group)) => chown(socket, None, Some(group.gid)).context("cannot give the socket to group p2pd"),
        _ => {
            tracing::warn!("there is no group p2pd: only root and the daemon's own user can call");
            Ok(())
        }
    }
}

type Open = Arc<Mutex<HashMap<u32, u32>>>;

/// What becomes of a caller.
enum Admitted {
    Taken(Connection),
    /// There is no place; why, for people.
    Full(UnixStream, String),
    /// It may not call.
    Stranger,
}

/// An admitted connection.
pub(super) struct Connection {
    stream: UnixStream,
    /// `None`: the watchdog's, for which there is always a place.
    _place: Option<Place>,
}

/// A place among the connections of a user, until dropped.
struct Place {
    open: Open,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

/// Accepts until `stop`. Callers that are not admitted, are too many or stay silent are closed.
pub(super) fn accept(
    listener: UnixListener,
    admission: Admission,
    per_user: u32,
    probe: Probe,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let door = Arc::new(Door {
            admission,
            per_user,
            probe,
            open: Open::default(),
            turned_away: Semaphore::new(TURNED_AWAY),
        });
        let arriving = Arc::new(Semaphore::new(ARRIVING));
        let mut spare = Spare::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let arriving = arriving.clone().try_acquire_owned().ok();
                    if arriving.is_some() || door.is_probe(&stream) {
                        tokio::spawn(door.clone().receive(stream, ready.clone(), arriving));
                    } else {
                        tracing::warn!("connection closed: too many wait to be admitted");
                        turn_away_now(stream, "too many callers wait to be admitted to p2pd; try again");
                    }
                }
                Err(error) => {
                    spare.refuse(&listener, &error).await;
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    });
    ReceiverStream::new(connections)
}

/// A descriptor that is kept to tell a caller that there is none left: one who is not accepted would wait in silence.
struct Spare {
    file: Option<File>,
    logged: Option<Instant>,
}

impl Spare {
    fn new() -> Self {
        Spare { file: File::open("/dev/null").ok(), logged: None }
    }

    /// Tells those who call why connections are not accepted, where there is no descriptor left.
    async fn refuse(&mut self, listener: &UnixListener, error: &io::Error) {
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(%error, "connections are not accepted");
        }
        let full = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
        if full.contains(&error.raw_os_error()) {
            self.file = None;
            for _ in 0..REFUSED_AT_ONCE {
                let Ok(Ok((stream, _))) = tokio::time::timeout(BACK_OFF, listener.accept()).await else { break };
                turn_away_now(stream, NO_DESCRIPTOR);
            }
            self.file = File::open("/dev/null").ok();
        }
    }
}

/// What decides about callers.
struct Door {
    admission: Admission,
    per_user: u32,
    probe: Probe,
    open: Open,
    turned_away: Semaphore,
}

impl Door {
    /// Passes a connection on once its caller is admitted and its first byte is there.
    async fn receive(
        self: Arc<Self>,
        stream: UnixStream,
        ready: mpsc::Sender<io::Result<Connection>>,
        arriving: Option<OwnedSemaphorePermit>,
    ) {
        let admitted = self.admit(stream).await;
        drop(arriving);
        let connection = match admitted {
            Admitted::Taken(connection) => connection,
            Admitted::Full(stream, why) => match self.turned_away.try_acquire() {
                Ok(_waits) => return turn_away(stream, &why).await,
                Err(_) => return turn_away_now(stream, &why),
            },
            Admitted::Stranger => return,
        };
        if let Ok(Ok(())) = tokio::time::timeout(FIRST_BYTE, connection.stream.readable()).await {
            let _ = ready.send(Ok(connection)).await;
        }
    }

    /// Whether this is the watchdog's connection.
    fn is_probe(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|caller| self.probe.is_from(caller.pid()))
    }

    async fn admit(&self, stream: UnixStream) -> Admitted {
        let Ok(caller) = stream.peer_cred() else { return Admitted::Stranger };
        if !self.admission.admits(caller.uid(), caller.gid()).await {
            tracing::warn!(uid = caller.uid(), pid = caller.pid(), "caller not admitted");
            return Admitted::Stranger;
        }
        if self.is_probe(&stream) {
            return Admitted::Taken(Connection { stream, _place: None });
        }
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = counts.values().sum();
        let own = counts.entry(caller.uid()).or_default();
        if *own >= self.per_user || all >= MAX_CONNECTIONS {
            tracing::warn!(uid = caller.uid(), "too many connections");
            let whose = if *own >= self.per_user {
                format!("{own} connections of this user already, as many as api.max_connections_per_user allows")
            } else {
                format!("{all} connections of all users already, as many as it takes")
            };
            return Admitted::Full(stream, format!("p2pd has {whose}; end some of the programs that hold them"));
        }
        *own += 1;
        let place = Place { open: self.open.clone(), uid: caller.uid() };
        Admitted::Taken(Connection { stream, _place: Some(place) })
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl tokio::io::AsyncRead for Connection {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Connection {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
