//! The audio of p2pctl: where sound comes from, Opus, Ogg, the jitter buffer and its statistics. The daemon carries
//! audio and never decodes it; everything that knows a codec is here.

mod block;
mod bytes;
pub mod clock_drift;
pub mod codec;
mod damage;
mod decoding;
mod detect;
pub mod error;
mod frames;
mod input;
pub mod jitter;
pub mod join;
pub mod ogg_opus;
mod ogg_pages;
pub mod playout;
mod samples;
pub mod schedule;
pub mod source;
pub mod stats;
pub mod ticks;
pub mod wav;

pub use error::AudioError;

/// Samples per second of everything behind a source.
pub const RATE: u32 = 48_000;
/// Samples of one channel in a 20 ms frame.
pub const FRAME: usize = 960;
