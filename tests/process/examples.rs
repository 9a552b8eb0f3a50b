//! What `packaging/examples` shows, run as its readers would. Python comes from where `./x test` installs it.

use crate::support::{self, Daemon, P2PCTL, Program, id, pair, part, source, terminate, until};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The examples in Python, with an interpreter that has what they need.
struct Python(PathBuf);

impl Python {
    fn installed() -> Option<Self> {
        part("python").map(|place| Python(place.join("bin/python")))
    }

    fn command(&self, file: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(source("packaging/examples/python").join(file)).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null());
        command
    }

    fn start(&self, daemon: &Daemon, file: &str, args: &[&str]) -> Program {
        let mut command = self.command(file);
        command.arg("--socket").arg(&daemon.socket).args(args);
        Program::speaking(command)
    }

    /// Runs one that ends by itself; what it says.
    fn run(&self, daemon: &Daemon, file: &str, args: &[&str]) -> String {
        self.start(daemon, file, args).ends()
    }
}

/// A script, with the p2pctl of this build in its PATH; `None` where jq is missing.
fn script(file: &str) -> Option<Command> {
    if Command::new("jq").arg("--version").output().is_err() {
        support::skip(format_args!("{file}: jq is not installed"));
        return None;
    }
    let tools = Path::new(P2PCTL).parent().unwrap().display().to_string();
    let mut command = Command::new(source("packaging/examples/shell").join(file));
    command.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap_or_default()));
    Some(command)
}

/// Two connected daemons that both answer in the DHT and have seen that of each other.
pub fn pair_with_dht() -> (tempfile::TempDir, Daemon, Daemon) {
    let place = tempfile::tempdir().unwrap();
    let server = [("P2PD_NETWORK_DHT", "server")];
    let a = Daemon::start_with(place.path(), "a", &[], &server);
    let b = Daemon::start_with(place.path(), "b", &["--bootstrap", &a.address], &server);
    for daemon in [&a, &b] {
        until("a routing table", || (!daemon.run(&["dht", "closest", "x"]).stdout.is_empty()).then_some(()));
    }
    (place, a, b)
}

/// The daemon's own first ping has come back. A peer answers one stream of pings only, and until then that one is about
/// to be opened in place of ours.
fn measured(daemon: &Daemon) {
    until("a round trip", || {
        let peer: serde_json::Value = serde_json::from_str(&daemon.good(&["-o", "jsonl", "peers"])).ok()?;
        (peer["rtt_us"].as_u64()? > 0).then_some(())
    });
}

#[test]
fn every_contract_and_example_is_in_the_table() {
    let table = fs::read_to_string(source("docs/services.md")).unwrap();
    for place in ["proto/p2pd/v1", "packaging/examples/python", "packaging/examples/shell"] {
        for entry in fs::read_dir(source(place)).unwrap() {
            let name = format!("{place}/{}", entry.unwrap().file_name().display());
            let is_meant = [".proto", ".py", ".sh"].iter().any(|ending| name.ends_with(ending));
            assert!(!is_meant || table.contains(&name), "{name} is not in docs/services.md");
        }
    }
}

#[test]
fn the_example_in_python_hears_and_is_heard() {
    let Some(python) = Python::installed() else { return };
    let (_place, a, b) = pair();
    let program = |daemon: &Daemon, args: &[&str]| {
        let mut command = python.command("p2pd_example.py");
        command.arg(&daemon.socket).args(args);
        Program::speaking(command)
    };
    let hears = program(&b, &["--topic", "chat", "--hear", "1"]);
    let said = program(&a, &["--topic", "chat", "--say", "good day"]).ends();
    assert!(said.contains("sent; connected peers that follow: 1"), "{said}");
    let heard = hears.ends();
    assert!(heard.contains(&format!("{}: good day", id(&a))), "{heard}");
}

