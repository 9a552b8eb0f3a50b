//! File descriptors: each connection, stream of a tunnel and file takes one, and without any left nobody is let in, not even those who
//! would see why.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use p2pd_node::events::Events;

/// How often they are counted.
const LOOK: Duration = Duration::from_secs(5);
/// More than the daemon's own bounds add up to; beyond, a process only keeps longer lists.
const ENOUGH: u64 = 65_536;

/// How many are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse {
    pub(crate) used: u64,
    pub(crate) most: u64,
}

impl InUse {
    /// Whether few are left: a tenth, and a little more once that was told, so that it is not told again and again.
    fn are_short(self, told: bool) -> bool {
        let left = self.most.saturating_sub(self.used);
        left < self.most / if told { 7 } else { 10 }
    }

    /// How many there are now.
    pub(super) fn count() -> Option<Self> {
        let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        let used = match fs::read_dir("/proc/self/fd") {
            // One of them is for looking.
            Ok(open) => u64::try_from(open.count()).unwrap_or(u64::MAX).saturating_sub(1),
            Err(error) if is_full(&error) => most,
            Err(_) => return None,
        };
        Some(InUse { used, most })
    }
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMFILE as i32)
}

/// Takes as many as the system allows: the usual soft limit of 1,024 is for programs that use `select`.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(ENOUGH)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard)
    {
        tracing::debug!(%error, "the limit of file descriptors stays as it was");
    }
}

/// Counts them.
#[derive(Clone)]
pub(crate) struct Descriptors {
    events: Events,
    /// How many are in use, while few are left.
    short: Arc<Mutex<Option<InUse>>>,
}

impl Descriptors {
    pub(crate) fn new(events: Events) -> Self {
        Descriptors { events, short: Arc::default() }
    }

    /// How many are in use, where few are left.
    pub(crate) fn short(&self) -> Option<InUse> {
        *self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts them until the daemon ends.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            let before = self.short();
            // On a thread for what blocks: with tens of thousands the walk takes tens of milliseconds, and this task carries sound, too.
            let now = tokio::task::spawn_blocking(InUse::count).await.ok().flatten();
            let now = now.filter(|now| now.are_short(before.is_some()));
            *self.short.lock().unwrap_or_else(PoisonError::into_inner) = now;
            match (before, now) {
                (None, Some(InUse { used, most })) => {
                    tracing::warn!(used, most, "few file descriptors are left");
                    self.events.happened("descriptors-short", &format!("{used} of {most} are in use"));
                }
                (Some(_), None) => {
                    tracing::info!("there are enough file descriptors again");
                    self.events.happened("descriptors-enough", "");
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_short_and_a_seventh_is_enough_again() {
        let used = |used| InUse { used, most: 1_000 };
        assert_eq!([800, 870, 901].map(|n| used(n).are_short(false)), [false, false, true]);
        assert_eq!([800, 870, 901].map(|n| used(n).are_short(true)), [false, true, true]);
        assert!(InUse::count().is_some_and(|now| now.used > 2 && now.used < now.most));
    }
}
