//! Floods against a real daemon, of bad connections, of sound that nobody takes, and of messages: its memory stays, and the
//! others come through.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use p2pd_api::v1::{
    Frame, OpenStream, PublishStreamRequest, StreamConfig, SubscribeStreamRequest, WireFormat,
    publish_stream_request::Item, stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
};

use crate::support::{self, Daemon, Program, Start, alone, id, pair, signal, until};
use tokio::{runtime::Runtime, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The head of a binary frame of 256 MiB, masked.
const HUGE: [u8; 14] = [0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 2, 3, 4];

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap()
}

#[test]
fn two_hundred_websocket_frames_of_256_mib_reserve_nothing() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let info = a.good(&["status"]);
    let websocket = info.split_whitespace().find(|word| word.contains("/ws/")).expect("a WebSocket address").to_owned();
    let port: u16 = websocket.split("/tcp/").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let before = resident_kib(a.child.id());
    let mut held = Vec::new();
    let mut upgraded = 0;
    for _ in 0..200 {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut answer = [0; 12];
        let _ = socket.write_all(UPGRADE.as_bytes());
        if socket.read_exact(&mut answer).is_ok() && answer.ends_with(b"101") {
            upgraded += 1;
            let _ = socket.write_all(&HUGE);
        }
        held.push(socket);
    }
    assert!(upgraded >= 40, "only {upgraded} were let in so far as to try");
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &websocket]);
    b.good(&["wait", "peers=1", "--timeout", "30s"]);
    let grown = resident_kib(a.child.id()).saturating_sub(before);
    println!("{upgraded} of 200 upgraded; grew by {grown} KiB");
    assert!(grown < 32 * 1024, "grew by {grown} KiB");
}

#[test]
fn a_listener_who_stops_reading_costs_the_daemon_no_memory_and_the_others_no_sound() {
    const GROUPS: u64 = 2_400;
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let before = resident_kib(a.child.id());
    let flood = async {
        let streams = async || StreamServiceClient::new(p2pd_api::connect(&a.socket).await.unwrap());
        let (items, requests) = tokio::sync::mpsc::channel(8);
        let send = async |item| items.send(PublishStreamRequest { item: Some(item) }).await.unwrap();
        let config = StreamConfig {
            codec: "opus".into(),
            sample_rate: 48_000,
            channels: 1,
            frame_us: 20_000,
            frames_per_group: 5,
            ..StreamConfig::default()
        };
        send(Item::Open(OpenStream {
            stream_id: "town".into(),
            wire: WireFormat::Native.into(),
            config: Some(config),
            ..OpenStream::default()
        }))
        .await;
        let publishing = streams().await.publish_stream(ReceiverStream::new(requests)).await.unwrap();
        let listen = async || {
            let request = SubscribeStreamRequest { stream: "town".into(), wait_ms: 15_000, burst_ms: 0 };
            streams().await.subscribe_stream(request).await.unwrap().into_inner()
        };
        let (stopped, mut other) = (listen().await, listen().await);
        assert!(matches!(other.message().await.unwrap().unwrap().event, Some(Event::Opened(_))));
        for seq in 0..GROUPS {
            for _ in 0..5 {
                send(Item::Frame(Frame { data: vec![0; 3_800].into(), ..Frame::default() })).await;
            }
            let Some(Event::Group(group)) = other.message().await.unwrap().unwrap().event else { panic!("a group") };
            assert_eq!(group.seq, seq, "the other hears every group");
        }
        (publishing, stopped)
    };
    let held = Runtime::new().unwrap().block_on(async { timeout(Duration::from_secs(120), flood).await });
    let grown = resident_kib(a.child.id()).saturating_sub(before);
    println!("{} KiB went by; grew by {grown} KiB", GROUPS * 5 * 3_800 / 1024);
    assert!(held.is_ok(), "in time");
    assert!(grown < 32 * 1024, "grew by {grown} KiB");
}

const LINES: u64 = 20_000;
/// A file of so many lines, each of a number and so many more bytes.
fn lines(place: &Path, count: u64, more: usize) -> PathBuf {
    let path = place.join("lines");
    let more = "x".repeat(more);
    fs::write(&path, (0..count).map(|n| format!("{n}{more}\n")).collect::<String>()).unwrap();
    path
}

/// `p2pctl sub` on a topic.
struct Reader {
    _program: Program,
    heard: mpsc::Receiver<u64>,
    count: u64,
}

impl Reader {
    fn start(daemon: &Daemon, topic: &str) -> Self {
        let mut program = daemon.ctl(&["-o", "jsonl", "sub", topic, "--block"]).start();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let (hear, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap();
                let gap = |end: &str| event["gap"][end].as_u64();
                // Of a gap it was told.
                let more = gap("from").zip(gap("to")).map(|(from, to)| to - from + 1);
                let _ = hear.send(more.unwrap_or(u64::from(event["message"].is_object())));
            }
        });
        Reader { _program: program, heard, count: 0 }
    }

    /// How many messages there are so far.
    fn count(&mut self) -> u64 {
        self.count += self.heard.try_iter().sum::<u64>();
        self.count
    }
}

/// How many messages a peer missed, as this daemon counts them.
fn missed(daemon: &Daemon, peer: &str) -> u64 {
    let peers: serde_json::Value =
        serde_json::from_str(&daemon.good(&["rpc", "p2pd.v1.PeerService/ListPeers"])).unwrap();
    let found = peers["peers"].as_array().unwrap().iter().find(|found| found["peer_id"] == peer);
    found.expect("that it is connected")["messages_lost"].as_u64().unwrap()
}

