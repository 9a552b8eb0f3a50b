//! `./x soak [MINUTES [FLOOD ...]]`: an honest publisher, its listener and its followers, while a hostile peer floods them in turns, a peer
//! freezes and thaws, clocks are wrong, a disk is full for a while, and local programs do not read, or publish all that they may. What is left of the sound, what
//! memory the daemons took, and what was lost, is told at the end; exit code 1 when a bound is broken.
#![allow(missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "../suite/raw_peer.rs"]
mod raw_peer;
mod rogue;
#[path = "../suite/rogue_words.rs"]
mod rogue_words;
#[allow(dead_code, unused_imports)]
#[path = "../process/support/mod.rs"]
mod support;
mod town;
mod troubles;

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rogue::Flood;
use serde_json::Value;
use town::Town;

/// Most of the sound that may be missing at the honest listener.
const CONCEALED: f64 = 0.01;
/// Most memory of a daemon: what network.memory is by default.
const MEMORY_MIB: u64 = 512;
/// Usual, in minutes.
const MINUTES: &str = "10";

/// Over for everybody at the same time.
#[derive(Clone)]
pub struct Clock {
    end: Instant,
    stopped: Arc<AtomicBool>,
}

impl Clock {
    pub fn goes(&self) -> bool {
        Instant::now() < self.end && !self.stopped.load(Ordering::Relaxed)
    }

    /// Waits for so long, or until it is over.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.goes() && Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let minutes: f64 = arguments.first().map_or(MINUTES, String::as_str).parse().expect("minutes, such as 10");
    let floods = rogue::floods_named(arguments.get(1..).unwrap_or_default());
    let place = tempfile::tempdir().unwrap();
    let town = Town::build(place.path());
    let length = Duration::from_secs_f64(minutes * 60.0);
    let clock = Clock { end: Instant::now() + length, stopped: Arc::default() };
    println!("for {minutes} minutes: {}", town.who());
    run(place.path(), &town, &clock, &floods, length)
}

fn run(place: &Path, town: &Town, clock: &Clock, floods: &[Flood], length: Duration) -> ExitCode {
    let (listener, witness) = (town.listener(length), town.witness(length));
    let mut high = vec![0; town.daemons.len()];
    let mut dead = None;
    thread::scope(|scope| {
        scope.spawn(|| rogue::flood(town, clock, floods));
        scope.spawn(|| troubles::freezes(town, clock));
        scope.spawn(|| troubles::full_disk(town, clock));
        scope.spawn(|| troubles::programs_that_do_not_read(town, clock));
        scope.spawn(|| troubles::greedy_programs(town, clock));
        while clock.goes() {
            for (mark, daemon) in high.iter_mut().zip(&town.daemons) {
                match daemon.resident_mib() {
                    Some(now) => *mark = now.max(*mark),
                    None => dead = dead.or(Some(daemon.name)),
                }
            }
            clock.stopped.store(dead.is_some(), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
        }
    });
    let mut report = Report { broken: false };
    if let Some(name) = dead {
        report.say(true, format!("daemon `{name}` has ended"));
    }
    report.sound("listener two daemons away", &town::summary(listener), CONCEALED);
    report.sound("witness at the publisher", &town::summary(witness), 1.0);
    for (mark, daemon) in high.into_iter().zip(&town.daemons) {
        let (numbers, panics) = (daemon.numbers(), daemon.panics(place));
        let words = format!("{:<10} {mark:>4} MiB at most, {numbers}, {panics} panics", daemon.name);
        report.say(mark > MEMORY_MIB || panics > 0, words);
    }
    for line in town.followers() {
        report.say(false, line);
    }
    if report.broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Report {
    broken: bool,
}

impl Report {
    fn say(&mut self, broken: bool, words: String) {
        self.broken |= broken;
        println!("{}{words}", if broken { "BROKEN " } else { "       " });
    }

    /// What a listener's summary says of its frames.
    fn sound(&mut self, who: &str, summary: &Value, most: f64) {
        let number = |name: &str| summary[name].as_f64().unwrap_or(0.0);
        let missing = number("concealed_frames") + number("skipped_frames");
        let share = missing / (number("played_frames") + missing).max(1.0);
        let words = format!(
            "{who}: {:.2} % concealed, {} groups repaired, {} lost, {} underruns, of {:.0} s",
            share * 100.0,
            number("repaired_groups"),
            number("lost_groups"),
            number("underruns"),
            number("played_frames") / 50.0,
        );
        self.say(share > most || number("played_frames") == 0.0, words);
    }
}
