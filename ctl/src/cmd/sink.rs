//! Where the sound of `listen` goes: the exact packets or the sound into a file, or samples to standard output.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
};

use hound::{WavSpec, WavWriter};
use p2pd_api::v1::StreamConfig;
use p2pd_audio::{
    FRAME,
    codec::{OpusDecoder, packet_ticks, to_i16},
    jitter::Playout,
    ogg_opus::OpusWriter,
};
use tempfile::NamedTempFile;

use super::card::Player;
use crate::exit::fail;

/// What a name asks for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Opus,
    Wav,
    Pcm,
    Card,
    /// Only the numbers are wanted.
    Nothing,
}

/// The card's name in `card` or `card:NAME`, which stand where a file's would.
pub(super) fn card(place: &str) -> Option<Option<&str>> {
    match place.strip_prefix("card")? {
        "" => Some(None),
        rest => rest.strip_prefix(':').map(Some),
    }
}

impl Kind {
    pub(super) fn of(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            // Samples on a terminal are of no use to anybody.
            return Ok(if io::stdout().is_terminal() { Kind::Card } else { Kind::Pcm });
        };
        if path.to_str().is_some_and(|place| card(place).is_some()) {
            return Ok(Kind::Card);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("opus") => Ok(Kind::Opus),
            Some("wav") => Ok(Kind::Wav),
            _ => Err(fail(
                2,
                format!(
                    "-o {}: takes a name that ends in .opus or .wav, card, or - for standard output",
                    path.display()
                ),
            )),
        }
    }
}

/// Where sound goes. A file is made under a temporary name beside its place, and moved there when it is whole.
pub(super) enum Sink {
    Opus(OpusWriter<BufWriter<NamedTempFile>>, PathBuf),
    Wav(Box<WavWriter<BufWriter<File>>>, NamedTempFile, PathBuf, OpusDecoder),
    Pcm(Pipe, OpusDecoder),
    Card(Box<Player>, OpusDecoder),
    Nothing,
    Done,
}

impl Sink {
    pub(super) fn create(kind: Kind, path: Option<&Path>, config: &StreamConfig) -> anyhow::Result<Self> {
        let decoder = || OpusDecoder::new(config.channels);
        let path = path.unwrap_or(Path::new(""));
        Ok(match kind {
            Kind::Nothing => Sink::Nothing,
            Kind::Pcm => Sink::Pcm(Pipe::open(), decoder()?),
            Kind::Card => {
                let name = path.to_str().and_then(card).flatten();
                Sink::Card(Box::new(Player::open(name, config.channels)?), decoder()?)
            }
            Kind::Opus => {
                let file = BufWriter::new(beside(path)?);
                Sink::Opus(OpusWriter::new(file, config.channels, config.pre_skip)?, path.into())
            }
            Kind::Wav => {
                let spec = WavSpec {
                    channels: u16::try_from(config.channels)?,
                    sample_rate: p2pd_audio::RATE,
                    bits_per_sample: 16,
                    sample_format: hound::SampleFormat::Int,
                };
                let file = beside(path)?;
                let writer = Box::new(WavWriter::new(BufWriter::new(file.reopen()?), spec)?);
                Sink::Wav(writer, file, path.into(), decoder()?)
            }
        })
    }

    /// Plays one thing. Returns how much that was, in 48 kHz ticks.
    pub(super) fn play(&mut self, playout: Playout) -> anyhow::Result<u64> {
        if let Some(decoder) = self.decoder() {
            let samples = sound(decoder, playout)?;
            return self.samples(&samples);
        }
        match (self, playout) {
            (Sink::Opus(writer, _), Playout::Frame { packet, .. }) => {
                let ticks = packet_ticks(&packet).unwrap_or(0);
                writer.packet(packet)?;
                Ok(ticks)
            }
            (Sink::Nothing, Playout::Frame { packet, .. }) => Ok(packet_ticks(&packet).unwrap_or(0)),
            (Sink::Nothing, Playout::Conceal { ticks, .. }) => Ok(ticks),
            // A file of exact packets has no place for what never came.
            _ => Ok(0),
        }
    }

    fn decoder(&mut self) -> Option<&mut OpusDecoder> {
        match self {
            Sink::Wav(.., decoder) | Sink::Pcm(_, decoder) | Sink::Card(_, decoder) => Some(decoder),
            Sink::Opus(..) | Sink::Nothing | Sink::Done => None,
        }
    }

