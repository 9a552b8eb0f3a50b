//! What goes wrong on the machines of the honest ones.

use std::{
    fs,
    io::Write,
    process::{ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Clock,
    support::{Program, Start, signal},
    town::Town,
};

/// One daemon stands still for so long, and then lives for as long.
const FROZEN: Duration = Duration::from_secs(25);
const FULL: Duration = Duration::from_secs(10);
const GREEDY: Duration = Duration::from_secs(30);

/// Freezes and thaws a follower's daemon.
pub fn freezes(town: &Town, clock: &Clock) {
    let frozen = &town.daemons[3];
    while clock.goes() {
        clock.pause(FROZEN);
        signal(frozen.child(), "-STOP");
        clock.pause(FROZEN);
        signal(frozen.child(), "-CONT");
    }
}

/// Leaves no room on the disk of the publisher's daemon, again and again.
pub fn full_disk(town: &Town, clock: &Clock) {
    let Some(disk) = &town.disk else { return };
    while clock.goes() {
        clock.pause(FULL);
        let ballast = disk.fill();
        // Something to write meanwhile.
        let _ = town.daemons[0].inner.run(&["topics", "set", "chat", "--keep", "5h"]);
        clock.pause(FULL);
        let _ = fs::remove_file(ballast);
        clock.pause(FULL);
    }
}

/// Programs that stop reading, on every daemon that has something to say.
pub fn programs_that_do_not_read(town: &Town, clock: &Clock) {
    let start = |(daemon, words): (usize, &[&str])| -> Program {
        let program = town.daemons[daemon].inner.ctl(words).start();
        signal(&program, "-STOP");
        program
    };
    let follow: &[&str] = &["sub", "news", "--block"];
    let listen: &[&str] = &["listen", "town", "-o", "-"];
    let watch: &[&str] = &["events", "--from-oldest"];
    while clock.goes() {
        let held: Vec<Program> =
            [(0, follow), (0, listen), (1, watch), (2, follow), (2, listen), (2, watch)].map(start).into();
        clock.pause(Duration::from_secs(60));
        drop(held);
    }
}

/// Programs of the publisher's machine that send messages of a mebibyte as fast as the daemon takes them, every other half minute.
pub fn greedy_programs(town: &Town, clock: &Clock) {
    const LARGEST: &str = "1048576";
    for daemon in &town.daemons[..2] {
        daemon.inner.good(&["topics", "set", "large", "--max-message", LARGEST]);
    }
    let _reader = town.daemons[1].inner.ctl(&["sub", "large"]).stdout(Stdio::null()).start();
    let line = vec![b'x'; 1_000_000];
    while clock.goes() {
        clock.pause(GREEDY);
        let start = || {
            let mut program = town.daemons[0].inner.ctl(&["pub", "large"]);
            program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).start()
        };
        let greedy: Vec<Program> = (0..16).map(|_| start()).collect();
        thread::scope(|scope| {
            for mut program in greedy {
                let (clock, line, mut lines) = (clock.clone(), &line, program.stdin.take().unwrap());
                scope.spawn(move || {
                    let end = Instant::now() + GREEDY;
                    let more = |lines: &mut ChildStdin| lines.write_all(line).and_then(|()| lines.write_all(b"\n"));
                    // It ends by itself when a message is refused.
                    while clock.goes() && Instant::now() < end && more(&mut lines).is_ok() {}
                    drop(program);
                });
            }
        });
    }
}
