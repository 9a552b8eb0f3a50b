//! When this machine's addresses change: connections over one that is lost look alive for a minute, so peers are asked for a round trip at
//! once.

use std::time::Duration;

use futures::future::join_all;
use p2pd_core::time::MonoMs;
use p2pd_net::PeerInfo;
use tokio::time::timeout;

use super::Peers;
use crate::lock;

/// How long a peer may take to answer.
const ANSWER: Duration = Duration::from_secs(8);
/// Least time between two rounds, in milliseconds; an address that comes and goes must not have all peers asked each second.
const ROUND_MS: u64 = 10_000;

/// What is to be done yet.
#[derive(Default)]
pub(super) struct Moved {
    /// An address was lost, and peers were not asked since.
    ask: bool,
    asked: Option<MonoMs>,
}

impl Peers {
    /// An own address was lost.
    pub(super) fn note_lost_address(&self) {
        lock(&self.0.moved).ask = true;
    }

    /// Asks all peers when an address was lost, at most each ten seconds.
    pub(super) fn on_moved(&self) {
        let now = self.0.with.clock.now();
        let asks = {
            let mut moved = lock(&self.0.moved);
            let due = moved.ask && moved.asked.is_none_or(|asked| now.since(asked) >= ROUND_MS);
            if due {
                (moved.ask, moved.asked) = (false, Some(now));
            }
            due
        };
        if asks {
            let owner = self.clone();
            self.0.with.tasks.until_stop(async move { owner.ask_everyone().await });
        }
    }

    /// Hangs up on those who neither answer nor have sent anything meanwhile, so that they are dialled over what there is now. Those with
    /// which a program talks are left to it and to the pings.
    async fn ask_everyone(&self) {
        let Ok(mut peers) = self.list().await else { return };
        peers.retain(|info| !info.kept.contains(&"stream"));
        let silent = join_all(peers.iter().map(async |before| {
            let late = timeout(ANSWER, self.answer_over_what_stands(&before.peer)).await.is_err();
            let moved = |info: &PeerInfo| received(info) != received(before);
            late && self.get(&before.peer).await.is_ok_and(|now| !moved(&now))
        }));
        for (info, silent) in peers.iter().zip(silent.await) {
            if silent {
                tracing::info!(peer = %info.peer, "it does not answer since this machine's addresses changed; connecting anew");
                let _ = self.0.with.net.peers.renew(&info.peer).await;
            }
        }
    }
}

fn received(info: &PeerInfo) -> u64 {
    info.connections.iter().map(|connection| connection.traffic.received).fold(0, u64::saturating_add)
}
