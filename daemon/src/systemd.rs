//! What systemd hears: ready, stopping, and a watchdog that is fed only after swarm and API have both answered. Not the store: a disk that
//! fails is told by `observe/storage.rs`, and a restart would end what is live and mend nothing.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use p2pd_api::v1::{GetStatisticsRequest, node_service_client::NodeServiceClient};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Tells systemd, where there is one; its absence is normal.
pub(crate) fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

/// Whether the watchdog looks just now: its connections need no place among those of callers, who may have taken all.
#[derive(Clone, Default)]
pub(crate) struct Probe(Arc<AtomicBool>);

impl Probe {
    /// Whether a connection of this process is the watchdog's.
    pub(crate) fn is_from(&self, pid: Option<i32>) -> bool {
        let own = pid.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id());
        own && self.0.load(Ordering::Acquire)
    }
}

/// Feeds the watchdog until `stop`, if systemd asked for it.
pub(crate) async fn watchdog(socket: PathBuf, door: Probe, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        door.0.store(true, Ordering::Release);
        let probed = tokio::time::timeout(limit / 3, probe(&socket)).await;
        door.0.store(false, Ordering::Release);
        match probed {
            Ok(Ok(())) => notify(NotifyState::Watchdog),
            Ok(Err(error)) => tracing::error!(%error, "watchdog not fed"),
            Err(_) => tracing::error!("watchdog not fed: a part did not answer in time"),
        }
    }
}

async fn probe(socket: &std::path::Path) -> anyhow::Result<()> {
    let channel = p2pd_api::connect(socket).await?;
    // This call asks the swarm task too.
    NodeServiceClient::new(channel).get_statistics(GetStatisticsRequest {}).await?;
    Ok(())
}
