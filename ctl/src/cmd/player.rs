//! In place of the sound card, where p2pctl is built without it: the machine's own programs that play and record, joined
//! by pipes.

use std::{
    env,
    io::{self, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use p2pd_audio::codec::to_i16;

use crate::{exit::fail, output};

/// Frames of 20 ms that wait for the program, 2 s of them; what it is too far behind for is left out.
const WAITING: usize = 100;
/// How soon a program ends that finds no sound server or card.
const AT_ONCE: Duration = Duration::from_millis(300);
/// How long a program may take to play what it has.
const LAST: Duration = Duration::from_secs(3);

/// Programs that play 16 bit samples from standard input, the best first.
const PLAYERS: [(&str, &str); 5] = [
    ("pw-play", "--raw --rate 48000 --format s16 --channels CHANNELS -"),
    ("paplay", "--raw --rate=48000 --format=s16le --channels=CHANNELS"),
    ("aplay", "-q -t raw -r 48000 -f S16_LE -c CHANNELS"),
    ("ffplay", "-nodisp -autoexit -loglevel quiet -f s16le -ar 48000 -ac CHANNELS -i -"),
    (
        "mpv",
        "--no-terminal --no-video --demuxer=rawaudio --demuxer-rawaudio-rate=48000 --demuxer-rawaudio-format=s16le \
         --demuxer-rawaudio-channels=CHANNELS -",
    ),
];
/// Programs that record 32 bit float samples to standard output.
const RECORDERS: [(&str, &str); 2] = [
    ("parec", "--raw --rate=48000 --format=float32le --channels=CHANNELS"),
    ("arecord", "-q -t raw -r 48000 -f FLOAT_LE -c CHANNELS"),
];

/// Starts the first program that is installed and goes on, where a card was named one of ALSA's that takes its name.
fn start(programs: &[(&'static str, &str)], card: Option<&str>, channels: u32) -> Option<(&'static str, Child)> {
    programs.iter().filter(|(name, _)| card.is_none() || matches!(*name, "aplay" | "arecord")).find_map(
        |(name, arguments)| {
            let mut command = Command::new(name);
            command.args(arguments.replace("CHANNELS", &channels.to_string()).split_whitespace());
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
            Some((*name, child))
        },
    )
}

fn missing(what: &str, programs: &[(&str, &str)], instead: &str) -> anyhow::Error {
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    let installed = |name: &&str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|directory| directory.join(name).is_file())
    };
    let found: Vec<&str> = names.iter().copied().filter(installed).collect();
    let why = if found.is_empty() {
        format!("none of {} is installed", names.join(", "))
    } else {
        format!("{} found no sound card or sound server", found.join(", "))
    };
    fail(1, format!("nothing {what} sound here: {why}. {instead}"))
}

/// Plays through another program.
pub(super) struct Player {
    name: &'static str,
    child: Child,
    frames: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

impl Player {
    /// Starts a program that plays on the card of that name, or the default one.
    pub(super) fn open(card: Option<&str>, channels: u32) -> anyhow::Result<Self> {
        let instead = "Keep the sound in a file: listen -o FILE.opus";
        let (name, mut child) = start(&PLAYERS, card, channels).ok_or_else(|| missing("plays", &PLAYERS, instead))?;
        output::say(format_args!("playing through {name}"));
        let (frames, waiting) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let mut input = child.stdin.take();
        let writer = thread::spawn(move || {
            let Some(input) = &mut input else { return };
            let _ = waiting.iter().try_for_each(|frame| input.write_all(&frame));
        });
        Ok(Player { name, child, frames: Some(frames), writer: Some(writer) })
    }

    /// Plays interleaved samples.
    pub(super) fn play(&mut self, samples: &[f32]) -> anyhow::Result<()> {
        let frame = samples.iter().flat_map(|sample| to_i16(*sample).to_le_bytes()).collect();
        match self.frames.as_ref().map(|frames| frames.try_send(frame)) {
            Some(Err(TrySendError::Disconnected(_))) => {
                Err(fail(1, format!("{} has stopped; `p2pctl listen` again, or -o FILE.opus", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// Waits until what was given has been played.
    pub(super) fn finish(mut self) {
        self.frames = None;
        let deadline = Instant::now() + LAST;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.frames = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its pipe is broken now.
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

/// Records from the card of that name, or the default one: 32 bit float samples at 48 kHz.
pub(super) fn record(card: Option<&str>, channels: u32) -> anyhow::Result<Box<dyn Read + Send>> {
    let instead = "Pipe sound in: PROGRAM | p2pctl publish-stream ID -";
    let started = start(&RECORDERS, card, channels);
    let (name, mut child) = started.ok_or_else(|| missing("records", &RECORDERS, instead))?;
    let output = child.stdout.take().ok_or_else(|| missing("records", &RECORDERS, instead))?;
    output::say(format_args!("recording through {name}"));
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
