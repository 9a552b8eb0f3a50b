//! What dies, and what goes on all the same.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Daemon, Start, id, in_peace, interrupt, p2pd, pair, said, signal, terminate, until};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};

#[test]
fn a_publisher_killed_and_started_again_is_heard_by_the_same_listener() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let hub = Daemon::start(place.path(), "hub", &[]);
    let publisher =
        || Daemon::start(place.path(), "a", &["--data", data.to_str().unwrap(), "--bootstrap", &hub.address]);
    let mut a = publisher();
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &hub.address]);
    let mut first = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "tone", "--stats"]).stdout(Stdio::null()).start();
    listener.says("groups 1");
    a.kill_9();
    first.wait().unwrap();
    let a = publisher();
    let mut second = a.ctl(&["publish-stream", "tone", "--tone", "660"]).start();
    let back = Instant::now();
    listener.says("the publisher has begun anew");
    println!("heard again {:?} after its start", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    interrupt(&second);
    second.wait().unwrap();
    listener.says("the publisher has ended the stream");
    assert!(listener.wait().unwrap().success());
}

#[test]
fn a_listener_that_stays_hears_the_next_show_in_the_same_file() {
    let (place, a, b) = pair();
    let file = place.path().join("both.opus");
    let mut listener = b.ctl(&["-o", file.to_str().unwrap(), "listen", "tone", "--stay", "--wait", "20s"]).start();
    for _ in 0..2 {
        assert!(a.run(&["publish-stream", "tone", "--tone", "440", "--duration", "3s"]).status.success());
        listener.says("waiting for it to come back");
    }
    interrupt(&listener);
    let summary = listener.ends();
    assert!(summary.contains("written to"), "{summary}");
    let seconds: f64 = summary.split("received ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 4.5, "{summary}");
}

#[test]
fn a_publisher_killed_for_good_goes_stale_and_its_listeners_are_told() {
    let (_place, mut a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "tone", "--stats"]).stdout(Stdio::null()).start();
    listener.says("groups 1");
    a.kill_9();
    publisher.wait().unwrap();
    // Two minutes, as the protocol has it.
    let gone = listener.told().until(Duration::from_secs(180), |line| line.contains("the publisher is gone"));
    assert!(gone.is_some());
    assert!(listener.wait().unwrap().success());
    assert!(!b.good(&["streams"]).contains("tone"));
}

#[test]
fn another_listener_that_dies_is_not_heard() {
    let _peace = in_peace();
    let (place, a, mut other) = pair();
    let b = Daemon::start(place.path(), "c", &["--bootstrap", &other.address]);
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    other.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut beside = other.ctl(&["listen", "tone"]).stdout(Stdio::null()).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "tone", "--stats", "--duration", "8s"]).stdout(Stdio::null()).start();
    listener.hears(1.0);
    other.kill_9();
    beside.wait().unwrap();
    let summary = listener.ends();
    assert!(summary.contains(" 0 concealed, 0 late, 0 skipped"), "{summary}");
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn kill_9_ten_times_loses_neither_identity_nor_settings_nor_peers() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let other = Daemon::start(place.path(), "other", &[]);
    let publisher = other.ctl(&["publish-stream", "there", "--tone", "440"]).start();
    let mut ids = Vec::new();
    for round in 0..10 {
        // From the second round on the peer is known from the book alone.
        let known: &[&str] = if round == 0 { &["--bootstrap", &other.address] } else { &[] };
        let began = Instant::now();
        let mut a = Daemon::start(place.path(), "a", &[&["--data", data.to_str().unwrap()], known].concat());
        assert!(began.elapsed() < Duration::from_secs(5), "ready after {:?}", began.elapsed());
        let info: serde_json::Value =
            serde_json::from_str(&a.good(&["-o", "json", "rpc", "p2pd.v1.NodeService/GetInfo"])).unwrap();
        ids.push(info["peer_id"].as_str().unwrap().to_owned());
        if round == 0 {
            a.good(&["peers", "deny", "192.0.2.0/24"]);
        }
        assert!(a.good(&["peers", "rules"]).contains("192.0.2.0/24"), "a setting is kept at once");
        a.good(&["wait", "peers=1", "--timeout", "20s"]);
        // The peer book is written as soon as the peer has told who it is.
        until("the agent", || a.good(&["peers"]).contains("p2pd/").then_some(()));
        until("the stream, heard again", || {
            let list: serde_json::Value = serde_json::from_str(&a.good(&["-o", "json", "streams"])).unwrap();
            (list["streams"][0]["confirmed"] == true).then_some(())
        });
        // A daemon that restarts at once is found only after QUIC's idle timeout, so each life lasts 1.5 s.
        thread::sleep(Duration::from_millis(1_500).saturating_sub(began.elapsed()));
        if round == 9 {
            let publishing = a.ctl(&["publish-stream", "mine", "--tone", "440"]).start();
            a.good(&["wait", "stream=mine", "--timeout", "10s"]);
            a.kill_9();
            let told = publishing.wait_with_output().unwrap();
            assert_eq!(told.status.code(), Some(8), "{}", said(&told));
            assert_eq!(said(&told).trim().lines().count(), 2, "{}", said(&told));
        }
        a.kill_9();
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one identity through all");
    interrupt(&publisher);
    publisher.wait_with_output().unwrap();
}

