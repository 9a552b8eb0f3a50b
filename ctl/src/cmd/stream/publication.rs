//! The state of a publication over several calls: its packets, its title, and its numbers for the progress line.

use std::{
    collections::VecDeque,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use p2pd_api::v1::StreamConfig;
use p2pd_audio::ticks;

use super::source::{Feed, Packet, Packets};
use crate::{cli::Publish, output};

/// How often the file with the title is looked at.
const TITLE_EVERY: Duration = Duration::from_secs(1);

/// A publication, which may go on in another call.
pub(super) struct Publication {
    pub(super) config: StreamConfig,
    packets: Packets,
    pub(super) chunked: bool,
    pub(super) titles: Titles,
    pub(super) sent: Arc<Sent>,
    /// How much has been sent, in 48 kHz ticks.
    pub(super) media: u64,
    /// How many damaged places of the source were left out so far.
    pub(super) damaged: Arc<AtomicU64>,
    /// Whether the source is live, as a microphone is; `None` while that of a pipe is not known.
    live: Option<bool>,
    /// What came while the daemon was away.
    waiting: VecDeque<anyhow::Result<Packet>>,
}

/// A source that gets so far ahead of real time, in 48 kHz ticks, is not live: a full pipe holds less. A source that does
/// not within this time is live.
const AHEAD: u64 = 48_000;
const LOOK: Duration = Duration::from_secs(1);

impl Publication {
    pub(super) fn new(feed: Feed, flags: &Publish) -> Self {
        let Feed { config, packets, chunked, again, damaged } = feed;
        let titles = Titles { given: flags.title.clone(), file: flags.title_file.clone(), ..Titles::default() };
        let (sent, live) = (Arc::default(), again.then_some(false));
        Publication { config, packets, chunked, titles, sent, media: 0, damaged, live, waiting: VecDeque::new() }
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Packet>> {
        match self.waiting.pop_front() {
            Some(packet) => packet.map(Some),
            None => self.packets.recv().await.transpose(),
        }
    }

    /// While the daemon is away: drops the packets of a live source, and lets any other source wait. Decides once whether
    /// the source is live.
    pub(super) async fn pass(&mut self) -> Infallible {
        let began = Instant::now();
        let mut read = 0u64;
        while self.live != Some(false)
            && let Some(packet) = self.packets.recv().await
        {
            read = read.saturating_add(packet.as_ref().map_or(0, |packet| packet.ticks));
            if self.live.is_none() {
                let elapsed = began.elapsed();
                let ahead = read.saturating_sub(ticks::from_duration(elapsed));
                self.live = if ahead >= AHEAD { Some(false) } else { (elapsed >= LOOK).then_some(true) };
            }
            match packet {
                Ok(_) if self.live == Some(true) => self.waiting.clear(),
                packet => self.waiting.push_back(packet),
            }
        }
        std::future::pending().await
    }
}

/// What was sent so far, for the progress line.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) media_us: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Peak of the last packet, in thousandths.
    pub(super) peak: AtomicU64,
}

/// The title of the flag, or of the file that is looked at again and again.
#[derive(Default)]
pub(super) struct Titles {
    given: Option<String>,
    file: Option<PathBuf>,
    last: String,
    looked: Option<Duration>,
}

impl Titles {
    /// Has the current title sent again.
    pub(super) fn again(&mut self) {
        if !self.last.is_empty() {
            self.given.get_or_insert_with(|| self.last.clone());
        }
    }

    /// The title, if it is new.
    pub(super) async fn changed(&mut self, now: Duration) -> Option<String> {
        if let Some(file) = &self.file
            && self.looked.is_none_or(|at| now.saturating_sub(at) >= TITLE_EVERY)
        {
            let text = tokio::fs::read_to_string(file).await;
            // Later the file may be missing for a moment while its owner replaces it.
            if let (None, Err(error)) = (self.looked, &text) {
                output::say(format_args!("no title yet, looking again each second: {}: {error}", file.display()));
            }
            self.looked = Some(now);
            let text = text.unwrap_or_default();
            let line = text.lines().next().unwrap_or_default().trim();
            if !line.is_empty() && line != self.last {
                self.last = line.to_owned();
                self.given = Some(self.last.clone());
            }
        }
        let title = self.given.take()?;
        self.last.clone_from(&title);
        Some(title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use tokio::sync::mpsc;

    /// Milliseconds of sound that are left of a source which gives 100 ms each `every`, after a second and a half without
    /// a daemon.
    async fn left(again: bool, every: Duration) -> u64 {
        let (sender, packets) = mpsc::channel(4);
        let Command::PublishStream(flags) = Cli::parse_from(["p2pctl", "publish-stream", "x", "-"]).command else {
            unreachable!();
        };
        let feed = Feed { config: StreamConfig::default(), packets, chunked: false, again, damaged: Arc::default() };
        let mut publication = Publication::new(feed, &flags);
        let mut tick = tokio::time::interval(every);
        let giving = tokio::spawn(async move {
            for n in 0..100 {
                tick.tick().await;
                sender.send(Ok(Packet { data: vec![n], ticks: 4_800, level: 0.0 })).await.unwrap();
            }
        });
        let _ = tokio::time::timeout(Duration::from_millis(1_500), publication.pass()).await;
        let first = publication.next().await.unwrap().unwrap();
        giving.abort();
        (100 - u64::from(first.data[0])) * 100
    }

    #[tokio::test]
    async fn a_file_waits_however_slowly_it_is_decoded_and_a_live_source_passes() {
        let (slow, live, fast) = tokio::join!(
            left(true, Duration::from_millis(100)),
            left(false, Duration::from_millis(100)),
            left(false, Duration::from_millis(40)),
        );
        assert_eq!((slow, fast), (10_000, 10_000), "nothing of a file is lost, nor of a pipe that runs ahead");
        assert!(live < 9_000, "{live} ms are left");
    }
}