#[test]
fn python_tells_of_the_node_and_its_peers() {
    let Some(python) = Python::installed() else { return };
    let (place, a, b) = pair();
    let there = id(&a);
    let status = python.run(&b, "node.py", &["status"]);
    assert!(status.contains(&id(&b)) && status.contains("connected"), "{status}");
    let events = python.run(&b, "node.py", &["events", "--count", "2"]);
    assert!(events.contains("started") && events.contains(&format!("peer-connected {there}")), "{events}");

    measured(&b);
    assert_eq!(python.run(&b, "peers.py", &["ping", &there]).matches(" ms").count(), 3);
    let now = python.run(&b, "peers.py", &["watch", "--changes", "0"]);
    assert!(now.contains(&format!("present {there}")), "{now}");
    let mut watch = python.start(&b, "peers.py", &["watch"]);
    watch.says("these are all");
    let c = Daemon::start(place.path(), "c", &[]);
    let connected = python.run(&c, "peers.py", &["connect", &b.address]);
    assert_eq!(connected, format!("connected to {}", id(&b)));
    watch.says(&format!("present {}", id(&c)));

    let pinned = python.run(&c, "peers.py", &["pin", &b.address, "--tag", "relay"]);
    assert_eq!(pinned, format!("pinned {} [relay] connected", id(&b)));
    python.run(&c, "peers.py", &["unpin", &id(&b)]);
    assert!(!c.good(&["-o", "jsonl", "peers", "pins"]).contains(&id(&b)));
}

#[test]
fn python_misses_no_message_while_it_or_the_daemon_is_away() {
    let Some(python) = Python::installed() else { return };
    let place = tempfile::tempdir().unwrap();
    let (data, cursor) = (place.path().join("data"), place.path().join("cursor"));
    let a = Daemon::start(place.path(), "a", &[]);
    let keeping = || Daemon::start(place.path(), "b", &["--data", data.to_str().unwrap(), "--bootstrap", &a.address]);
    let mut b = keeping();
    let publish = |text: &str| {
        let sent = python.run(&a, "pubsub.py", &["publish", "log", text, "--wait", "30"]);
        assert_eq!(sent, "sent; connected peers that follow: 1");
    };
    let follow = |daemon: &Daemon, count: &str| {
        let cursor = cursor.to_str().unwrap();
        python.start(daemon, "pubsub.py", &["follow", "log", "--cursor", cursor, "--count", count])
    };
    let mut first = follow(&b, "1");
    first.says("following log");
    publish("one");
    let heard = first.ends();
    assert!(heard.contains(&format!("{}: one", id(&a))), "{heard}");

    publish("two");
    let mut second = follow(&b, "2");
    second.says(": two");
    terminate(&b.child);
    b.child.wait().unwrap();
    until("its leave", || (!a.good(&["topics", "peers", "log"]).contains("12D3")).then_some(()));
    b = keeping();
    publish("three");
    let heard = second.ends();
    assert!(heard.contains(": three") && heard.matches(": two").count() == 1, "{heard}");
    drop(b);
}

