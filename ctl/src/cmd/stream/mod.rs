//! `stream`: lists, publishes and plays live streams. Everything but the list needs the feature `audio`.

mod list;

#[cfg(feature = "audio")]
mod json_audio;
#[cfg(feature = "audio")]
mod lines;
#[cfg(feature = "audio")]
mod listen;
#[cfg(feature = "audio")]
mod outbox;
#[cfg(feature = "audio")]
mod playback;
#[cfg(feature = "audio")]
mod publication;
#[cfg(feature = "audio")]
mod publish;
#[cfg(feature = "audio")]
mod recording;
#[cfg(feature = "audio")]
mod sink;
#[cfg(feature = "soundcard")]
mod sound_card;
#[cfg(all(feature = "audio", not(feature = "soundcard")))]
#[path = "sound_programs.rs"]
mod sound_card;
#[cfg(feature = "audio")]
mod source;
#[cfg(feature = "audio")]
mod titles;
#[cfg(feature = "audio")]
mod wall_clock;

use super::context::Context;
use crate::cli::StreamAction;

/// Runs a command about streams. `output` is the value of `-o`, which for `listen` may name a file.
#[cfg_attr(not(feature = "audio"), allow(unused_variables))]
pub(super) async fn run(context: &Context, action: StreamAction, output: String) -> anyhow::Result<()> {
    match action {
        StreamAction::List(flags) => list::run(context, flags).await,
        #[cfg(feature = "audio")]
        StreamAction::Publish(flags) => publish::run(context, flags).await,
        #[cfg(feature = "audio")]
        StreamAction::Listen(flags) => listen::run(context, flags, output).await,
    }
}
