//! The sound card: what `listen` plays on and `publish-stream` records from. Samples cross to the card's own thread
//! through a ring without locks, since that thread must never wait.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use cpal::{
    BufferSize, Device, ErrorKind, Stream, StreamConfig,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};
use p2pd_audio::{RATE, clock_drift::ClockDrift};

use crate::{
    error::{Exit, fail},
    output,
};

/// Sound that waits in front of the card: a few of its periods, and time for a late scheduler.
const TARGET_US: u64 = 60_000;
/// Most that waits there. It is this full only when the card stands still.
const RING_S: usize = 2;
/// Recorded buffers that wait for the encoder, some seconds of them; further ones are lost.
const RECORDED: usize = 256;

const INSTEAD_OF_PLAYING: &str = "`p2pctl listen STREAM -o FILE.opus` keeps the sound in a file";
const INSTEAD_OF_RECORDING: &str = "`PROGRAM | p2pctl publish-stream ID -` takes sound from a pipe";

fn failed(what: &str, error: &dyn std::fmt::Display) -> anyhow::Error {
    fail(
        Exit::Failed,
        format!("the sound card cannot {what}: {error}; `aplay -L` lists the cards, card:NAME takes one of them"),
    )
}

/// The card of that name, or the default one. `instead` is what works without a card.
fn device(name: Option<&str>, default: fn(&cpal::Host) -> Option<Device>, instead: &str) -> anyhow::Result<Device> {
    let host = cpal::default_host();
    let found = match name {
        Some(name) => format!("alsa:{name}").parse().ok().and_then(|id| host.device_by_id(&id)),
        None => default(&host),
    };
    let missing = || match name {
        Some(name) => format!("there is no sound card `{name}`; `aplay -L` lists them; {instead}"),
        None => format!("this machine has no sound card for that; {instead}"),
    };
    found.ok_or_else(|| fail(Exit::Failed, missing()))
}

fn config(channels: u32) -> anyhow::Result<StreamConfig> {
    Ok(StreamConfig { channels: channels.try_into()?, sample_rate: RATE, buffer_size: BufferSize::Default })
}

/// Sets `broken` when the card is gone; lesser errors are ignored.
fn watch(broken: Arc<AtomicBool>) -> impl FnMut(cpal::Error) {
    move |error| match error.kind() {
        ErrorKind::Xrun | ErrorKind::RealtimeDenied | ErrorKind::DeviceChanged => {}
        _ => {
            output::say(format_args!("p2pctl: the sound card: {error}"));
            broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Plays on a card.
pub(super) struct Player {
    ring: rtrb::Producer<f32>,
    drift: ClockDrift,
    channels: usize,
    broken: Arc<AtomicBool>,
    /// Samples for which there was no room.
    left_out: usize,
    _stream: Stream,
}

impl Player {
    /// Opens the card of that name, or the default one.
    pub(super) fn open(name: Option<&str>, channels: u32) -> anyhow::Result<Self> {
        let device = device(name, cpal::Host::default_output_device, INSTEAD_OF_PLAYING)?;
        let width = channels as usize;
        let (ring, mut samples) = rtrb::RingBuffer::<f32>::new(RING_S * RATE as usize * width);
        let target = (TARGET_US * u64::from(RATE) / 1_000_000) as usize * width;
        let broken = Arc::new(AtomicBool::new(false));
        let mut playing = false;
        let take = move |data: &mut [f32], _: &cpal::OutputCallbackInfo| {
            // After silence it waits for the target, or it would stutter.
            playing = if playing { samples.slots() > 0 } else { samples.slots() >= target };
            let mut next = || if playing { samples.pop().unwrap_or(0.0) } else { 0.0 };
            data.fill_with(&mut next);
        };
        let stream = device
            .build_output_stream(config(channels)?, take, watch(broken.clone()), None)
            .map_err(|e| failed("play 48 kHz", &e))?;
        stream.play().map_err(|e| failed("play", &e))?;
        Ok(Player {
            ring,
            drift: ClockDrift::new(channels, TARGET_US)?,
            channels: width,
            broken,
            left_out: 0,
            _stream: stream,
        })
    }

    fn waiting(&self) -> usize {
        self.ring.buffer().capacity() - self.ring.slots()
    }

    /// Plays interleaved samples. Samples that find the ring full are left out.
    pub(super) fn play(&mut self, samples: &[f32]) -> anyhow::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(fail(Exit::Failed, "the sound card is gone; `p2pctl listen` again when it is back"));
        }
        let level_us = (self.waiting() / self.channels) as u64 * 1_000_000 / u64::from(RATE);
        for sample in self.drift.fit(samples, level_us)? {
            self.left_out += usize::from(self.ring.push(sample).is_err());
        }
        Ok(())
    }

    /// Waits until all was played, as long as the card plays at all.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(RING_S as u64 + 1);
        while self.waiting() > 0 && Instant::now() < deadline && !self.broken.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if self.left_out > 0 {
            let seconds = (self.left_out / self.channels) as f64 / f64::from(RATE);
            output::say(format_args!("p2pctl: {seconds:.1} s of sound were left out: the card stood still"));
        }
    }
}

/// Records from the card of that name, or the default one: 32 bit float samples at 48 kHz.
pub(super) fn record(name: Option<&str>, channels: u32) -> anyhow::Result<Box<dyn Read + Send>> {
    let device = device(name, cpal::Host::default_input_device, INSTEAD_OF_RECORDING)?;
    let (sender, recorded) = mpsc::sync_channel(RECORDED);
    let broken = Arc::new(AtomicBool::new(false));
    let give = move |data: &[f32], _: &cpal::InputCallbackInfo| {
        let bytes: Vec<u8> = data.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        if let Err(TrySendError::Full(_)) = sender.try_send(bytes) {
            output::say("p2pctl: the encoder is too slow, sound of the card is lost");
        }
    };
    let stream = device
        .build_input_stream(config(channels)?, give, watch(broken.clone()), None)
        .map_err(|e| failed("record 48 kHz", &e))?;
    stream.play().map_err(|e| failed("record", &e))?;
    Ok(Box::new(Recorder { recorded, rest: Vec::new(), broken, _stream: stream }))
}

struct Recorder {
    recorded: Receiver<Vec<u8>>,
    /// Recorded and not yet read, the next byte last.
    rest: Vec<u8>,
    broken: Arc<AtomicBool>,
    _stream: Stream,
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.recorded.recv_timeout(Duration::from_millis(250)) {
                Ok(bytes) => self.rest = bytes.into_iter().rev().collect(),
                Err(_) if self.broken.load(Ordering::Relaxed) => {
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the sound card is gone"));
                }
                Err(_) => {}
            }
        }
        let count = buffer.len().min(self.rest.len());
        for (to, from) in buffer.iter_mut().zip(self.rest.drain(self.rest.len() - count..).rev()) {
            *to = from;
        }
        Ok(count)
    }
}
