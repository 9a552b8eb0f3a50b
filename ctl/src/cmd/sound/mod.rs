//! `publish-stream` and `listen`, the part of p2pctl that knows sound; feature `audio`.

#[cfg(feature = "soundcard")]
mod card;
#[cfg(not(feature = "soundcard"))]
#[path = "player.rs"]
mod card;
mod chunks;
mod feed;
mod lines;
mod listen;
mod outbox;
mod publication;
mod publish;
mod recording;
mod sink;
mod titles;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use p2pd_audio::ticks;

use super::{Context, peer_id};
use crate::cli::{Format, Listen, PublishStream};

pub(super) async fn publish(context: &Context, flags: PublishStream) -> anyhow::Result<()> {
    publish::run(context, flags).await
}

/// Listens; what is no format in `output` names a file for the sound.
pub(super) async fn listen(context: &Context, mut flags: Listen, output: String) -> anyhow::Result<()> {
    let file = Some(output).filter(|output| output != "-" && Format::from_str(output, true).is_err());
    flags.stream = peer_id::resolve_stream(context, &flags.stream).await?;
    listen::run(context, flags, file).await
}

/// Microseconds since 1970, by this machine's clock.
fn wall_us() -> u64 {
    ticks::duration_us(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
