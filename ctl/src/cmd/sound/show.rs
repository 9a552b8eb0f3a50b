//! What `publish-stream` publishes, wherever it has come to: its packets, its title, and its numbers for the progress line.

use std::{
    collections::VecDeque,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use p2pd_api::v1::StreamConfig;

use super::feed::{Feed, Packet, Packets};
use crate::{cli::PublishStream, output};

/// How often the file with the title is looked at.
const TITLE_EVERY: Duration = Duration::from_secs(1);

/// What is published, wherever it has come to.
pub(super) struct Show {
    pub(super) config: StreamConfig,
    packets: Packets,
    pub(super) sliced: bool,
    pub(super) titles: Titles,
    pub(super) meter: Meter,
    /// How much has been sent, in 48 kHz ticks.
    pub(super) media: u64,
    /// What came while the daemon was away.
    waiting: VecDeque<anyhow::Result<Packet>>,
}

/// What is read of a source while the daemon is away, in 48 kHz ticks. A file gives that at once; what is live, and at
/// most a pipe behind, does not in this time.
const LOOK: u64 = 2 * 48_000;
const AT_ONCE: Duration = Duration::from_millis(500);

impl Show {
    pub(super) fn new(feed: Feed, flags: &PublishStream) -> Self {
        let Feed { config, packets, sliced } = feed;
        let titles = Titles { given: flags.title.clone(), file: flags.title_file.clone(), ..Titles::default() };
        Show { config, packets, sliced, titles, meter: Meter::default(), media: 0, waiting: VecDeque::new() }
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Packet>> {
        match self.waiting.pop_front() {
            Some(packet) => packet.map(Some),
            None => self.packets.recv().await.transpose(),
        }
    }

    /// Lets a live source pass unheard; others wait.
    pub(super) async fn pass(&mut self) -> Infallible {
        let began = Instant::now();
        let mut ticks = 0;
        while let Some(packet) = self.packets.recv().await {
            ticks += packet.as_ref().map_or(0, |packet| packet.ticks);
            if began.elapsed() > AT_ONCE && packet.is_ok() {
                self.waiting.clear();
            } else {
                self.waiting.push_back(packet);
                if ticks >= LOOK {
                    break;
                }
            }
        }
        std::future::pending().await
    }
}

/// What sending tells the progress line.
#[derive(Clone, Default)]
pub(super) struct Meter(pub(super) Arc<Numbers>);

#[derive(Default)]
pub(super) struct Numbers {
    pub(super) media_us: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Peak of the last packet, in thousandths.
    pub(super) peak: AtomicU64,
}

/// The title as it was given, or as its file says now.
#[derive(Default)]
pub(super) struct Titles {
    given: Option<String>,
    file: Option<PathBuf>,
    last: String,
    looked: Option<Duration>,
}

impl Titles {
    /// To be told again.
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
            // Later it may be away for a moment while its owner writes it.
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
