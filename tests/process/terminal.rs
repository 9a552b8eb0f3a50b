//! What a person at a terminal gets: short ids that are taken again, tables that fit, words for what is empty.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use crate::examples::pair_with_dht;
use crate::support::{self, Daemon, P2PCTL, Start, id, interrupt, pair, ready, said, until};

fn short(id: &str) -> String {
    format!("..{}", &id[id.len() - 8..])
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a shell command prints on a terminal; p2pctl is `$CTL`, with the daemon's socket.
fn on_a_terminal(daemon: &Daemon, command: &str, variables: &[(&str, &str)]) -> Option<String> {
    let own = [("TZ", "UTC"), ("CTL", P2PCTL), ("P2PD_SOCKET", daemon.socket.to_str().unwrap())];
    support::on_a_terminal(command, &[&own, variables].concat())
}

#[test]
fn ids_of_tables_are_taken_wherever_an_id_is() {
    let (_place, a, b) = pair();
    let (whole, own) = (id(&a), id(&b));
    let (end, own_end) = (short(&whole), short(&own));
    assert!(b.good(&["peers"]).contains(&end) && !b.good(&["peers"]).contains(&whole));
    let (mut publisher, _) = ready(a.ctl(&["publish-stream", "town", "--tone", "440"]));
    let (mut server, _) = ready(a.ctl(&["serve", "/upper/1", "tr", "a-z", "A-Z"]));
    let named = format!("town@{end}");
    b.good(&["wait", &format!("stream={named}"), "--timeout", "20s"]);
    assert!(said(&b.run(&["listen", &named, "--duration", "100ms"])).contains(&whole));
    for takes in [
        &["peers", "show", &end][..],
        &["peers", "ping", &end, "-n", "1"],
        &["peers", "pin", &end],
        &["peers", "unpin", &end],
        &["peers", "allow", &end],
        &["peers", "unrule", &end],
        &["dht", "find-peer", &end],
        &["dht", "find-peer", &own_end],
        &["peers", "connect", &a.address.replace(&whole, &end)],
    ] {
        b.good(takes);
    }
    assert_eq!(b.good(&["call", &end, "/upper/1", "-quiet"]), "-QUIET");
    let (mut exposed, words) = ready(b.ctl(&["expose", "/x/1", "127.0.0.1:1", "--allow", &end]));
    assert!(words.contains(&whole), "{words}");
    let (mut forwarded, words) = ready(b.ctl(&["forward", "127.0.0.1:0", &end, "/x/1"]));
    assert!(words.contains(&whole), "{words}");
    for child in [&mut publisher, &mut server, &mut exposed, &mut forwarded] {
        interrupt(child);
        child.wait().unwrap();
    }
    // One that has gone is still in the table of closed connections.
    b.good(&["peers", "disconnect", &end]);
    assert!(b.good(&["peers", "deny", &end]).contains(&format!("deny {whole}")), "the answer names the whole id");
}

#[test]
fn ids_that_name_nobody_are_told_what_is_wrong() {
    let (_place, _a, b) = pair();
    let cut = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXT";
    let cases: [(&[&str], i32, &str); 9] = [
        (&["peers", "show", "..zzzzzzzz"], 5, "no known peer has this end"),
        (&["peers", "show", ".."], 5, "no known peer has this end"),
        (&["peers", "pin", cut], 2, "has 52 characters, this one 51"),
        (&["peers", "deny", cut], 2, "cut off"),
        (&["expose", "/x/1", "127.0.0.1:1", "--allow", cut], 2, "--allow"),
        (&["dht", "get", "home", "12D3KooWAqyv..."], 2, "cut off"),
        (&["open", "foo", "/x/1"], 2, "PEER `foo`"),
        (&["listen", "town@foo"], 2, "PUBLISHER `foo`"),
        (&["wait", "stream=town@foo"], 2, "PUBLISHER `foo`"),
    ];
    for (args, code, words) in cases {
        let output = b.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words) && said(&output).lines().count() == 1, "{args:?}: {}", said(&output));
    }
}

