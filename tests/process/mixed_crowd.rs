//! A crowd around one publisher, of daemons and of peers that others wrote, which have nobody else to hear it from.

use std::{
    collections::HashSet,
    io::Write,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    interop::Peer,
    support::{Daemon, Program, Start, alone, json, until},
};

const TOPIC: &str = "town";
const DAEMONS: usize = 6;
const GO: usize = 3;
const JS: usize = 6;
const MESSAGES: usize = 800;
/// The Go p2pd has queues of 32 messages before its checks and its programs, and drops in silence what finds them full, as a burst
/// does after the machine stood still.
const OF_GO: usize = MESSAGES * 95 / 100;
/// 200 a second.
const EVERY: Duration = Duration::from_millis(5);

/// A daemon that finds nobody but the publisher, and a program on it that ends after the last message.
fn follower(place: &Path, n: usize, address: &str) -> (Daemon, Program) {
    let variables = [("P2PD_NETWORK_DHT", "client")];
    let daemon = Daemon::start_with(place, &format!("follower{n}"), &["--bootstrap", address], &variables);
    let reader = daemon.ctl(&["-o", "jsonl", "sub", TOPIC, "--count", &MESSAGES.to_string()]).start();
    (daemon, reader)
}

/// One that runs the Go p2pd.
fn go(address: &str) -> Option<Peer> {
    let mut go = Peer::go()?;
    go.tell(&format!("connect {address}"));
    go.event("connected", |_| true);
    go.tell(&format!("sub {TOPIC}"));
    go.event("subscribed", |_| true);
    Some(go)
}

/// Publishes a line each time, and returns how many followers were not waited for, all taken together.
fn publish(daemon: &Daemon) -> u64 {
    let mut program = daemon.ctl(&["-o", "jsonl", "pub", TOPIC]).stdin(Stdio::piped()).start();
    let mut lines = program.stdin.take().unwrap();
    let writing = thread::spawn(move || {
        let began = Instant::now();
        for n in 0..MESSAGES {
            thread::sleep((EVERY * n as u32).saturating_sub(began.elapsed()));
            writeln!(lines, "{n}").unwrap();
        }
    });
    let sent = program.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    let answers: Vec<Value> = String::from_utf8(sent.stdout).unwrap().lines().map(json).collect();
    assert_eq!(answers.len(), MESSAGES);
    answers.iter().map(|answer| answer["behind"].as_u64().unwrap()).sum()
}

#[test]
fn fifteen_of_three_kinds_each_hear_all_that_one_says() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let Some(mut js) = Peer::js_program("crowd.mjs", &[&a.address, TOPIC, &JS.to_string()]) else { return };
    let Some(mut gos) = (0..GO).map(|_| go(&a.address)).collect::<Option<Vec<_>>>() else { return };
    let daemons: Vec<_> = (0..DAEMONS).map(|n| follower(place.path(), n, &a.address)).collect();
    let followers = || a.good(&["topics", "peers", TOPIC]).lines().count();
    until("all of them", || (followers() == DAEMONS + GO + JS).then_some(()));
    assert_eq!(publish(&a), 0);
    let mut heard = [0; JS];
    until("all at each of js", || {
        js.tell("");
        let report = js.event("report", |_| true)["peers"].as_array().unwrap().clone();
        heard.iter_mut().zip(report).for_each(|(sum, peer)| *sum += peer["heard"].as_u64().unwrap() as usize);
        (heard == [MESSAGES; JS]).then_some(())
    });
    for go in &mut gos {
        let mut heard = HashSet::new();
        while heard.len() < OF_GO {
            heard.insert(go.event("message", |_| true)["data"].as_str().unwrap().to_owned());
        }
    }
    for (daemon, reader) in daemons {
        let heard = reader.wait_with_output().unwrap();
        let heard = String::from_utf8(heard.stdout).unwrap();
        assert!(!heard.contains("\"gap\""), "{}: {heard}", daemon.address);
        assert_eq!(heard.lines().filter(|line| line.contains("\"message\"")).count(), MESSAGES);
    }
}
