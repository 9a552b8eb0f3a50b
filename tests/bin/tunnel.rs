//! Streams from the command line: a pipe to a pipe, and a local port that leads to one of another machine.
#![allow(missing_docs)]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::Stdio,
    thread,
};

use support::{Daemon, id, interrupt, pair, ready};

#[test]
fn a_pipe_leads_to_a_pipe() {
    let (_place, a, b) = pair();
    let mut handle = a.ctl(&["handle", "/chat/1.0.0"]);
    handle.stdin(Stdio::piped());
    let (mut handler, _) = ready(handle);
    let mut opener = b.ctl(&["open", &id(&a), "/chat/1.0.0"]).stdin(Stdio::piped()).spawn().unwrap();
    opener.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let mut heard = String::new();
    BufReader::new(handler.stdout.take().unwrap()).read_line(&mut heard).unwrap();
    handler.stdin.take().unwrap().write_all(b"good day\n").unwrap();
    let answer = opener.wait_with_output().unwrap();
    assert!(answer.status.success(), "{}", support::said(&answer));
    assert_eq!((heard.as_str(), answer.stdout.as_slice()), ("hello\n", &b"good day\n"[..]));
    assert!(handler.wait().unwrap().success());
}

#[test]
fn a_port_leads_to_a_port_of_an_allowed_peer_only() {
    let (place, a, b) = pair();
    // The service: answers everything in capitals, when the question is whole.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in service.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut question = Vec::new();
                stream.read_to_end(&mut question).unwrap();
                stream.write_all(&question.to_ascii_uppercase()).unwrap();
            });
        }
    });
    let (exposing, _) = ready(a.ctl(&["expose", "/shout/1", &target, "--allow", &id(&b)]));
    let (forwarding, line) = ready(b.ctl(&["forward", "127.0.0.1:0", &id(&a), "/shout/1"]));
    let port = line.split(' ').next().unwrap().to_owned();
    let ask = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&port).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    assert_eq!(ask(b"quiet words"), b"QUIET WORDS");
    let long = b"abcdefgh".repeat(128 * 1024);
    assert!(ask(&long) == long.to_ascii_uppercase(), "a mebibyte comes through whole");

    // A third daemon is not allowed.
    let c = Daemon::start(place.path(), "c", &["--bootstrap", &a.address]);
    c.good(&["wait", "peers=1", "--timeout", "20s"]);
    let path = place.path().join("shout.sock");
    let listen = format!("unix:{}", path.display());
    let (refused, _) = ready(c.ctl(&["forward", &listen, &id(&a), "/shout/1"]));
    let mut stream = UnixStream::connect(&path).unwrap();
    let _ = stream.write_all(b"let me in");
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
    for mut child in [exposing, forwarding, refused] {
        interrupt(&child);
        child.wait().unwrap();
    }
}