    /// Plays interleaved samples. Returns how much that was, in 48 kHz ticks.
    pub(super) fn samples(&mut self, samples: &[f32]) -> anyhow::Result<u64> {
        match self {
            Sink::Wav(writer, ..) => samples.iter().try_for_each(|sample| writer.write_sample(to_i16(*sample)))?,
            Sink::Pcm(pipe, _) => pipe.write(samples.iter().flat_map(|s| to_i16(*s).to_le_bytes()).collect())?,
            Sink::Card(player, _) => player.play(samples)?,
            Sink::Opus(..) => {
                return Err(fail(
                    2,
                    "this stream is not Opus: name a file that ends in .wav, or another to keep it as it is",
                ));
            }
            Sink::Nothing | Sink::Done => {}
        }
        Ok(self.decoder().map_or(0, |decoder| (samples.len() / decoder.channels()) as u64))
    }

    /// Does not wait for a reader of standard output that has stopped, nor for the card to play what it has.
    pub(super) fn let_go(&mut self) {
        if let Sink::Pcm(..) | Sink::Card(..) = self {
            *self = Sink::Done;
        }
    }

    /// Ends the file; after a failure it is kept under a name that says so. Returns where it is.
    pub(super) fn finish(&mut self, failed: bool) -> anyhow::Result<String> {
        let (file, path) = match std::mem::replace(self, Sink::Done) {
            Sink::Opus(writer, path) => (writer.finish()?.into_inner().map_err(|e| e.into_error())?, path),
            Sink::Wav(writer, file, path, _) => {
                writer.finalize()?;
                (file, path)
            }
            Sink::Pcm(pipe, _) => {
                pipe.close()?;
                return Ok(String::new());
            }
            Sink::Card(player, _) => {
                player.finish();
                return Ok(String::new());
            }
            Sink::Nothing | Sink::Done => return Ok(String::new()),
        };
        let path = if failed { path.with_added_extension("partial") } else { path };
        file.persist(&path).map_err(|e| fail(1, format!("cannot write {}: {}", path.display(), e.error)))?;
        Ok(path.display().to_string())
    }
}

/// A file in the same directory, to be moved to the path when it is whole.
pub(super) fn beside(path: &Path) -> anyhow::Result<NamedTempFile> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // As the user's umask has it, like any file that is made.
    let readable = std::fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(readable).tempfile_in(directory);
    file.map_err(|e| fail(1, format!("cannot write in {}: {}", directory.display(), e.kind())))
}

/// Standard output behind a thread, so that a reader who stops holds up nothing else.
pub(super) struct Pipe {
    frames: SyncSender<Vec<u8>>,
    writer: JoinHandle<io::Result<()>>,
}

/// Frames that wait for the reader, 30 s of them; what comes then is lost.
const WAITING: usize = 1_500;

impl Pipe {
    fn open() -> Self {
        let (frames, waiting) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let writer = thread::spawn(move || {
            let mut out = io::stdout().lock();
            waiting.iter().try_for_each(|frame| out.write_all(&frame).and_then(|()| out.flush()))
        });
        Pipe { frames, writer }
    }

    fn write(&self, frame: Vec<u8>) -> io::Result<()> {
        match self.frames.try_send(frame) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has read standard output for 30 s"))
            }
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn close(self) -> io::Result<()> {
        // A reader who has let it fill up is not waited for.
        if let Err(TrySendError::Full(_)) = self.frames.try_send(Vec::new()) {
            return Ok(());
        }
        drop(self.frames);
        self.writer.join().unwrap_or(Ok(()))
    }
}

fn sound(decoder: &mut OpusDecoder, playout: Playout) -> anyhow::Result<Vec<f32>> {
    Ok(match playout {
        Playout::Frame { packet, .. } => match decoder.decode(&packet) {
            Ok(samples) => samples,
            // A packet that cannot be decoded costs its own sound only.
            Err(_) => decoder.conceal(packet_ticks(&packet).map_or(FRAME, |ticks| ticks as usize))?,
        },
        Playout::Conceal { ticks, .. } => decoder.conceal(ticks as usize)?,
        Playout::Restart => {
            decoder.forget()?;
            Vec::new()
        }
    })
}
