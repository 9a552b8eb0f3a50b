//! In place of the sound card, where p2pctl is built without it.

use std::io::Read;

use crate::exit::fail;

fn missing<T>() -> anyhow::Result<T> {
    Err(fail(
        2,
        "this p2pctl has no sound card (cargo feature `soundcard`); \
         listen -o FILE.opus, or join it with others by a pipe: `p2pctl listen ID | aplay -f S16_LE -r 48000`, \
         `arecord -f S16_LE -r 48000 | p2pctl publish-stream ID -`",
    ))
}

/// Never made.
pub(super) enum Player {}

impl Player {
    pub(super) fn open(_name: Option<&str>, _channels: u32) -> anyhow::Result<Self> {
        missing()
    }

    pub(super) fn play(&mut self, _samples: &[f32]) -> anyhow::Result<()> {
        match *self {}
    }

    pub(super) fn finish(self) {
        match self {}
    }
}

pub(super) fn record(_name: Option<&str>, _channels: u32) -> anyhow::Result<Box<dyn Read + Send>> {
    missing()
}