#[test]
fn python_judges_messages() {
    let Some(python) = Python::installed() else { return };
    let (place, a, b) = pair();
    let cursor = place.path().join("cursor");
    let mut follows =
        python.start(&b, "pubsub.py", &["follow", "judged", "--cursor", cursor.to_str().unwrap(), "--count", "1"]);
    follows.says("following judged");
    let mut judges = python.start(&b, "pubsub.py", &["validate", "judged", "--count", "2"]);
    judges.says("judging judged");
    for text in ["words", r#"{"text": "words"}"#] {
        python.run(&a, "pubsub.py", &["publish", "judged", text, "--wait", "30"]);
    }
    let verdicts = judges.ends();
    assert!(verdicts.contains("JUDGEMENT_IGNORE") && verdicts.contains("JUDGEMENT_ACCEPT"), "{verdicts}");
    let heard = follows.ends();
    assert!(heard.contains(r#": {"text": "words"}"#) && !heard.contains(": words"), "{heard}");
}

#[test]
fn python_calls_serves_and_streams() {
    let Some(python) = Python::installed() else { return };
    let (place, a, b) = pair();
    let there = id(&a);
    let mut serves = python.start(&a, "protocol.py", &["serve", "/shout/1"]);
    serves.says("serving /shout/1");
    assert_eq!(python.run(&b, "protocol.py", &["call", &there, "/shout/1", "quiet words"]), "QUIET WORDS");
    serves.says(&format!("answered {}", id(&b)));

    let mut accepts = python.start(&a, "protocol.py", &["accept", "/count/1"]);
    accepts.says("accepting /count/1");
    let file = place.path().join("file");
    fs::write(&file, vec![7; 3_000_000]).unwrap();
    for _ in 0..2 {
        let mut command = python.command("protocol.py");
        command.arg("--socket").arg(&b.socket).args(["send", &there, "/count/1"]);
        command.stdin(fs::File::open(&file).unwrap());
        assert_eq!(Program::speaking(command).ends(), "3000000 bytes");
        accepts.says(&format!("3000000 bytes from {}", id(&b)));
    }
}

#[test]
fn python_finds_who_provides() {
    let Some(python) = Python::installed() else { return };
    let (_place, a, b) = pair_with_dht();
    python.run(&b, "dht.py", &["provide", "town-archive"]);
    assert!(python.run(&a, "dht.py", &["providers", "town-archive"]).starts_with(&id(&b)));
    assert!(python.run(&a, "dht.py", &["find-peer", &id(&b)]).contains("/ip4/127.0.0.1/"));
    python.run(&b, "dht.py", &["stop", "town-archive"]);
}

#[test]
fn python_publishes_and_listens() {
    let Some(python) = Python::installed() else { return };
    let (_place, a, b) = pair();
    let mut publishes = python.start(&a, "streams.py", &["publish", "silence", "--seconds", "300"]);
    publishes.says(&format!("publishing silence@{}", id(&a)));
    let heard = python.run(&b, "streams.py", &["listen", "silence", "--groups", "5"]);
    assert!(heard.starts_with(&format!("listening to silence@{}", id(&a))), "{heard}");
    assert!(heard.contains(": 5 frames"), "{heard}");
    let name = format!("silence@{}", id(&a));
    assert!(python.run(&b, "streams.py", &["list"]).contains(&name));
    assert!(python.run(&b, "streams.py", &["watch", "--changes", "0"]).contains(&format!("present {name}")));
    let whole = python.run(&a, "streams.py", &["publish", "short", "--seconds", "1"]);
    assert!(whole.contains("publishing short@"), "{whole}");
}

#[test]
fn the_example_in_shell_chats() {
    if script("chat.sh").is_none() {
        return;
    }
    let (_place, a, b) = pair();
    let chat = |daemon: &Daemon| {
        let mut command = script("chat.sh").unwrap();
        command.arg("tea").env("P2PD_SOCKET", &daemon.socket).stdin(Stdio::piped());
        let mut chat = Program::speaking(command);
        chat.says("on tea");
        chat
    };
    let (mut one, mut two) = (chat(&a), chat(&b));
    until("the other", || a.good(&["topics", "peers", "tea"]).contains("12D3").then_some(()));
    writeln!(one.stdin.take().unwrap(), "good day").unwrap();
    two.says(&format!("{}: good day", &id(&a)[44..]));
    drop(two.stdin.take());
    one.ends();
    two.ends();
}

#[test]
fn the_tours_in_shell_see_each_service() {
    let (_place, a, b) = pair_with_dht();
    measured(&b);
    let (here, there, peer) = (a.socket.to_str().unwrap(), b.socket.to_str().unwrap(), id(&b));
    let tours = [
        ("node.sh", [here, ""], "state: NODE_STATE_CONNECTED"),
        ("peers.sh", [there, a.address.as_str()], "deny  198.51.100.0/24"),
        ("pubsub.sh", [here, there], "third"),
        ("protocol.sh", [here, there], "QUIET WORDS"),
        ("bandwidth.sh", [here, ""], "bulk: 125000 bytes a second"),
        ("dht.sh", [here, there], peer.as_str()),
        ("streams.sh", [here, there], "received 1.0 s"),
    ];
    for (file, args, words) in tours {
        let Some(mut tour) = script(file) else { return };
        tour.args(args.iter().filter(|arg| !arg.is_empty())).stdin(Stdio::null());
        let said = Program::speaking(tour).ends();
        assert!(said.contains(words), "{file}: {said}");
    }
}
