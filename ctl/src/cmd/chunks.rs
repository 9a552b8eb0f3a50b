//! `listen` to a stream in the old format: slices of an encoded file, written as they come.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use p2pd_api::v1::{SubscribeStreamResponse, subscribe_stream_response::Event};
use tempfile::NamedTempFile;
use tonic::Streaming;

use super::sink;
use crate::{
    cli::Format,
    client,
    exit::{asked_to_stop, fail},
    output,
};

/// Where the slices go.
pub(super) enum Place {
    File(NamedTempFile, PathBuf),
    Stdout,
    /// Only the numbers are wanted.
    Nowhere,
}

impl Place {
    pub(super) fn of(path: Option<&Path>, format: Format) -> anyhow::Result<Self> {
        if format != Format::Table {
            return Ok(Place::Nowhere);
        }
        match path {
            Some(path)
                if path.extension().is_some_and(|e| e == "wav") || path.to_str().and_then(sink::card).is_some() =>
            {
                Err(fail(
                    2,
                    format!(
                        "-o {}: this stream is an encoded file in the old format; name a file to keep it in as it is, such as a.opus, or - for standard output",
                        path.display()
                    ),
                ))
            }
            Some(path) => Ok(Place::File(sink::beside(path)?, path.into())),
            None if io::stdout().is_terminal() => Err(fail(
                2,
                "this stream is an encoded file in the old format; name a file with -o, or pipe it into a player",
            )),
            None => Ok(Place::Stdout),
        }
    }

    fn write(&mut self, slice: &[u8]) -> io::Result<()> {
        match self {
            Place::File(file, _) => file.write_all(slice),
            Place::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(slice)?;
                out.flush()
            }
            Place::Nowhere => Ok(()),
        }
    }

    /// Puts the file in its place; after a failure under a name that says so.
    fn finish(self, failed: bool) -> anyhow::Result<()> {
        let Place::File(file, path) = self else { return Ok(()) };
        let path = if failed { path.with_added_extension("partial") } else { path };
        file.persist(&path).map_err(|e| fail(1, format!("cannot write {}: {}", path.display(), e.error)))?;
        output::say(format_args!("written to {}", path.display()));
        Ok(())
    }
}

pub(super) async fn run(
    mut replies: Streaming<SubscribeStreamResponse>,
    mut place: Place,
    limit: Option<Duration>,
) -> anyhow::Result<()> {
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let (mut bytes, mut lost) = (0, 0);
    let ended = loop {
        tokio::select! {
            reply = client::next(&mut replies) => match reply.map(|reply| reply.event) {
                Ok(Some(Event::Chunk(chunk))) => {
                    bytes += chunk.len();
                    place.write(&chunk)?;
                }
                Ok(Some(Event::Ended(_))) => break Ok("the publisher has ended the stream"),
                Ok(Some(Event::Gap(gap))) => {
                    lost += gap.to - gap.from + 1;
                    output::say(format_args!("p2pctl: slices {} to {} were lost: {}", gap.from, gap.to, gap.reason));
                }
                Ok(_) => {}
                Err(error) => break Err(error),
            },
            () = &mut over => break Ok("the asked time is over"),
            () = asked_to_stop() => break Ok("stopped"),
        }
    };
    if let Place::Nowhere = place {
        output::line(&serde_json::json!({ "bytes": bytes, "lost_to_slow_reading": lost }).to_string())?;
    }
    place.finish(ended.is_err())?;
    output::say(format_args!("received {bytes} bytes of an encoded file\n{}", ended?));
    Ok(())
}
