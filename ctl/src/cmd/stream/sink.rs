//! Where the sound of `listen` goes: the exact packets or the sound into a file, or samples to standard output.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
};

use p2pd_api::v1::StreamConfig;
use p2pd_audio::{
    FRAME,
    codec::{OpusDecoder, packet_ticks, to_i16},
    ogg_opus::OpusWriter,
    playout::Playout,
    wav::WavWriter,
};

use super::{recording::Recording, sound_card::Player};
use crate::error::{Exit, fail};

/// The kind of output that a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Opus,
    Wav,
    Pcm,
    Card,
    /// Only the numbers are wanted.
    Nothing,
}

/// Whether `place` is `card` or `card:NAME`, and the name of the card.
pub(super) fn card(place: &str) -> Option<Option<&str>> {
    match place.strip_prefix("card")? {
        "" => Some(None),
        rest => rest.strip_prefix(':').map(Some),
    }
}

impl Kind {
    pub(super) fn of(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            // Raw samples are of no use on a terminal.
            return Ok(if io::stdout().is_terminal() { Kind::Card } else { Kind::Pcm });
        };
        if path.to_str().is_some_and(|place| card(place).is_some()) {
            return Ok(Kind::Card);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("opus") => Ok(Kind::Opus),
            Some("wav") => Ok(Kind::Wav),
            _ => Err(fail(
                Exit::Usage,
                format!(
                    "-o {}: takes a name that ends in .opus or .wav, card, or - for standard output",
                    path.display()
                ),
            )),
        }
    }
}

/// What was played: how long, in 48 kHz ticks, and its peak, 1.0 at most; 0 where it was not decoded.
pub(super) struct Played {
    pub(super) ticks: u64,
    pub(super) peak: f32,
}

/// Where sound goes.
pub(super) enum Sink {
    /// Pages are built in memory and written whole.
    Opus(Box<OpusWriter<Vec<u8>>>, Recording),
    Wav(Box<WavWriter<Recording>>, OpusDecoder),
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
            Kind::Pcm => Sink::Pcm(Pipe::open(WAITING, NOT_READ), decoder()?),
            Kind::Card => {
                let name = path.to_str().and_then(card).flatten();
                Sink::Card(Box::new(Player::open(name, config.channels)?), decoder()?)
            }
            Kind::Opus => {
                let writer = OpusWriter::new(Vec::new(), config.channels, config.pre_skip)?;
                let mut sink = Sink::Opus(Box::new(writer), Recording::create(path)?);
                sink.written(Ok(()))?;
                sink
            }
            Kind::Wav => {
                let decoder = decoder()?;
                let writer = WavWriter::new(Recording::create(path)?, config.channels, p2pd_audio::RATE)?;
                Sink::Wav(Box::new(writer), decoder)
            }
        })
    }

    /// Plays one thing.
    pub(super) fn play(&mut self, playout: Playout) -> anyhow::Result<Played> {
        if let Some(decoder) = self.decoder() {
            let samples = sound(decoder, playout)?;
            return self.samples(&samples);
        }
        let ticks = match (&mut *self, playout) {
            (Sink::Opus(writer, recording), Playout::Frame { packet, .. }) => {
                let ticks = packet_ticks(&packet).unwrap_or(0);
                recording.heard = true;
                let added = writer.packet(packet);
                self.written(added)?;
                ticks
            }
            (Sink::Nothing, Playout::Frame { packet, .. }) => packet_ticks(&packet).unwrap_or(0),
            (Sink::Nothing, Playout::Conceal { ticks, .. }) => ticks,
            // A file of exact packets has no place for what never came.
            _ => 0,
        };
        Ok(Played { ticks, peak: 0.0 })
    }

    /// Whether it decodes what it plays.
    pub(super) fn decodes(&self) -> bool {
        matches!(self, Sink::Wav(..) | Sink::Pcm(..) | Sink::Card(..))
    }

    fn decoder(&mut self) -> Option<&mut OpusDecoder> {
        match self {
            Sink::Wav(.., decoder) | Sink::Pcm(_, decoder) | Sink::Card(_, decoder) => Some(decoder),
            Sink::Opus(..) | Sink::Nothing | Sink::Done => None,
        }
    }

    /// Plays interleaved samples.
    pub(super) fn samples(&mut self, samples: &[f32]) -> anyhow::Result<Played> {
        match self {
            Sink::Wav(writer, _) => {
                writer.get_mut().heard |= !samples.is_empty();
                let samples: Vec<i16> = samples.iter().map(|sample| to_i16(*sample)).collect();
                let added = writer.write(&samples);
                self.written(added)?;
            }
            Sink::Pcm(pipe, _) => pipe.write(samples.iter().flat_map(|s| to_i16(*s).to_le_bytes()).collect())?,
            Sink::Card(player, _) => player.play(samples)?,
            Sink::Opus(..) => {
                return Err(fail(
                    Exit::Usage,
                    "this stream is not Opus: name a file that ends in .wav, or another to keep it as it is",
                ));
            }
            Sink::Nothing | Sink::Done => {}
        }
        let ticks = self.decoder().map_or(0, |decoder| (samples.len() / decoder.channels()) as u64);
        Ok(Played { ticks, peak: peak(samples) })
    }

    /// Drops what still waits for a reader of standard output or for the card, when the user stops the command.
    pub(super) fn let_go(&mut self) {
        if let Sink::Pcm(..) | Sink::Card(..) = self {
            *self = Sink::Done;
        }
    }

    /// Writes all whole pages or samples to the file, so that it plays at any time. `added` is the result so far.
    fn written(&mut self, added: io::Result<()>) -> anyhow::Result<()> {
        match self {
            Sink::Opus(writer, recording) => {
                let pages = std::mem::take(writer.get_mut());
                added.and_then(|()| recording.append(&pages)).map_err(|error| recording.fault(&error))
            }
            Sink::Wav(writer, _) => {
                added.and_then(|()| writer.refresh()).map_err(|error| writer.get_mut().fault(&error))
            }
            _ => Ok(()),
        }
    }

    /// Finishes the output; after a failure a file keeps its partial name. Returns its path.
    pub(super) fn finish(&mut self, failed: bool) -> anyhow::Result<String> {
        match std::mem::replace(self, Sink::Done) {
            Sink::Opus(writer, mut recording) => {
                let ended = writer.finish().and_then(|pages| recording.append(&pages));
                recording.finish(failed, ended)
            }
            Sink::Wav(mut writer, _) => {
                let ended = writer.refresh();
                writer.into_inner().finish(failed, ended)
            }
            Sink::Pcm(pipe, _) => {
                pipe.close()?;
                Ok(String::new())
            }
            Sink::Card(player, _) => {
                player.finish()?;
                Ok(String::new())
            }
            Sink::Nothing | Sink::Done => Ok(String::new()),
        }
    }
}

