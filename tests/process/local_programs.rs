//! Programs of this machine that ask for more than there is: they are told, and nobody else pays for it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use p2pd_api::{
    Reason, reason_of,
    v1::{PublishRequest, pub_sub_service_client::PubSubServiceClient},
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::support::{Daemon, Start, json, p2pd, said, until, within};

fn peers(daemon: &Daemon) -> usize {
    json(&daemon.good(&["-o", "json", "peers"]))["peers"].as_array().map_or(0, Vec::len)
}

fn resident_mib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn messages_that_wait_have_a_bound_and_cost_no_peer() {
    let place = tempfile::tempdir().unwrap();
    let hub = Daemon::start(place.path(), "hub", &[]);
    // Less than all the messages would take.
    let variables = [("P2PD_NETWORK_MEMORY", "160MiB")];
    let daemon = Daemon::start_with(place.path(), "a", &["--bootstrap", &hub.address], &variables);
    daemon.good(&["wait", "peers=1", "--timeout", "20s"]);
    daemon.good(&["topics", "set", "nobody", "--max-message", "1048576"]);
    Runtime::new().unwrap().block_on(async {
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let channel = p2pd_api::connect(&daemon.socket).await.unwrap();
            for _ in 0..50 {
                let mut client = PubSubServiceClient::new(channel.clone());
                let request =
                    PublishRequest { topic: "nobody".into(), data: vec![7; 1_000_000].into(), wait_ms: 600_000 };
                calls.spawn(async move { client.publish(request).await });
            }
        }
        for refused in 1..=400 - 33 {
            let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
            assert_eq!(reason_of(&error), Some(Reason::LimitReached), "{refused}: {error}");
            assert!(error.message().contains("32 MiB of this user's messages wait"), "{error}");
        }
        // Longer than the daemon takes to look at its memory twice.
        let began = Instant::now();
        within(Duration::from_secs(20), "its peer all the while", || {
            assert_eq!((peers(&daemon), calls.try_join_next().is_none()), (1, true));
            (began.elapsed() > Duration::from_secs(12)).then_some(())
        });
        let resident = resident_mib(&daemon);
        println!("{resident} MiB");
        assert!(resident < 300, "{resident} MiB");
        drop(calls);
    });
    within(Duration::from_secs(20), "room again", || {
        let published = daemon.run(&["pub", "nobody", &"x".repeat(100_000)]);
        (published.status.code() == Some(7)).then_some(())
    });
}

/// Connections that have begun to speak, and say no more.
fn hold(daemon: &Daemon, count: usize) -> Vec<UnixStream> {
    let open = |_| {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        // One that was turned away at once is closed.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        stream
    };
    (0..count).map(open).collect()
}

/// What p2pctl says once it finds no place, with these words.
fn turned_away(daemon: &Daemon, words: &str) -> String {
    until("the full house", || {
        let output = daemon.run(&["--timeout", "5s", "status"]);
        let told = said(&output);
        assert!(!told.contains("does not admit you"), "{told}");
        (output.status.code() == Some(8) && told.contains(words)).then_some(told)
    })
}

#[test]
fn a_full_house_is_told_as_that() {
    let place = tempfile::tempdir().unwrap();
    let variables = [("P2PD_API_MAX_CONNECTIONS_PER_USER", "4")];
    let daemon = Daemon::start_with(place.path(), "a", &[], &variables);
    let held = daemon.hold_places(4);
    let words = turned_away(&daemon, "p2pd has 4 connections of this user already");
    assert!(words.contains("end some of the programs"), "{words}");
    drop(held);
    until("a place", || daemon.run(&["status"]).status.success().then_some(()));
}

#[test]
fn callers_who_are_turned_away_and_do_not_read_keep_nobody_from_being_admitted() {
    let place = tempfile::tempdir().unwrap();
    let variables = [("P2PD_API_MAX_CONNECTIONS_PER_USER", "4")];
    let daemon = Daemon::start_with(place.path(), "a", &[], &variables);
    let _held = daemon.hold_places(4);
    // More than wait to be admitted at once, of whom none is turned away before a second has passed unless there is a bound.
    let crowd: Vec<_> = (0..400).map(|_| UnixStream::connect(&daemon.socket).unwrap()).collect();
    for (number, mut caller) in crowd.into_iter().enumerate() {
        let mut told = Vec::new();
        caller.read_to_end(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("connections of this user already"), "{number}: {told}");
    }
}

/// Time of a processor that it has used, in hundredths of a second.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let (_, numbers) = stat.rsplit_once(") ").unwrap();
    numbers.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn few_descriptors_are_told_and_where_none_is_left_callers_are() {
    const MOST: usize = 160;
    let place = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {MOST} && exec \"$@\""), "sh"]).arg(p2pd());
    let daemon = Daemon::launch(limited, place.path(), "a", &[]);
    let used = || fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count();
    let mut held = Vec::new();
    until("few left", || {
        held.extend(hold(&daemon, 1));
        (used() > MOST * 92 / 100).then_some(())
    });
    let status = until("the word in status", || {
        let status = daemon.good(&["status"]);
        status.contains("end programs that hold").then_some(status)
    });
    assert!(status.contains(&format!("of {MOST}")) && status.contains("LimitNOFILE"), "{status}");
    held.extend(hold(&daemon, MOST));
    turned_away(&daemon, "no file descriptor left");
    let (before, began) = (ticks(&daemon), Instant::now());
    within(Duration::from_secs(10), "a while", || (began.elapsed() > Duration::from_secs(3)).then_some(()));
    let spent = ticks(&daemon) - before;
    assert!(spent < 100, "{spent} ticks in three seconds");
    drop(held);
    until("its end", || {
        let status = daemon.run(&["status"]);
        (status.status.success() && !String::from_utf8_lossy(&status.stdout).contains("end programs")).then_some(())
    });
    let mut events = daemon.ctl(&["events", "--from-oldest"]).start();
    let mut events = events.printed();
    events.with("descriptors-short");
    events.with("descriptors-enough");
}
