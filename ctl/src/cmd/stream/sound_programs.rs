//! Plays and records through programs of the machine, such as aplay and arecord, over pipes. In place of `sound_card.rs`
//! where p2pctl is built without the feature `soundcard`.

use std::{
    env,
    io::{self, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use p2pd_audio::{RATE, codec::to_i16};

use crate::{
    error::{Exit, fail},
    output,
};

/// Frames of 20 ms that wait for the program, 2 s of them; further frames are left out.
const WAITING: usize = 100;
/// A program that finds no sound server or card ends within this time.
const AT_ONCE: Duration = Duration::from_millis(300);
/// How long a program may take to play what it has.
const LAST: Duration = Duration::from_secs(3);

/// A program and its arguments.
struct Program {
    name: &'static str,
    arguments: &'static str,
}

const ALSA: [&str; 2] = ["aplay", "arecord"];
/// Programs that play 16 bit samples from standard input, the best first.
const PLAYERS: [Program; 5] = [
    Program { name: "pw-play", arguments: "--raw --rate 48000 --format s16 --channels CHANNELS -" },
    Program { name: "paplay", arguments: "--raw --rate=48000 --format=s16le --channels=CHANNELS" },
    Program { name: "aplay", arguments: "-q -t raw -r 48000 -f S16_LE -c CHANNELS" },
    // Without probing it plays at once, and ends at once if there is no card.
    Program {
        name: "ffplay",
        arguments: "-nodisp -autoexit -loglevel quiet -probesize 32 -analyzeduration 0 -f s16le -ar 48000 \
            -ac CHANNELS -i -",
    },
    Program {
        name: "mpv",
        arguments: "--no-terminal --no-video --demuxer=rawaudio --demuxer-rawaudio-rate=48000 \
            --demuxer-rawaudio-format=s16le --demuxer-rawaudio-channels=CHANNELS -",
    },
];
/// Programs that record 32 bit float samples to standard output.
const RECORDERS: [Program; 2] = [
    Program { name: "parec", arguments: "--raw --rate=48000 --format=float32le --channels=CHANNELS" },
    Program { name: "arecord", arguments: "-q -t raw -r 48000 -f FLOAT_LE -c CHANNELS" },
];

/// Starts the first of these programs that is installed and keeps running, and returns its index. If a card was named, only
/// ALSA's programs are tried, since they take its name.
fn start(programs: &[Program], card: Option<&str>, channels: u32) -> Option<(usize, Child)> {
    let takes_card = |name| card.is_none() || ALSA.contains(&name);
    programs.iter().enumerate().filter(|(_, program)| takes_card(program.name)).find_map(|(n, program)| {
        let mut command = Command::new(program.name);
        command.args(program.arguments.replace("CHANNELS", &channels.to_string()).split_whitespace());
        command.args(card.into_iter().flat_map(|card| ["-D", card]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let began = Instant::now();
        while began.elapsed() < AT_ONCE {
            if !matches!(child.try_wait(), Ok(None)) {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some((n, child))
    })
}

/// Why there is no sound, and what to do instead.
fn missing(what: &str, programs: &[Program], instead: &str) -> anyhow::Error {
    let installed = |program: &&Program| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|directory| directory.join(program.name).is_file())
    };
    let names = |programs: Vec<&Program>| programs.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    let found = names(programs.iter().filter(installed).collect());
    let why = if found.is_empty() {
        let all = names(programs.iter().collect());
        format!("none of {all} is installed (Debian: apt install alsa-utils)")
    } else {
        format!("{found} found no sound card or sound server")
    };
    fail(Exit::Failed, format!("nothing {what} sound here: {why}; {instead}"))
}

/// Plays through another program. If that ends, as one without a sound card does, plays through the next.
pub(super) struct Player {
    card: Option<String>,
    channels: u32,
    /// Programs that were not tried yet.
    others: &'static [Program],
    running: Running,
    /// Samples that found its queue full.
    left_out: usize,
}

impl Player {
    /// Starts a program that plays on the card of that name, or the default one.
    pub(super) fn open(card: Option<&str>, channels: u32) -> anyhow::Result<Self> {
        let (running, others) = Running::first(&PLAYERS, card, channels)?;
        Ok(Player { card: card.map(str::to_owned), channels, others, running, left_out: 0 })
    }

    /// Plays interleaved samples.
    pub(super) fn play(&mut self, samples: &[f32]) -> anyhow::Result<()> {
        let mut frame = samples.iter().flat_map(|sample| to_i16(*sample).to_le_bytes()).collect();
        loop {
            match self.running.give(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => {
                    self.left_out += samples.len();
                    return Ok(());
                }
                // The program has ended.
                Err(TrySendError::Disconnected(back)) => frame = back,
            }
            (self.running, self.others) = Running::first(self.others, self.card.as_deref(), self.channels)?;
        }
    }

    /// Waits until all was played. A program that fails may have played nothing.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.running.frames = None;
        let deadline = Instant::now() + LAST;
        while Instant::now() < deadline && matches!(self.running.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        if let Ok(Some(status)) = self.running.child.try_wait()
            && !(status.success() && self.running.has_read_all())
        {
            return Err(fail(
                Exit::Failed,
                "the program that was to play has failed; `p2pctl listen STREAM -o FILE.opus` keeps the sound",
            ));
        }
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if self.left_out > 0 {
            let seconds = self.left_out as f64 / f64::from(self.channels) / f64::from(RATE);
            output::say(format_args!(
                "p2pctl: {seconds:.1} s of sound were left out: the program that plays is too slow"
            ));
        }
    }
}

/// A program that plays.
struct Running {
    child: Child,
    frames: Option<SyncSender<Vec<u8>>>,
    /// Returns whether the program read all.
    writer: Option<JoinHandle<bool>>,
}

impl Running {
    /// Starts the first of the programs that plays; returns the rest of them, too.
    fn first(
        programs: &'static [Program],
        card: Option<&str>,
        channels: u32,
    ) -> anyhow::Result<(Self, &'static [Program])> {
        let instead = "`p2pctl listen STREAM -o FILE.opus` keeps the sound in a file";
        let (n, mut child) = start(programs, card, channels).ok_or_else(|| missing("plays", &PLAYERS, instead))?;
        let (found, others) = programs.split_at(n + 1);
        output::say(format_args!("playing through {}", found.last().map_or("", |program| program.name)));
        let (frames, waiting) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let mut input = child.stdin.take();
        let writer = thread::spawn(move || {
            let Some(input) = &mut input else { return false };
            let written = waiting.iter().try_for_each(|frame| input.write_all(&frame));
            written.is_ok() && !output::is_unread(input)
        });
        Ok((Running { child, frames: Some(frames), writer: Some(writer) }, others))
    }

    /// Whether the program, which has ended, waited for the end of the sound.
    fn has_read_all(&mut self) -> bool {
        self.writer.take().is_some_and(|writer| writer.join().unwrap_or(false))
    }

    fn give(&self, frame: Vec<u8>) -> Result<(), TrySendError<Vec<u8>>> {
        self.frames.as_ref().map_or(Ok(()), |frames| frames.try_send(frame))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.frames = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The writer ends, as its pipe is broken now.
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

/// Records from the card of that name, or the default one: 32 bit float samples at 48 kHz.
pub(super) fn record(card: Option<&str>, channels: u32) -> anyhow::Result<Box<dyn Read + Send>> {
    let instead = "`PROGRAM | p2pctl publish-stream ID -` takes sound from a pipe";
    let started = start(&RECORDERS, card, channels);
    let (n, mut child) = started.ok_or_else(|| missing("records", &RECORDERS, instead))?;
    let output = child.stdout.take().ok_or_else(|| missing("records", &RECORDERS, instead))?;
    output::say(format_args!("recording through {}", RECORDERS.get(n).map_or("", |program| program.name)));
    Ok(Box::new(Recorder { child, output }))
}

struct Recorder {
    child: Child,
    output: ChildStdout,
}

impl Read for Recorder {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.output.read(room)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