/// The largest sample.
pub(super) fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, sample| sample.abs().max(peak))
}

/// Standard output behind a thread, so that a reader that stops holds up nothing else.
pub(super) struct Pipe {
    pieces: SyncSender<Vec<u8>>,
    /// The error when the queue is full.
    full: &'static str,
    writer: JoinHandle<io::Result<()>>,
}

/// Frames of 20 ms that wait for the reader, 30 s of them.
const WAITING: usize = 1_500;
const NOT_READ: &str = "nobody has read standard output for 30 s";

impl Pipe {
    pub(super) fn open(waiting: usize, full: &'static str) -> Self {
        let (pieces, waiting) = mpsc::sync_channel::<Vec<u8>>(waiting);
        let writer = thread::spawn(move || {
            let mut out = io::stdout().lock();
            waiting.iter().try_for_each(|piece| out.write_all(&piece).and_then(|()| out.flush()))
        });
        Pipe { pieces, full, writer }
    }

    pub(super) fn write(&self, piece: Vec<u8>) -> io::Result<()> {
        match self.pieces.try_send(piece) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(io::Error::new(io::ErrorKind::TimedOut, self.full)),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    pub(super) fn close(self) -> io::Result<()> {
        // If the queue is full, the reader has stopped: do not wait for it.
        if let Err(TrySendError::Full(_)) = self.pieces.try_send(Vec::new()) {
            return Ok(());
        }
        drop(self.pieces);
        self.writer.join().unwrap_or(Ok(()))
    }
}

fn sound(decoder: &mut OpusDecoder, playout: Playout) -> anyhow::Result<Vec<f32>> {
    Ok(match playout {
        Playout::Frame { packet, .. } => match decoder.decode(&packet) {
            Ok(samples) => samples,
            // Only the sound of a packet that cannot be decoded is lost.
            Err(_) => decoder.conceal(packet_ticks(&packet).map_or(FRAME, |ticks| ticks as usize))?,
        },
        Playout::Conceal { ticks, .. } => decoder.conceal(ticks as usize)?,
        Playout::Restart => {
            decoder.forget()?;
            Vec::new()
        }
    })
}
