//! The retired Go p2pd, which `./x test` installs, over the control protocol of its Unix socket.

mod stream;
mod topic;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixStream, unix::OwnedWriteHalf},
};

pub use stream::Streams;
pub use topic::Topic;
use wire::{Answer, CONNECT, Connect, Frames, IDENTIFY, Identity, Request};

pub struct Go {
    child: Child,
    socket: PathBuf,
    identity: Identity,
    place: TempDir,
}

impl Go {
    /// `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        let program = std::env::var_os("X_INTEROP").map(|all| Path::new(&all).join("go/p2pd"));
        let Some(program) = program.filter(|program| program.exists()) else {
            static SAID: Once = Once::new();
            SAID.call_once(|| println!("SKIP go p2pd: not installed; ./x test does that"));
            return None;
        };
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let mut command = Command::new(program);
        command.args(["-q", "-pubsub", "-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-listen"]);
        command.arg(format!("/unix{}", socket.display())).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let mut go = Go { child, socket, identity: Identity::default(), place };
        let began = Instant::now();
        while UnixStream::connect(&go.socket).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the Go p2pd did not start");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let identify = Request { kind: IDENTIFY, ..Request::default() };
        go.identity = go.ask(identify).await.0.identify.unwrap();
        Some(go)
    }

    pub async fn connect(&self, other: &Go) {
        let Identity { id: peer, addresses } = other.identity.clone();
        let connect = Some(Connect { peer, addresses });
        self.ask(Request { kind: CONNECT, connect, ..Request::default() }).await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer to a request on a connection of its own, and both ends of that.
    async fn ask(&self, request: Request) -> (Answer, Frames<Answer>, OwnedWriteHalf) {
        let (reader, mut writer) = UnixStream::connect(&self.socket).await.unwrap().into_split();
        writer.write_all(&request.encode_length_delimited_to_vec()).await.unwrap();
        let mut answers = Frames::new(reader);
        let answer: Answer = answers.next().await;
        assert_eq!(answer.kind, 0, "the Go p2pd refused {request:?}");
        (answer, answers, writer)
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
