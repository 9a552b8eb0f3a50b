//! Floods against a real daemon, of bad connections, of sound that nobody takes, and of messages: its memory stays, and the
//! others come through.
#![allow(missing_docs)]

mod support;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use p2pd_api::v1::{
    Frame, OpenStream, PublishStreamRequest, StreamConfig, SubscribeStreamRequest, WireFormat,
    publish_stream_request::Item, stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
};
use support::{Daemon, pair, signal, until};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
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
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let before = resident_kib(a.child.id());
    let flood = async {
        let streams = async || StreamServiceClient::new(p2pd_api::connect(&a.socket).await.unwrap());
        let (items, requests) = mpsc::channel(8);
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

#[test]
fn as_many_lines_as_fit_a_pipe_go_through_at_once() {
    const LINES: u64 = 20_000;
    let (place, a, b) = pair();
    let file = place.path().join("lines");
    fs::write(&file, (0..LINES).map(|n| format!("{n}\n")).collect::<String>()).unwrap();
    // Where the same content is the same message, too: what is held back is then sent under the same name.
    for topic in ["sender", "content"] {
        for daemon in [&a, &b] {
            daemon.good(&["topics", "set", topic, "--identity", topic]);
        }
        let mut reader = b.ctl(&["-o", "jsonl", "sub", topic, "--block"]).spawn().unwrap();
        let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        a.good(&["pub", topic, "the first", "--wait", "20s"]);
        let (heard, count) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap();
                let gap = |end: &str| event["gap"][end].as_u64();
                // A gap is this reader's own, who was told of it.
                let more = gap("from").zip(gap("to")).map(|(from, to)| to - from + 1);
                let _ = heard.send(more.unwrap_or(u64::from(event["message"].is_object())));
            }
        });
        let sent = a.ctl(&["pub", topic]).stdin(File::open(&file).unwrap()).output().unwrap();
        assert!(sent.status.success(), "{}", support::said(&sent));
        let mut due = LINES + 1;
        while due > 0 {
            due -= count.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{due} of {LINES} are lost"));
        }
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
}

#[test]
fn what_a_frozen_follower_does_not_take_is_refused_until_it_goes_on() {
    let (place, a, b) = pair();
    let file = place.path().join("lines");
    fs::write(&file, format!("{}\n", "x".repeat(50_000)).repeat(50)).unwrap();
    let publish = || a.ctl(&["pub", "news"]).stdin(File::open(&file).unwrap()).output().unwrap();
    let mut reader = b.ctl(&["sub", "news", "--block"]).stdout(Stdio::null()).spawn().unwrap();
    a.good(&["pub", "news", "the first", "--wait", "20s"]);
    signal(&b.child, "-STOP");
    // Once the connection and the queues before it are full.
    let refused = until("a refusal", || Some(publish()).filter(|sent| !sent.status.success()));
    signal(&b.child, "-CONT");
    assert_eq!(refused.status.code(), Some(7));
    assert!(support::said(&refused).contains("NETWORK_BUSY"), "{}", support::said(&refused));
    until("that it goes on", || publish().status.success().then_some(()));
    reader.kill().unwrap();
    reader.wait().unwrap();
}
