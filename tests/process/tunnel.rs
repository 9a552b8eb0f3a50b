//! Streams from the command line: a pipe to a pipe, and a local port that leads to one of another machine.

use crate::support::{self, Daemon, Start, id, interrupt, pair, ready, said, terminate, until};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// For an answer.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

#[test]
fn a_pipe_leads_to_a_pipe() {
    let (_place, a, b) = pair();
    let mut handle = a.ctl(&["handle", "/chat/1.0.0"]);
    handle.stdin(Stdio::piped());
    let (mut handler, _) = ready(handle);
    let mut opener = b.ctl(&["open", &id(&a), "/chat/1.0.0"]).stdin(Stdio::piped()).start();
    opener.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let heard = handler.printed().next().unwrap();
    handler.stdin.take().unwrap().write_all(b"good day\n").unwrap();
    let answer = opener.wait_with_output().unwrap();
    assert!(answer.status.success(), "{}", support::said(&answer));
    assert_eq!((heard.as_str(), answer.stdout.as_slice()), ("hello", &b"good day\n"[..]));
    assert!(handler.wait().unwrap().success());
}

/// A service on a port of loopback that answers everything in capitals, when the question is whole.
fn shouting() -> String {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = service.local_addr().unwrap().to_string();
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
    place
}

/// A peer that is not allowed gets no answer: its stream ends, or is reset.
fn nothing_comes(mut stream: UnixStream) {
    stream.set_read_timeout(PATIENCE).unwrap();
    let _ = stream.write_all(b"let me in").and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).map_err(|error| error.kind());
    assert!(answer.is_empty() && end != Err(ErrorKind::WouldBlock), "{answer:?} {end:?}");
}

