//! What systemd hears: ready, stopping, and a watchdog that is fed only after swarm, store and API have all answered.

use std::{path::PathBuf, time::Duration};

use p2pd_api::v1::{GetStatisticsRequest, node_service_client::NodeServiceClient};
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Tells systemd, where there is one; its absence is normal.
pub(crate) fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

/// Feeds the watchdog until `stop`, if systemd asked for it.
pub(crate) async fn watchdog(node: Node, socket: PathBuf, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match tokio::time::timeout(limit / 3, probe(&node, &socket)).await {
            Ok(Ok(())) => notify(NotifyState::Watchdog),
            Ok(Err(error)) => tracing::error!(%error, "watchdog not fed"),
            Err(_) => tracing::error!("watchdog not fed: a part did not answer in time"),
        }
    }
}

async fn probe(node: &Node, socket: &std::path::Path) -> anyhow::Result<()> {
    node.probe_store().await?;
    let channel = p2pd_api::connect(socket).await?;
    // This call asks the swarm task too.
    NodeServiceClient::new(channel).get_statistics(GetStatisticsRequest {}).await?;
    Ok(())
}
