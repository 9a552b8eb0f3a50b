//! A machine whose clock is wrong, or is set while the daemon runs, and what it and the others say.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::doctor::finds;
use crate::support::{Daemon, Start, id, json, library, skewed_clock, terminate, until};

/// The same with a clock that is set while the daemon runs: the file holds by how many seconds.
const SET: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    char text[32] = "";
    int file = clock == CLOCK_REALTIME ? open(getenv("SET"), O_RDONLY) : -1;
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
        close(file);
    }
    return result;
}
"#;

const HOUR: i64 = 3_600;
const STEPS: [i64; 6] = [HOUR, 24 * HOUR, 365 * 24 * HOUR, -HOUR, -24 * HOUR, -365 * 24 * HOUR];

/// The clock of daemons, which can be set.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(place: &Path) -> Self {
        let clock = Clock { file: place.join("set"), library: library(place, "set", SET) };
        clock.set(0);
        clock
    }

    /// By so many seconds from the right time. In one step, for whoever reads it.
    fn set(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    fn daemon(&self, place: &Path, name: &str, more: &[&str]) -> Daemon {
        let variables = [("LD_PRELOAD", self.library.to_str().unwrap()), ("SET", self.file.to_str().unwrap())];
        Daemon::start_with(place, name, more, &variables)
    }
}

#[test]
fn a_clock_that_is_set_empties_no_log() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(place.path());
    let data = place.path().join("data");
    let start = || clock.daemon(place.path(), "a", &["--data", data.to_str().unwrap()]);
    let mut daemon = start();
    let mut follower = daemon.ctl(&["sub", "news", "--durable"]).start();
    until("the log", || daemon.run(&["pub", "news", "0"]).status.success().then_some(()));
    follower.printed().with("0");
    follower.kill().unwrap();
    let mut said = vec!["0".to_owned()];
    for step in STEPS {
        clock.set(step);
        daemon.good(&["pub", "news", &step.to_string()]);
        said.push(step.to_string());
        let count = said.len().to_string();
        let read = |daemon: &Daemon| daemon.good(&["sub", "news", "--durable", "--from-oldest", "-n", &count]);
        assert_eq!(read(&daemon).lines().collect::<Vec<_>>(), said, "{step}");
        // At a start the logs are looked through for what is old, and for those that nobody reads.
        daemon.kill_9();
        daemon = start();
        assert_eq!(read(&daemon).lines().collect::<Vec<_>>(), said, "{step}, after a start");
    }
}

#[test]
fn after_a_clock_was_set_nothing_of_ours_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clock::new(place.path());
    let sound = place.path().join("sound.wav");
    let right = Daemon::start(place.path(), "right", &[]);
    let data = place.path().join("data");
    let start = || {
        let more = ["--data", data.to_str().unwrap(), "--bootstrap", &right.address];
        let daemon = clock.daemon(place.path(), "set", &more);
        daemon.good(&["wait", "peers=1", "--timeout", "20s"]);
        daemon
    };
    let mut daemon = start();
    for step in STEPS {
        clock.set(step);
        // Here it is heard whatever the clock says, and another time, though it has ended before.
        let publish = |daemon: &Daemon| daemon.ctl(&["publish-stream", "town", "--tone", "440"]).start();
        let heard = |at: &Daemon| {
            at.good(&["listen", "town", "--wait", "25s", "--duration", "300ms", "-o", sound.to_str().unwrap()])
        };
        for _ in 0..2 {
            let mut publishing = publish(&daemon);
            heard(&daemon);
            publishing.kill().unwrap();
            until("its end", || (!daemon.good(&["streams"]).contains("town")).then_some(()));
        }
        // Others may refuse it.
        daemon.run(&["dht", "put", "place", "with a wrong clock"]);
        if step == HOUR {
            terminate(&daemon.child);
            daemon.child.wait().unwrap();
            clock.set(0);
            daemon = start();
        }
        clock.set(0);
        let publishing = publish(&daemon);
        heard(&right);
        daemon.good(&["dht", "put", "place", &step.to_string()]);
        let owner = id(&daemon);
        assert!(right.good(&["dht", "get", "place", &owner]).contains(&step.to_string()), "{step}");
        drop(publishing);
        until("its end there", || (!right.good(&["streams"]).contains("town")).then_some(()));
    }
}

#[test]
fn a_wrong_clock_is_told_on_both_sides_with_the_difference() {
    let place = tempfile::tempdir().unwrap();
    let library = skewed_clock(place.path());
    let a = Daemon::start(place.path(), "a", &[]);
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &a.address]);
    let skewed = |name: &str, skew: &str| {
        let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("SKEW", skew)];
        Daemon::start_with(place.path(), name, &["--bootstrap", &a.address, "--bootstrap", &b.address], &variables)
    };
    let (day, minutes) = (skewed("day", "-86500"), skewed("minutes", "400"));
    // Each has something to say, and dates it.
    let _publishing =
        [&a, &b, &day, &minutes].map(|daemon| daemon.ctl(&["publish-stream", "town", "--tone", "440"]).start());
    for (wrong, ms, words) in
        [(&day, -86_500_000i64, "1 d 1 min behind those of"), (&minutes, 400_000, "6 min 40 s ahead of those of")]
    {
        until("its own word", || {
            let status = wrong.good(&["status"]);
            (status.contains("this machine's clock is") && status.contains(words)).then_some(())
        });
        assert!(finds(wrong, "clock", "FAIL").contains("timedatectl"));
        let state = json(&wrong.good(&["rpc", "p2pd.v1.NodeService/GetState"]));
        assert!((state["clock_ahead_ms"].as_i64().unwrap() - ms).abs() < 10_000, "{state}");
        let mut events = wrong.ctl(&["events", "--from-oldest"]).start();
        events.printed().with("clock-wrong");
        let who = id(wrong);
        let peer = until("its clock as another sees it", || {
            let peers = json(&a.good(&["-o", "json", "peers"]));
            let peer = peers["peers"].as_array()?.iter().find(|peer| peer["peer_id"] == who.as_str())?.clone();
            peer["clock_ahead_ms"].is_i64().then_some(peer)
        });
        assert!((peer["clock_ahead_ms"].as_i64().unwrap() - ms).abs() < 10_000, "{peer}");
        let show = a.good(&["peers", "show", &who]);
        let way = if ms < 0 { " s behind this machine's" } else { " s ahead of this machine's" };
        assert!(show.contains(way), "{show}");
    }
    assert!(a.good(&["status"]).contains(&format!("the clock of {}", id(&day))));
    assert!(!a.good(&["status"]).contains("this machine's clock is"), "two of three that it hears, each its own way");
}

#[test]
fn a_bootstrap_peer_that_is_not_reached_has_its_reason_in_status() {
    let place = tempfile::tempdir().unwrap();
    let nobody = "/ip4/127.0.0.1/tcp/09/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let a = Daemon::start(place.path(), "a", &["--bootstrap", nobody]);
    let status = until("the reason", || {
        let status = a.good(&["status"]);
        status.contains("Connection refused").then_some(status)
    });
    assert!(status.contains(&format!("not reached  {nobody}: Connection refused")), "{status}");
    assert!(!status.contains("or network.bootstrap in p2pd.toml"), "it is set: {status}");
}