#[test]
fn tunnels_of_the_configuration_stand_as_long_as_the_daemons() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = place.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let target = shouting();
    let exposing = |protocol, peer| format!("{{ protocol = '{protocol}', target = '{target}', allow = ['{peer}'] }}");
    let other = exposing("/closed/1", "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
    let a_config = file("a.toml", format!("[tunnels]\nexpose = [{}, {other}]\n", exposing("/shout/1", "any")));
    let a = Daemon::start(place.path(), "a", &["--config", &a_config]);
    let (socket, closed) = (place.path().join("shout.sock"), place.path().join("closed.sock"));
    let forwarding = |socket: &Path, protocol| {
        format!("{{ listen = 'unix:{}', peer = '{}', protocol = '{protocol}' }}", socket.display(), a.address)
    };
    let both = format!("{}, {}", forwarding(&socket, "/shout/1"), forwarding(&closed, "/closed/1"));
    let b_config = file("b.toml", format!("[tunnels]\nforward = [{both}]\n"));
    let mut b = Daemon::start(place.path(), "b", &["--config", &b_config]);
    let ask = |socket: &Path| {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(PATIENCE).ok()?;
        stream.write_all(b"quiet words").ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        (answer == b"QUIET WORDS").then_some(())
    };
    until("the answer", || ask(&socket));
    nothing_comes(UnixStream::connect(&closed).expect("the way to what is closed stands"));
    // The socket that a killed daemon leaves behind is no hindrance.
    b.kill_9();
    let _b = Daemon::start(place.path(), "b", &["--config", &b_config]);
    until("the answer again", || ask(&socket));

    let bad = file("bad.toml", "[tunnels]\nforward = [{ listen = 'nowhere', peer = 'x', protocol = '/y' }]\n".into());
    let refused = Command::new(support::p2pd()).args(["config", "check", &bad]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert!(said(&refused).contains("tunnels.forward listen: `nowhere`"), "{}", said(&refused));
    let hostile = file("bad.toml", "[network]\nname = \"a\\u001b[31mb\"\n".into());
    let refused = Command::new(support::p2pd()).args(["config", "check", &hostile]).output().unwrap();
    assert!(
        said(&refused).contains("network.name is `a[31mb`") && !said(&refused).contains('\u{1b}'),
        "{}",
        said(&refused)
    );
    let twice = forwarding(&socket, "/y");
    for (forward, words) in [
        (format!("{twice}, {twice}"), "tunnels.forward listens twice on unix:"),
        (twice.replace("unix:/", "unix:"), "relative"),
    ] {
        let bad = file("bad.toml", format!("[tunnels]\nforward = [{forward}]\n"));
        let refused = Command::new(support::p2pd()).args(["config", "check", &bad]).output().unwrap();
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
    for (expose, words) in [
        (format!("{}, {}", exposing("/y", "any"), exposing("/y", "any")), "tunnels.expose has /y twice"),
        (exposing("/y", "any").replace("'any'", ""), "tunnels.expose allow of /y: names nobody"),
    ] {
        let bad = file("bad.toml", format!("[tunnels]\nexpose = [{expose}]\n"));
        let refused = Command::new(support::p2pd()).args(["config", "check", &bad]).output().unwrap();
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}

#[test]
fn a_command_answers_calls() {
    let (_place, a, b) = pair();
    let (serving, line) = ready(a.ctl(&["serve", "/shout/1", "sh", "-c", "tr a-z A-Z; test $P2PD_SENDER"]));
    assert_eq!(line, "answering on /shout/1\n");
    let peer = id(&a);
    assert_eq!(b.good(&["call", &peer, "/shout/1", "quiet words"]), "QUIET WORDS");
    let unknown = b.run(&["call", &peer, "/whisper/1", "x"]);
    assert!(said(&unknown).contains("/whisper/1"), "{}", said(&unknown));
    interrupt(&serving);
    serving.wait_with_output().unwrap();

    let (failing, _) = ready(a.ctl(&["serve", "/shout/1", "false"]));
    let refused =
        until("a refusal", || Some(b.run(&["call", &peer, "/shout/1", "x"])).filter(|o| said(o).contains("reset")));
    assert_eq!(refused.status.code(), Some(7));
    interrupt(&failing);
    failing.wait_with_output().unwrap();
    let missing = a.run(&["serve", "/shout/1", "no-such-command"]);
    assert_eq!(missing.status.code(), Some(2), "{}", said(&missing));
}

#[test]
fn commands_that_share_a_protocol_answer_in_turn() {
    let (_place, a, b) = pair();
    let serving = ["one", "two"].map(|word| ready(a.ctl(&["serve", "/turn/1", "--share", "echo", word])).0);
    let alone = a.run(&["serve", "/turn/1", "echo", "three"]);
    assert_eq!(alone.status.code(), Some(7), "{}", said(&alone));
    let peer = id(&a);
    let mut answers: Vec<String> = (0..4).map(|_| b.good(&["call", &peer, "/turn/1", ""])).collect();
    answers.sort();
    assert_eq!(answers, ["one\n", "one\n", "two\n", "two\n"]);
    for mut child in serving {
        interrupt(&child);
        child.wait().unwrap();
    }
}

#[test]
fn a_leased_protocol_queues_streams_until_its_program_returns() {
    let (_place, a, b) = pair();
    let target = shouting();
    let lease = ["--lease", "shout", "--lease-for", "1m"];
    let expose = || ready(a.ctl(&[&["expose", "/shout/1", &target, "--allow", "any"], &lease[..]].concat())).0;
    let mut first = expose();
    first.kill().unwrap();
    first.wait().unwrap();
    let (forwarding, line) = ready(b.ctl(&["forward", "127.0.0.1:0", &id(&a), "/shout/1"]));
    let mut stream = TcpStream::connect(line.split(' ').next().unwrap()).unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    stream.write_all(b"anybody there?").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let protocols = || a.good(&["-o", "json", "peers", "show", &id(&b)]);
    until("a stream that waits", || protocols().contains("/shout/1").then_some(()));
    let again = expose();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ANYBODY THERE?");
    for mut child in [again, forwarding] {
        interrupt(&child);
        child.wait().unwrap();
    }
}

#[test]
fn what_is_exposed_comes_back_with_the_daemon() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let start = |bootstrap: &[&str]| {
        Daemon::start(place.path(), "a", &[&["--data", data.to_str().unwrap()], bootstrap].concat())
    };
    let mut a = start(&[]);
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &a.address]);
    let (exposing, _) = ready(a.ctl(&["expose", "/shout/1", &shouting(), "--allow", "any"]));
    let (forwarding, line) = ready(b.ctl(&["forward", "127.0.0.1:0", &id(&a), "/shout/1"]));
    let port = line.split(' ').next().unwrap().to_owned();
    let ask = || {
        let mut stream = TcpStream::connect(&port).ok()?;
        stream.set_read_timeout(PATIENCE).ok()?;
        stream.write_all(b"quiet words").ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        (answer == b"QUIET WORDS").then_some(())
    };
    until("the answer", ask);
    a.kill_9();
    let mut a = start(&["--bootstrap", &b.address]);
    until("the answer again", ask);
    // A daemon that stops in good order tells its calls, which is no reason to end either.
    terminate(&a.child);
    a.child.wait().unwrap();
    let _a = start(&["--bootstrap", &b.address]);
    until("the answer after the second time", ask);
    for mut child in [exposing, forwarding] {
        interrupt(&child);
        child.wait().unwrap();
    }
}

