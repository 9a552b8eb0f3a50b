//! What listening has in common in both formats of streams: play until the stream ends, then finish the output.

use std::fmt;

use p2pd_api::v1::{StreamEnded, SubscribeStreamResponse};
use tonic::Streaming;

use crate::{error::words, output::Format};

/// Plays a stream of one of the two formats.
pub(super) trait Playback {
    /// Whether it takes native streams, or those in JSON.
    const NATIVE: bool;
    /// Plays the stream until it ends. An error comes from the output.
    async fn follow(&mut self, replies: Streaming<SubscribeStreamResponse>) -> anyhow::Result<End>;
    /// Finishes the output and prints the summary.
    async fn close(self, ended: anyhow::Result<End>, format: Format) -> anyhow::Result<()>;
}

/// Why listening ended.
pub(super) enum End {
    Publisher(&'static str),
    Limit,
    Stopped,
    /// The daemon.
    Lost(anyhow::Error),
}

impl End {
    pub(super) fn of(end: &StreamEnded) -> Self {
        End::Publisher(if end.reason == "stale" { "stale" } else { "ended" })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Publisher("stale") => "the publisher is gone: nothing heard of it for two minutes",
            End::Publisher(_) => "the publisher has ended the stream",
            End::Limit => "the asked time is over",
            End::Stopped => "stopped",
            End::Lost(error) => return f.write_str(&words(error)),
        })
    }
}