/// Publishes a file and returns for how many of its lines a follower was not waited for.
fn publish_lines(daemon: &Daemon, topic: &str, file: &Path) -> u64 {
    let sent = daemon.ctl(&["-o", "jsonl", "pub", topic]).stdin(File::open(file).unwrap()).output().unwrap();
    assert!(sent.status.success(), "{}", support::said(&sent));
    let answers = String::from_utf8(sent.stdout).unwrap();
    let answers = answers.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    answers.filter(|answer| answer["behind"].as_u64().unwrap() > 0).count() as u64
}

/// A daemon that others follow on a topic.
fn followed(place: &Path, topic: &str, followers: usize) -> (Daemon, Vec<(Daemon, Reader)>) {
    let a = Daemon::start(place, "a", &[]);
    let follow = |n: usize| {
        let follower = Daemon::start(place, &format!("follower{n}"), &["--bootstrap", &a.address]);
        let reader = Reader::start(&follower, topic);
        (follower, reader)
    };
    let readers = (0..followers).map(follow).collect();
    until("all followers", || (a.good(&["topics", "peers", topic]).lines().count() == followers).then_some(()));
    (a, readers)
}

#[test]
fn as_many_lines_as_fit_a_pipe_go_through_at_once() {
    let _alone = alone();
    let (place, a, b) = pair();
    let file = lines(place.path(), LINES, 0);
    // Where the same content is the same message, too: what is held back is then sent under the same name.
    for topic in ["sender", "content"] {
        for daemon in [&a, &b] {
            daemon.good(&["topics", "set", topic, "--identity", topic]);
        }
        let mut reader = Reader::start(&b, topic);
        a.good(&["pub", topic, "the first", "--wait", "20s"]);
        assert_eq!(publish_lines(&a, topic, &file), 0);
        until("every line", || (reader.count() == LINES + 1).then_some(()));
    }
}

#[test]
fn every_follower_gets_every_line() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let (a, mut followers) = followed(place.path(), "news", 3);
    assert_eq!(publish_lines(&a, "news", &lines(place.path(), LINES, 0)), 0);
    for (follower, reader) in &mut followers {
        until("every line", || (reader.count() == LINES).then_some(()));
        assert_eq!(missed(&a, &id(follower)), 0);
    }
}

#[test]
fn a_frozen_follower_costs_the_others_nothing_and_what_it_misses_is_told() {
    let _alone = alone();
    const LINES: u64 = 3_000;
    let place = tempfile::tempdir().unwrap();
    let (a, mut followers) = followed(place.path(), "news", 2);
    let file = lines(place.path(), LINES, 2_000);
    let (frozen, mut its_reader) = followers.remove(0);
    let frozen_peer = id(&frozen);
    signal(&frozen.child, "-STOP");
    let mut sent = 0;
    // Once the connection is full.
    let told = until("an answer that tells it", || {
        sent += LINES;
        Some(publish_lines(&a, "news", &file)).filter(|told| *told > 0)
    });
    signal(&frozen.child, "-CONT");
    let (follower, reader) = &mut followers[0];
    until("every line", || (reader.count() == sent).then_some(()));
    assert_eq!(missed(&a, &id(follower)), 0);
    let lost = missed(&a, &frozen_peer);
    assert!(lost > 0 && lost <= told, "{lost} lost, {told} told");
    // Its reader, too, learns how many never came, once it lives again. The other may have passed on some of them.
    until("an account", || (its_reader.count() >= sent).then_some(()));
    assert_eq!(its_reader.count(), sent);
    // And then it follows again.
    assert_eq!(a.good(&["pub", "news", "the last"]).trim(), "sent; 2 connected peers follow");
    until("the last", || (its_reader.count() > sent).then_some(()));
}

#[test]
fn what_is_passed_on_waits_for_the_next_one() {
    let _alone = alone();
    let (place, a, b) = pair();
    let c = Daemon::start(place.path(), "c", &[]);
    // In a line: without these two they would find each other.
    a.good(&["peers", "deny", &id(&c)]);
    c.good(&["peers", "deny", &id(&a)]);
    c.good(&["peers", "connect", &b.address]);
    let mut readers = [&b, &c].map(|daemon| Reader::start(daemon, "news"));
    until("that c is in the mesh", || {
        b.good(&["-o", "jsonl", "topics", "show", "news"]).contains("\"mesh_peers\":1").then_some(())
    });
    publish_lines(&a, "news", &lines(place.path(), LINES, 0));
    for reader in &mut readers {
        until("every line", || (reader.count() == LINES).then_some(()));
    }
    assert_eq!(missed(&b, &id(&c)), 0);
}

#[test]
fn what_a_frozen_follower_does_not_take_is_refused_until_it_goes_on() {
    let _alone = alone();
    let (place, a, b) = pair();
    let file = place.path().join("lines");
    fs::write(&file, format!("{}\n", "x".repeat(50_000)).repeat(50)).unwrap();
    let publish = || a.ctl(&["pub", "news"]).stdin(File::open(&file).unwrap()).output().unwrap();
    let _reader = b.ctl(&["sub", "news", "--block"]).stdout(Stdio::null()).start();
    a.good(&["pub", "news", "the first", "--wait", "20s"]);
    signal(&b.child, "-STOP");
    // Once the connection and the queues before it are full.
    let refused = until("a refusal", || Some(publish()).filter(|sent| !sent.status.success()));
    signal(&b.child, "-CONT");
    assert_eq!(refused.status.code(), Some(7));
    assert!(support::said(&refused).contains("NETWORK_BUSY"), "{}", support::said(&refused));
    until("that it goes on", || publish().status.success().then_some(()));
}
