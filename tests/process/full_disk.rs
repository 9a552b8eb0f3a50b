//! Disks that take nothing, or hang: that is told once, with the reason, and over once the disk is well, without a restart. Nothing that
//! was acknowledged is lost.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::doctor::finds;
use crate::support::{Daemon, Program, SmallDisk, Start, library, skip, until, within};

fn start(place: &Path, data: &Path) -> Daemon {
    Daemon::start(place, "a", &["--data", data.to_str().unwrap()])
}

fn told(daemon: &Daemon) -> bool {
    daemon.good(&["status"]).contains("the disk, or what is on it, fails")
}

/// Begins a log, whose messages go to a file.
fn follow(daemon: &Daemon, topic: &str, to: &Path) -> Program {
    let follower = daemon.ctl(&["sub", topic, "--durable"]).stdout(fs::File::create(to).unwrap()).start();
    until("the log", || daemon.good(&["topics", "show", topic]).contains("log").then_some(()));
    follower
}

/// How often it was told that the disk failed, and that it was well again.
fn changes(daemon: &Daemon, place: &Path) -> (usize, usize) {
    // The last event that there is.
    let _other = Daemon::start(place, "other", &["--bootstrap", &daemon.address]);
    let mut events = daemon.ctl(&["events", "--from-oldest"]).start();
    let told: Vec<_> = events.printed().take_while(|line| !line.contains("peer-connected")).collect();
    let count = |kind| told.iter().filter(|line| line.contains(kind)).count();
    (count("storage-failed"), count("storage-back"))
}

/// Once with as little room that RocksDB does not write again by itself, and once with more.
#[test]
fn a_full_disk_is_told_and_written_to_again_once_there_is_room() {
    for size in ["44m", "200m"] {
        let place = tempfile::tempdir().unwrap();
        let Some(small) = SmallDisk::mount(place.path().join("small"), size) else {
            return skip("a full disk: to mount a small one takes root");
        };
        let (data, heard) = (small.0.join("data"), place.path().join("heard"));
        let mut daemon = start(place.path(), &data);
        daemon.good(&["topics", "set", "before", "--keep", "5h"]);
        // The database has room ahead for some megabytes, which a log takes.
        let mut follower = follow(&daemon, "news", &heard);
        let ballast = small.fill();
        let (mut numbers, news) = (0.., "x".repeat(50_000));
        within(Duration::from_secs(60), "the word in status", || {
            for number in numbers.by_ref().take(20) {
                daemon.good(&["pub", "news", &format!("{number} {news}")]);
            }
            told(&daemon).then_some(())
        });
        assert!(!daemon.run(&["topics", "set", "chat", "--keep", "5h"]).status.success());
        assert!(finds(&daemon, "storage", "FAIL").contains("12 MiB"));
        follower.kill().unwrap();
        fs::remove_file(ballast).unwrap();
        within(Duration::from_secs(60), "its end", || (!told(&daemon)).then_some(()));
        assert_eq!(changes(&daemon, place.path()), (1, 1), "{size}");
        daemon.good(&["topics", "set", "chat", "--keep", "5h"]);
        daemon.kill_9();
        daemon = start(place.path(), &data);
        for topic in ["before", "chat"] {
            assert!(daemon.good(&["topics", "show", topic]).contains("18000 s"), "{topic}");
        }
        // On disk before it is heard; what is not is a gap, of which standard output says nothing.
        let heard = fs::read_to_string(heard).unwrap();
        let (heard, _) = heard.rsplit_once('\n').unwrap();
        let count = heard.lines().count().to_string();
        let log = daemon.good(&["sub", "news", "--durable", "--from-oldest", "-n", &count]);
        assert!(log.lines().eq(heard.lines()), "{} of {count} in {size}", log.lines().count());
    }
}

/// Takes the place of the C library's functions in the daemon: files take nothing, or only little at once, while the named file says so.
const FAIL: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t write(int file, const void *data, size_t count) {
    struct stat found;
    if (count > 20000 && access(getenv("FAILS"), F_OK) == 0 && fstat(file, &found) == 0 && S_ISREG(found.st_mode)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_write, file, data, count);
}
"#;

#[test]
fn a_disk_that_refuses_large_writes_alone_is_told_once() {
    let place = tempfile::tempdir().unwrap();
    let (fails, library) = (place.path().join("fails"), library(place.path(), "fail", FAIL));
    let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("FAILS", fails.to_str().unwrap())];
    let daemon = Daemon::start_with(place.path(), "a", &[], &variables);
    let _follower = follow(&daemon, "news", &place.path().join("heard"));
    fs::write(&fails, "").unwrap();
    let (began, news) = (Instant::now(), "x".repeat(50_000));
    // As long as it would take to be told a few times more.
    while began.elapsed() < Duration::from_secs(20) {
        daemon.good(&["pub", "news", &news]);
        until("the word in status", || told(&daemon).then_some(()));
    }
    fs::remove_file(fails).unwrap();
    within(Duration::from_secs(60), "its end", || (!told(&daemon)).then_some(()));
    assert_eq!(changes(&daemon, place.path()), (1, 1));
}