#[test]
fn tables_fit_eighty_columns() {
    let (_place, a, b) = pair();
    let name = "A radio whose name is far longer than any column, 日本語 as well";
    let publish = ["publish-stream", "town-radio", "--tone", "440", "--name", name, "--category", "news and weather"];
    let (mut publisher, _) = ready(a.ctl(&publish));
    b.good(&["wait", "stream=town-radio", "--timeout", "20s"]);
    b.good(&["peers", "pin", &id(&a), "--tag", "a-tag", "--tag", "another-tag", "--tag", "one-more-tag"]);
    b.good(&["topics", "set", "chat", "--closed"]);
    a.good(&["peers", "disconnect", &id(&b)]);
    b.good(&["wait", "peers=1", "--timeout", "20s"]);
    for table in [&["streams"][..], &["peers"], &["peers", "pins"], &["peers", "closed"], &["topics"]] {
        let shown = b.ctl(table).env("COLUMNS", "80").output().unwrap();
        let shown = printed(&shown);
        assert!(shown.lines().count() > 1, "{table:?}: {shown}");
        // Of the names above only those in Japanese have characters of two columns.
        let columns = |line: &str| line.chars().map(|c| if c > '\u{3000}' { 2 } else { 1 }).sum::<usize>();
        assert!(shown.lines().all(|line| columns(line) <= 80), "{table:?}:\n{shown}");
    }
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn an_empty_table_says_what_would_fill_it() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    for (table, words) in [
        (&["peers"][..], "p2pctl peers connect ADDRESS"),
        (&["streams"], "p2pctl publish-stream ID FILE"),
        (&["streams", "--category", "news"], "the category `news`"),
        (&["topics"], "p2pctl sub TOPIC"),
        (&["topics", "peers", "chat"], "p2pctl sub chat"),
        (&["peers", "pins"], "p2pctl peers pin ADDRESS"),
        (&["peers", "closed"], "no connection has closed"),
        (&["peers", "rules"], "p2pctl peers deny"),
    ] {
        let output = a.run(table);
        assert!(output.status.success() && output.stdout.is_empty(), "{table:?}: {}", printed(&output));
        assert!(said(&output).contains(words) && said(&output).lines().count() == 1, "{table:?}: {}", said(&output));
        assert_eq!(said(&a.run(&[&["-o", "jsonl"], table].concat())), "", "{table:?}: programs read no words");
    }
}

#[test]
fn a_cid_is_its_multihash_and_what_is_not_found_fails() {
    const V0: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";
    const V1: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
    const HEX: &str = "hex:1220c3c4733ec8affd06cf9e9ff50ffc6bcd2ec85a6170004bb709669c31de94391a";
    let (_place, a, b) = pair_with_dht();
    a.good(&["dht", "provide", V1]);
    for key in [V0, V1, HEX, &format!("/ipfs/{V1}"), &format!("ipfs://{V0}")] {
        until(key, || printed(&b.run(&["dht", "providers", key])).contains(&id(&a)).then_some(()));
    }
    for (nothing, words) in [
        (&["dht", "providers", "town-archive"][..], "nobody is known to have `town-archive`"),
        (&["dht", "get", "home"], "VALUE_NOT_FOUND"),
        (&["dht", "find-peer", "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"], "PEER_NOT_FOUND"),
    ] {
        let output = b.run(nothing);
        assert_eq!(output.status.code(), Some(5), "{nothing:?}: {}", said(&output));
        assert!(said(&output).contains(words) && output.stdout.is_empty(), "{nothing:?}: {}", said(&output));
    }
    for (command, key) in
        [("providers", &V1[..50]), ("provide", &V0[..45]), ("closest", &V0[..20]), ("stop", &V0[..45])]
    {
        let cut = b.run(&["dht", command, key]);
        assert_eq!(cut.status.code(), Some(2), "{command} {key}: {}", said(&cut));
        assert!(said(&cut).contains("begins like a CID and is none"), "{}", said(&cut));
    }
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    let (_place, a, b) = pair_with_dht();
    let subscriber = b.ctl(&["sub", "temp", "-n", "2"]).start();
    until("a subscriber", || a.run(&["pub", "temp", "-5"]).status.success().then_some(()));
    a.good(&["pub", "temp", "--wait", "1s", "-6.5 degrees"]);
    assert_eq!(printed(&subscriber.wait_with_output().unwrap()), "-5\n-6.5 degrees\n");
    let titled =
        ["publish-stream", "show", "--tone", "440", "--duration", "100ms", "--title", "-5 degrees", "--name", "-5"];
    a.good(&titled);
    a.good(&["dht", "put", "temp", "-7", "--ttl", "1h"]);
    assert_eq!(a.good(&["dht", "get", "temp"]), "-7\n");
}

#[test]
fn json_is_the_object_itself() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let json = |args: &[&str]| serde_json::from_str::<Value>(&a.good(&[&["-o", "json"], args].concat())).unwrap();
    let status = json(&["status"]);
    assert_eq!(status["peer_id"], id(&a).as_str());
    assert_eq!((&status["state"], &status["peers"]), (&"NODE_STATE_ALONE".into(), &0.into()), "{status}");
    assert_eq!(json(&["topics", "set", "chat", "--max-message", "100"])["max_message_bytes"], 100);
    assert_eq!(json(&["topics", "show", "chat"])["name"], "chat");
    assert_eq!(a.good(&["-o", "jsonl", "status"]).lines().count(), 1);
}

