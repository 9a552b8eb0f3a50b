//! A flood of bad connections against a real daemon: its memory stays, and honest peers come through.
#![allow(missing_docs)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use support::Daemon;

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
