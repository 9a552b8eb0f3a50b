//! `NodeService.WatchEvents`.

use std::time::Duration;

use p2pd_api::v1::{WatchEventsRequest, WatchEventsResponse};
use p2pd_node::{
    clock::wall,
    events::{Events, Happened, KINDS},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    reply::{self, Replies},
    status,
};

/// How long a watcher hears nothing at most, where it asks for that.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Most kinds of a request, and bytes of what a subject has to hold.
const MAX_KINDS: usize = 64;
const MAX_SUBJECT: usize = 1024;

/// Which events are wanted.
struct Wanted {
    kinds: Vec<String>,
    subject: String,
}

impl Wanted {
    fn new(kinds: Vec<String>, subject: String) -> Result<Self, Status> {
        if kinds.len() > MAX_KINDS {
            return Err(status::field("kinds", &format!("has {} entries, takes at most {MAX_KINDS}", kinds.len())));
        }
        if subject.len() > MAX_SUBJECT {
            return Err(status::field("subject", &format!("has {} bytes, takes at most {MAX_SUBJECT}", subject.len())));
        }
        let wanted = Wanted { kinds, subject };
        match wanted.kinds.iter().find(|wanted| !KINDS.iter().any(|kind| fits(wanted, kind))) {
            None => Ok(wanted),
            Some(unknown) => {
                let fault = format!(
                    "has `{unknown}`, which is no kind of event; there are {}; one that ends in - stands for all that begin so",
                    KINDS.join(", ")
                );
                Err(status::field("kinds", &fault))
            }
        }
    }

    fn has(&self, event: &Happened) -> bool {
        (self.kinds.is_empty() || self.kinds.iter().any(|wanted| fits(wanted, &event.kind)))
            && event.subject.contains(&self.subject)
    }
}

/// Whether a kind is the one that is wanted, or one of a family that ends in `-`.
fn fits(wanted: &str, kind: &str) -> bool {
    wanted == kind || (wanted.ends_with('-') && kind.starts_with(wanted))
}

pub(super) async fn watch(
    events: Events,
    stop: CancellationToken,
    request: WatchEventsRequest,
) -> Result<Replies<WatchEventsResponse>, Status> {
    let WatchEventsRequest { after, from_oldest, kinds, subject, heartbeat, past_only } = request;
    if from_oldest && after.is_some() {
        return Err(status::field("after", "must be unset where from_oldest is set"));
    }
    let wanted = Wanted::new(kinds, subject)?;
    let past = from_oldest || after.is_some();
    if past_only && !past {
        return Err(status::field("past_only", "takes from_oldest or after, from where on"));
    }
    let (kept, mut told) = events.watch(after, past).await.map_err(status::of)?;
    Ok(reply::stream(stop, async move |out| {
        let mut last = after;
        for happened in kept {
            last = Some(happened.cursor);
            if wanted.has(&happened) {
                out.send(event(happened)).await?;
            }
        }
        if past_only {
            return Ok(());
        }
        let mut silent = Instant::now() + HEARTBEAT;
        loop {
            tokio::select! {
                happened = told.recv() => match happened {
                    Ok(happened) if last.is_some_and(|n| happened.cursor <= n) || !wanted.has(&happened) => continue,
                    Ok(happened) => out.send(event(happened)).await?,
                    Err(_) => return out.fail(status::lagged()).await,
                },
                () = sleep_until(silent), if heartbeat => {
                    let cursor = events.newest();
                    // What came after that is told first.
                    if told.is_empty() {
                        let (time_ms, kind) = (wall().0, "heartbeat".into());
                        out.send(WatchEventsResponse { cursor, time_ms, kind, subject: String::new() }).await?;
                    }
                }
            }
            silent = Instant::now() + HEARTBEAT;
        }
    }))
}

fn event(e: Happened) -> WatchEventsResponse {
    WatchEventsResponse { cursor: e.cursor, time_ms: e.time_ms, kind: e.kind, subject: e.subject }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_subjects_choose() {
        let event =
            |kind: &str, subject: &str| Happened { cursor: 1, time_ms: 0, kind: kind.into(), subject: subject.into() };
        let has = |kinds: &[&str], subject: &str, event: &Happened| {
            Wanted::new(kinds.iter().map(|kind| (*kind).to_owned()).collect(), subject.into()).unwrap().has(event)
        };
        let connected = event("peer-connected", "12D3KooW");
        assert!(
            has(&[], "", &connected) && has(&["peer-connected"], "", &connected) && has(&["peer-"], "3Koo", &connected)
        );
        assert!(has(&["relay-lost", "peer-"], "", &connected));
        assert!(!has(&["peer-disconnected"], "", &connected) && !has(&["peer-"], "other", &connected));
        assert!(!has(&["relay-"], "", &connected));
        for bad in ["peer-conected", "peer", "-", ""] {
            assert!(Wanted::new(vec![bad.into()], String::new()).is_err(), "{bad}");
        }
        assert!(Wanted::new(vec!["peer-".into(); MAX_KINDS + 1], String::new()).is_err());
        assert!(Wanted::new(vec![], "x".repeat(MAX_SUBJECT + 1)).is_err());
    }
}