#[test]
fn a_port_leads_to_a_port_of_an_allowed_peer_only() {
    let (place, a, b) = pair();
    let target = shouting();
    let (exposing, _) = ready(a.ctl(&["expose", "/shout/1", &target, "--allow", &id(&b)]));
    let (forwarding, line) = ready(b.ctl(&["forward", "127.0.0.1:0", &id(&a), "/shout/1"]));
    let port = line.split(' ').next().unwrap().to_owned();
    let ask = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&port).unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
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
    // Over TCP, nobody takes what leads nowhere for a whole answer. (A reset of the peer's may look like an end.)
    let (cut, line) = ready(c.ctl(&["forward", "127.0.0.1:0", &id(&a), "/nobody/1"]));
    let mut stream = TcpStream::connect(line.split(' ').next().unwrap()).unwrap();
    let broken = stream.write_all(b"let me in").and_then(|()| stream.read(&mut [0])).unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::ConnectionReset);
    let (refused, _) = ready(c.ctl(&["forward", &listen, &id(&a), "/shout/1"]));
    nothing_comes(UnixStream::connect(&path).unwrap());
    for mut child in [exposing, forwarding, refused, cut] {
        interrupt(&child);
        child.wait().unwrap();
    }
}

#[test]
fn a_tunnel_that_cannot_stand_is_told_of() {
    let place = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = place.path().join("a.toml");
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let forward = format!("{{ listen = '{listen}', peer = '{peer}', protocol = '/y/1' }}");
    fs::write(&config, format!("[tunnels]\nforward = [{forward}]\n")).unwrap();
    let a = Daemon::start(place.path(), "a", &["--config", config.to_str().unwrap()]);
    let words = format!("the tunnel of {listen} does not stand: ");
    until("what is wrong", || a.good(&["status"]).contains(&words).then_some(()));
    drop(taken);
    until("the tunnel", || (!a.good(&["status"]).contains(&words)).then_some(()));
}

/// A service on a port of loopback that gives back what it gets.
fn echo() -> String {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = service.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in service.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    place
}

/// Where a forward listens, by its first line.
fn listens(line: &str) -> String {
    line.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_forward_without_descriptors_left_goes_on_when_there_are_some() {
    let (place, a, b) = pair();
    let (mut exposed, _) = ready(a.ctl(&["expose", "/echo/1", &echo(), "--allow", "any"]));
    let log = place.path().join("forward.log");
    let mut forward = Command::new("sh");
    forward.args(["-c", "ulimit -n 24; exec \"$@\" 2>\"$LOG\"", "sh", support::P2PCTL, "-s"]).arg(&b.socket);
    forward.args(["forward", "127.0.0.1:0", &id(&a), "/echo/1"]).env("LOG", &log);
    let mut forward = forward.spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let address = until("a forward", || said().contains('\n').then(|| listens(&said())));
    let held: Vec<_> = (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
    until("words of what is short", || said().contains("cannot accept a connection").then_some(()));
    drop(held);
    until("an answer", || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        stream.write_all(b"x").ok()?;
        stream.read_exact(&mut [0]).ok()
    });
    for child in [&mut forward, &mut exposed] {
        interrupt(child);
        child.wait().unwrap();
    }
}

#[test]
fn a_forward_carries_60_connections_and_then_one_after_the_other() {
    let (_place, a, b) = pair();
    let (mut exposed, _) = ready(a.ctl(&["expose", "/echo/1", &echo(), "--allow", "any"]));
    let (mut forward, line) = ready(b.ctl(&["forward", "127.0.0.1:0", &id(&a), "/echo/1"]));
    let connect = || {
        let mut stream = TcpStream::connect(listens(&line)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.write_all(b"x").unwrap();
        stream
    };
    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..60 {
        held.push(connect());
        held[n].read_exact(&mut [0]).unwrap_or_else(|error| panic!("connection {n}: {error}"));
    }
    let mut next = connect();
    next.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    assert!(next.read_exact(&mut [0]).is_err(), "it waits");
    held.pop();
    next.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    next.read_exact(&mut [0]).unwrap();
    for child in [&mut forward, &mut exposed] {
        interrupt(child);
        child.wait().unwrap();
    }
}
