//! Flags of `stream`, and of its verbs without the noun.

#[cfg(feature = "audio")]
use std::{path::PathBuf, time::Duration};

#[cfg(feature = "audio")]
use clap::ValueEnum;
use clap::{Args, Subcommand};

use super::help::examples;
#[cfg(feature = "audio")]
use super::values::{duration, hertz, whole};

/// Examples of the noun.
#[cfg(feature = "audio")]
pub(super) const EXAMPLES: [&str; 3] =
    ["p2pctl stream publish test --tone 440", "p2pctl stream listen test", "p2pctl stream list --category news"];
#[cfg(not(feature = "audio"))]
pub(super) const EXAMPLES: [&str; 1] = ["p2pctl stream list --category news"];

#[derive(Args)]
pub(crate) struct Stream {
    /// Without one, lists the live streams.
    #[command(subcommand)]
    pub(crate) action: Option<StreamAction>,
}

#[derive(Subcommand)]
pub(crate) enum StreamAction {
    /// The live streams: LISTENERS as the publisher counts them, HEARD is how long ago each was last announced.
    List(StreamList),
    /// Publish a file, standard input or a tone as a live stream.
    #[cfg(feature = "audio")]
    Publish(Publish),
    /// Listen to a stream.
    #[cfg(feature = "audio")]
    Listen(Listen),
}

#[derive(Args, Default)]
#[command(after_help = examples(&["p2pctl stream list --category news", "p2pctl stream list --watch"]))]
pub(crate) struct StreamList {
    /// Only this category.
    #[arg(long, default_value = "")]
    pub(crate) category: String,
    /// Go on with each change.
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[cfg(feature = "audio")]
#[derive(Args, Clone)]
#[command(after_help = examples(&[
    "p2pctl stream publish town-radio show.flac --name \"Town radio\" --category news",
    "arecord -q -f S16_LE -r 48000 | p2pctl stream publish mic -",
    "p2pctl stream publish test --tone 440",
]))]
pub(crate) struct Publish {
    /// Id of the stream: 1 to 128 characters, printable, without spaces, / or @.
    pub(crate) id: String,
    /// WAV, FLAC, MP3, Vorbis, AAC/M4A or Ogg/Opus, a file or a pipe; - for standard input; card, or card:NAME, to record.
    #[arg(required_unless_present = "tone")]
    pub(crate) source: Option<String>,
    /// A sine of so many Hz instead of a file.
    #[arg(long, conflicts_with = "source", value_parser = hertz)]
    pub(crate) tone: Option<f32>,
    /// Name for people.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) name: String,
    /// Category.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) category: String,
    /// Title of what is played.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) title: Option<String>,
    /// Take the title from the first line of this file, whenever it changes.
    #[arg(long, conflicts_with = "title")]
    pub(crate) title_file: Option<PathBuf>,
    /// Begin again at the end of the file.
    #[arg(long = "loop")]
    pub(crate) repeat: bool,
    /// Bits per second, as in 64000; for Ogg/Opus files the file decides.
    #[arg(long, value_parser = whole(6_000..=510_000u32))]
    pub(crate) bitrate: Option<u32>,
    /// Send groups of 40 ms instead of 100 ms.
    #[arg(long)]
    pub(crate) low_latency: bool,
    /// Format on the wire; json is what older JavaScript peers hear.
    #[arg(long, value_enum, default_value = "native")]
    pub(crate) wire: WireArg,
    /// Samples per second, of raw samples.
    #[arg(long, default_value_t = 48_000, value_parser = whole(0..=u32::MAX))]
    pub(crate) rate: u32,
    /// Channels of raw samples or of the card.
    #[arg(long, default_value_t = 1, value_parser = whole(0..=u32::MAX))]
    pub(crate) channels: u32,
    /// What the source holds.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) format: SampleArg,
    /// End after this time.
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// When the daemon goes away, wait for it to come back and go on; what is recorded meanwhile is lost.
    #[arg(long)]
    pub(crate) stay: bool,
}

/// Format on the wire.
#[cfg(feature = "audio")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WireArg {
    /// Signed groups.
    Native,
    /// JSON.
    Json,
}

/// What a source holds.
#[cfg(feature = "audio")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SampleArg {
    /// Encoded sound, known by its bytes.
    Auto,
    /// Raw samples of 16 bits, signed, little-endian.
    S16,
    /// Raw samples of 32 bits, float, little-endian.
    F32,
}

/// With `-o FILE`: .opus takes the exact packets, .wav the sound; until it is whole it is FILE.partial, which plays.
/// Without, or with `-o -`, 16 bit samples at 48 kHz go to standard output, or to the sound card where that is a terminal.
/// `-o card:NAME` takes a card as `aplay -L` names it. With `-o json` the sound goes nowhere, and the numbers to standard
/// output at the end.
#[cfg(feature = "audio")]
#[derive(Args)]
#[command(after_help = examples(&[
    "p2pctl stream listen town-radio",
    "p2pctl stream listen town-radio -o town.opus --duration 1h",
    "p2pctl stream listen town-radio | aplay -q -f S16_LE -r 48000",
]))]
pub(crate) struct Listen {
    /// Stream, or stream@publisher where two use one id.
    pub(crate) stream: String,
    /// End after so much sound.
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Most that playing may lag behind.
    #[arg(long, value_parser = duration, default_value = "2s")]
    pub(crate) latency: Duration,
    /// How long to wait for the stream to appear.
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub(crate) wait: Duration,
    /// Write a stream in JSON as it comes, undecoded.
    #[arg(long)]
    pub(crate) raw: bool,
    /// When the publisher ends or is lost, wait for it to come back, into the same file.
    #[arg(long)]
    pub(crate) stay: bool,
    /// Print numbers each second.
    #[arg(long)]
    pub(crate) stats: bool,
}