#[test]
fn an_interrupted_publisher_says_how_it_went() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let publisher = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    a.good(&["wait", "stream=town", "--timeout", "20s"]);
    assert!(a.good(&["streams"]).trim_end().ends_with("here"), "nobody hears of one's own stream");
    assert!(said(&a.run(&["listen", "town", "--duration", "1s"])).contains("the asked time is over"));
    interrupt(&publisher);
    let ended = publisher.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(printed(&ended).starts_with("sent ") && printed(&ended).contains("at the end"), "{}", printed(&ended));
    assert_eq!(said(&ended).lines().last(), Some("stopped"));
}

#[test]
fn a_terminal_shows_who_and_when_and_how_loud() {
    let (place, a, b) = pair();
    let (mut publisher, _) = ready(a.ctl(&["publish-stream", "town", "--tone", "440"]));
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let file = place.path().join("town.wav");
    let listen = format!("$CTL listen town -o {} --duration 1s", file.display());
    let Some(plain) = on_a_terminal(&b, &listen, &[("NO_COLOR", "1")]) else { return };
    assert!(plain.contains(" dB  0:00, latency ") && plain.contains("\u{1b}[K"), "{plain:?}");
    let wide = plain.split(['\r', '\n']).find(|line| line.contains("latency ") && line.chars().count() > 83);
    assert_eq!(wide, None);
    assert!(!plain.contains("\u{1b}[3"), "NO_COLOR: {plain:?}");
    let dumb = on_a_terminal(&b, &listen, &[("TERM", "dumb")]).unwrap();
    assert!(!dumb.contains('\u{1b}'), "{dumb:?}");
    let narrow = on_a_terminal(&b, &format!("stty cols 20; {listen}"), &[]).unwrap();
    assert!(!narrow.contains("latency") && narrow.contains("\u{1b}[32m"), "{narrow:?}");
    let coloured = on_a_terminal(&b, "$CTL status", &[("NO_COLOR", "")]).unwrap();
    assert!(coloured.contains("\u{1b}[32mconnected"), "an empty NO_COLOR is none: {coloured:?}");

    let (mut old, _) = ready(a.ctl(&["publish-stream", "old", "--tone", "440", "--wire", "json"]));
    b.good(&["wait", "stream=old", "--timeout", "20s"]);
    let heard = on_a_terminal(&b, &listen.replace("listen town", "listen old"), &[("NO_COLOR", "1")]).unwrap();
    assert!(heard.contains(" dB  0:00\u{1b}[K"), "{heard:?}");
    interrupt(&old);
    old.wait().unwrap();

    let telling = std::thread::scope(|scope| {
        let hears = scope.spawn(|| on_a_terminal(&b, "$CTL sub chat -n 1", &[("NO_COLOR", "1")]).unwrap());
        until("a subscriber", || a.run(&["pub", "chat", "good \u{7}day"]).status.success().then_some(()));
        hears.join().unwrap()
    });
    let (when, rest) = telling.trim_end().split_at(8);
    assert!(when.chars().all(|c| c.is_ascii_digit() || c == ':'), "{telling:?}");
    assert_eq!(rest, format!("  {}  good \u{fffd}day", short(&id(&a))));

    let telling = std::thread::scope(|scope| {
        let hears = scope.spawn(|| on_a_terminal(&b, "$CTL sub chat -n 1", &[("NO_COLOR", "1")]).unwrap());
        let two = "one\n12:00:00  ..mv1eVMvL  as if of another";
        until("it has heard", || {
            a.run(&["pub", "chat", two]);
            hears.is_finished().then_some(())
        });
        hears.join().unwrap()
    });
    let second = telling.lines().nth(1).unwrap();
    assert_eq!(second, format!("{}12:00:00  ..mv1eVMvL  as if of another", " ".repeat(22)), "{telling:?}");
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn without_a_socket_daemons_of_dev_are_named() {
    let place = tempfile::tempdir().unwrap();
    let temporary = [("TMPDIR", place.path().to_str().unwrap())];
    let a = Daemon::start_with(place.path(), "a", &[], &temporary);
    let lost = || {
        let mut command = Command::new(P2PCTL);
        command.arg("status").env("HOME", place.path()).envs(temporary);
        // Set to nothing is not set: neither a socket of that name nor one in the current directory.
        command.env("P2PD_SOCKET", "").env("XDG_RUNTIME_DIR", "").env("XDG_STATE_HOME", "");
        command.output().unwrap()
    };
    let told = lost();
    assert_eq!(told.status.code(), Some(3), "no system's daemon runs on this machine: {}", said(&told));
    let socket = fs::canonicalize(&a.socket).unwrap();
    let words = format!("a daemon of --dev answers at {0}: export P2PD_SOCKET={0}", socket.display());
    assert!(said(&told).contains("no /run/p2pd/api.sock") && said(&told).contains(&words), "{}", said(&told));
    assert!(!said(&told).contains("journalctl"));
    drop(a);
    assert!(!said(&lost()).contains("--dev answers"), "{}", said(&lost()));
}
