//! The retired Go p2pd, which `./x test` installs, over the control protocol of its Unix socket.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::way::{TOPIC, Told};

/// `Request.Type` of its protocol, and what each takes.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(int32, required, tag = 1)]
    kind: i32,
    #[prost(message, optional, tag = 2)]
    connect: Option<Connect>,
    #[prost(message, optional, tag = 8)]
    pubsub: Option<PubSub>,
}

const IDENTIFY: i32 = 0;
const CONNECT: i32 = 1;
const PUBSUB: i32 = 8;

#[derive(Clone, PartialEq, Message)]
struct Connect {
    #[prost(bytes = "vec", required, tag = 1)]
    peer: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = 2)]
    addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct PubSub {
    #[prost(int32, required, tag = 1)]
    kind: i32,
    #[prost(string, required, tag = 2)]
    topic: String,
    #[prost(bytes = "vec", optional, tag = 3)]
    data: Option<Vec<u8>>,
}

const PUBLISH: i32 = 2;
const SUBSCRIBE: i32 = 3;

#[derive(Clone, PartialEq, Message)]
struct Answer {
    /// 0 when all is well.
    #[prost(int32, required, tag = 1)]
    kind: i32,
    #[prost(message, optional, tag = 4)]
    identify: Option<Identity>,
}

#[derive(Clone, PartialEq, Message)]
struct Identity {
    #[prost(bytes = "vec", required, tag = 1)]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = 2)]
    addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Heard {
    #[prost(bytes = "vec", optional, tag = 2)]
    data: Option<Vec<u8>>,
}

/// Messages with their lengths before them.
struct Frames<M>(OwnedReadHalf, BytesMut, PhantomData<M>);

impl<M: Message + Default> Frames<M> {
    /// The next one. Cancel-safe.
    async fn next(&mut self) -> M {
        let Frames(source, buffer, _) = self;
        loop {
            if let Ok(length) = prost::decode_length_delimiter(&buffer[..]) {
                let whole = prost::length_delimiter_len(length) + length;
                if buffer.len() >= whole {
                    let mut frame = buffer.split_to(whole);
                    frame.advance(whole - length);
                    return M::decode(frame).unwrap();
                }
                buffer.reserve(whole - buffer.len());
            }
            assert_ne!(source.read_buf(buffer).await.unwrap(), 0, "the Go p2pd hung up");
        }
    }

    /// What comes from now on is of another kind.
    fn then<N>(self) -> Frames<N> {
        Frames(self.0, self.1, PhantomData)
    }
}

pub struct Go {
    child: Child,
    socket: PathBuf,
    identity: Identity,
    _place: TempDir,
}

impl Go {
    /// `None` where it is not installed.
    pub async fn start() -> Option<Self> {
        let program = std::env::var_os("X_INTEROP").map(|all| Path::new(&all).join("go/p2pd"));
        let Some(program) = program.filter(|program| program.exists()) else {
            println!("SKIP go p2pd: not installed; ./x test does that");
            return None;
        };
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("control.sock");
        let mut command = Command::new(program);
        command.args(["-q", "-pubsub", "-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-listen"]);
        command.arg(format!("/unix{}", socket.display())).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let mut go = Go { child, socket, identity: Identity::default(), _place: place };
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
        let mut answers = Frames(reader, BytesMut::new(), PhantomData);
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

fn pubsub(kind: i32, topic: &str, data: Option<Vec<u8>>) -> Request {
    let pubsub = PubSub { kind, topic: topic.into(), data };
    Request { kind: PUBSUB, pubsub: Some(pubsub), ..Request::default() }
}

/// A topic that one program publishes on and another, at another Go p2pd, follows.
pub struct Topic {
    daemons: [Go; 2],
    publisher: OwnedWriteHalf,
    answers: Frames<Answer>,
    heard: Frames<Heard>,
    _subscriber: OwnedWriteHalf,
}

impl Topic {
    pub async fn start() -> Option<Self> {
        let (a, b) = (Go::start().await?, Go::start().await?);
        b.connect(&a).await;
        let (_, heard, _subscriber) = b.ask(pubsub(SUBSCRIBE, TOPIC, None)).await;
        let (_, answers, publisher) = a.ask(pubsub(PUBLISH, TOPIC, Some(vec![0; 8]))).await;
        Some(Topic { daemons: [a, b], publisher, answers, heard: heard.then(), _subscriber })
    }

    pub fn daemons(&self) -> Vec<u32> {
        self.daemons.iter().map(Go::pid).collect()
    }

    pub async fn publish(&mut self, data: Vec<u8>) {
        let request = pubsub(PUBLISH, TOPIC, Some(data)).encode_length_delimited_to_vec();
        self.publisher.write_all(&request).await.unwrap();
    }

    pub async fn next(&mut self) -> Told {
        tokio::select! {
            answer = self.answers.next() => if answer.kind == 0 { Told::Accepted } else { Told::Refused },
            heard = self.heard.next() => Told::took(&heard.data.unwrap()),
        }
    }
}