#[test]
fn a_reader_that_stops_does_not_keep_the_listener_from_ending() {
    let (_place, a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "tone", "--stats"]).start();
    // Its standard output is a pipe that nobody reads: 64 KiB are less than a second.
    listener.says("groups 3");
    interrupt(&listener);
    let ended = until("its end", || listener.try_wait().unwrap());
    assert!(ended.success());
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn a_reader_that_stops_does_not_keep_the_listener_after_the_end_of_the_stream() {
    let (_place, a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "tone", "--stats"]).start();
    listener.says("groups 3");
    terminate(&publisher);
    publisher.wait().unwrap();
    until("the entry's end", || (!b.good(&["streams"]).contains("tone")).then_some(()));
    terminate(&listener);
    let ended = until("its end", || listener.try_wait().unwrap());
    // The signal may still come before the end does.
    assert!([Some(0), Some(130)].contains(&ended.code()), "{ended}");
}

#[test]
fn a_late_joiner_hears_at_once() {
    let _peace = in_peace();
    let (_place, a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let heard = b.run(&["-o", "json", "listen", "tone", "--duration", "1s"]);
    let text = String::from_utf8_lossy(&heard.stdout).into_owned();
    let summary: serde_json::Value = serde_json::from_str(&text[text.rfind("{\"").unwrap()..]).unwrap();
    println!("first sound after {} ms", summary["first_sound_ms"]);
    assert!(summary["first_sound_ms"].as_u64().unwrap() < 1_500, "{summary}");
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn a_listener_says_that_nothing_comes() {
    let (_place, a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    let listen = ["listen", "tone", "--wait", "20s", "--stats"];
    let mut listener = b.ctl(&listen).stdout(Stdio::null()).start();
    listener.says("groups 1");
    signal(&a.child, "-STOP");
    listener.says("nothing has come for 5 s; still listening");
    signal(&a.child, "-CONT");
    interrupt(&listener);
    listener.wait().unwrap();
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn a_daemon_whose_port_is_taken_says_which_and_ends() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let status = a.good(&["status"]);
    let taken: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix("address      ")).collect();
    assert_eq!(taken.len(), 3, "TCP, QUIC and WebSocket: {status}");
    for address in taken {
        let address = address.split("/p2p/").next().unwrap();
        let second = Command::new("timeout").arg("20").arg(p2pd()).args(["run", "--dev", "--listen", address]).finish();
        assert_eq!(second.status.code(), Some(1), "{address}: {}", said(&second));
        let words = format!("p2pd: cannot listen on {address}: another program has that port");
        assert!(said(&second).contains(&words) && said(&second).contains("`--listen "), "{}", said(&second));
    }
}

#[test]
fn kill_9_costs_a_durable_reader_nothing_that_it_is_not_told_of() {
    const ROUNDS: usize = 3;
    let place = tempfile::tempdir().unwrap();
    let (data, cursor) = (place.path().join("data"), place.path().join("cursor"));
    let other = Daemon::start(place.path(), "other", &[]);
    let start = || Daemon::start(place.path(), "a", &["--data", data.to_str().unwrap(), "--bootstrap", &other.address]);
    // It says of each line what became of it.
    let mut publisher = other.ctl(&["pub", "news"]);
    let publisher = publisher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut publisher = publisher.start();
    let mut lines = publisher.stdin.take().unwrap();
    let going = Arc::new(AtomicBool::new(true));
    let goes_on = going.clone();
    let numbers = thread::spawn(move || {
        for n in 0.. {
            if !goes_on.load(Ordering::SeqCst) || writeln!(lines, "{n}").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    let (mut last, mut told, mut heard) = (None, false, 0);
    for round in 0..ROUNDS {
        let mut a = start();
        let mut reader = a.ctl(&["-o", "jsonl", "sub", "news", "--resume", cursor.to_str().unwrap()]).start();
        let mut here = 0;
        for line in reader.printed() {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            told |= event.get("gap").is_some();
            let Some(data) = event["message"]["data"].as_str() else { continue };
            let number: u64 = String::from_utf8(BASE64.decode(data).unwrap()).unwrap().parse().unwrap();
            let follows = last.is_none_or(|last| number == last + 1);
            assert!(follows || (told && last < Some(number)), "round {round}: {number} after {last:?}, told: {told}");
            (last, told, heard, here) = (Some(number), false, heard + 1, here + 1);
            if here == 300 {
                a.kill_9();
            }
        }
        assert_eq!(reader.wait().unwrap().code(), Some(8));
    }
    assert!(heard >= 300 * ROUNDS);
    going.store(false, Ordering::SeqCst);
    numbers.join().unwrap();
    let _ = publisher.wait();
}

#[test]
fn a_waiting_call_reports_a_dead_daemon() {
    let place = tempfile::tempdir().unwrap();
    let waits: [&[&str]; 2] = [&["pub", "nobody", "hello", "--wait", "30s"], &["listen", "nothing", "--wait", "30s"]];
    for wait in waits {
        let mut a = Daemon::start(place.path(), "a", &[]);
        let waiting = a.ctl(wait).start();
        until("its connection", || (connections(&a) == 1).then_some(()));
        a.kill_9();
        let done = waiting.wait_with_output().unwrap();
        // As the connection was just made, or later.
        let words = match done.status.code() {
            Some(3) => "the daemon has died",
            Some(8) => "the daemon has stopped",
            other => panic!("{wait:?}: {other:?} {}", said(&done)),
        };
        assert!(said(&done).contains(words), "{wait:?}: {}", said(&done));
    }
}

/// Connections to a daemon's socket that stand.
fn connections(daemon: &Daemon) -> usize {
    let all = std::fs::read_to_string("/proc/net/unix").unwrap();
    // Where it was bound, before it took its place.
    let bound = daemon.socket.with_extension("new");
    // Flags 00000000 are of a connection, state 03 of one that stands.
    all.lines().filter(|line| line.contains(bound.to_str().unwrap()) && line.contains(" 00000000 0001 03 ")).count()
}

#[test]
fn no_event_is_numbered_as_one_before_a_crash() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let start = || Daemon::start(place.path(), "a", &["--data", data.to_str().unwrap()]);
    let event = |daemon: &Daemon, from: &[&str]| -> serde_json::Value {
        let mut telling = daemon.ctl(&[&["-o", "jsonl", "events"], from].concat()).start();
        until("the event", || telling.try_wait().unwrap());
        let told = String::from_utf8(telling.wait_with_output().unwrap().stdout).unwrap();
        serde_json::from_str(told.lines().last().unwrap()).unwrap()
    };
    let (mut a, other) = (start(), Daemon::start(place.path(), "other", &[]));
    a.good(&["peers", "connect", &other.address]);
    let before = event(&a, &["--from-oldest", "--count", "2"]);
    // Before that is on disk.
    a.kill_9();
    drop(other);
    let a = start();
    let after = event(&a, &["--count", "1", "--after", &before["cursor"].to_string()]);
    assert_eq!(after["kind"], "started", "{after} after {before}");
}

#[test]
fn a_search_ends_in_the_time_that_was_given() {
    let (_place, a, b) = pair();
    until("somebody to ask", || {
        let closest = b.run(&["dht", "closest", "x"]).stdout;
        String::from_utf8(closest).unwrap().contains(&id(&a)).then_some(())
    });
    signal(&a.child, "-STOP");
    // By itself it would give up on the peer after ten seconds, and end well.
    let searched = b.run(&["--timeout", "1s", "dht", "closest", "x"]);
    signal(&a.child, "-CONT");
    assert_eq!(searched.status.code(), Some(6), "{}", said(&searched));
    assert!(said(&searched).contains("longer --timeout"), "{}", said(&searched));
}
