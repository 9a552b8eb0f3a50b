//! Tunnels of the configuration: local addresses joined with protocols of peers, for as long as the daemon runs.

use std::{sync::Arc, time::Duration};

use p2pd_api::local::{self, LocalListener, LocalStream};
use p2pd_core::id::PeerId;
use p2pd_net::ByteStream;
use tokio::sync::Semaphore;

use super::{ANYBODY, Arrived, Claim, Expose, Forward, Streams, StreamsError, Tunnels};
use crate::lock;

/// Connections through one tunnel; what comes beyond is closed.
const MAX_CONNECTIONS: usize = 256;
/// How long after one that was not accepted, as for want of file descriptors, the next is looked for.
const AGAIN: Duration = Duration::from_millis(100);
/// How long after a failure a tunnel is set up again.
const RETRY: Duration = Duration::from_secs(5);

/// Why a tunnel does not stand.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error(transparent)]
    Local(#[from] std::io::Error),
    #[error(transparent)]
    Streams(#[from] StreamsError),
}

enum Tunnel {
    Forward(Forward),
    Expose(Expose),
}

impl Streams {
    /// Keeps the tunnels up.
    pub fn keep_tunnels(&self, tunnels: Tunnels) {
        let forward = tunnels.forward.into_iter().map(Tunnel::Forward);
        for tunnel in forward.chain(tunnels.expose.into_iter().map(Tunnel::Expose)) {
            self.0.with.tasks.until_stop(self.clone().keep_up(tunnel));
        }
    }

    /// Sets a tunnel up again when it fails; says so once for each kind of failure.
    async fn keep_up(self, tunnel: Tunnel) {
        let mut said = String::new();
        loop {
            let (name, ended) = match &tunnel {
                Tunnel::Forward(forward) => (&forward.listen, self.forward(forward).await),
                Tunnel::Expose(expose) => (&expose.protocol, self.expose(expose).await),
            };
            let Err(error) = ended else { return };
            let fault = format!("{error:#}");
            if said != fault {
                tracing::warn!(error = fault, tunnel = name, "a tunnel does not stand; trying again");
                said.clone_from(&fault);
            }
            lock(&self.0.fallen).insert(name.clone(), fault);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Carries bytes both ways until both sides are closed. A local connection breaks where the stream does, or the daemon
    /// stops.
    async fn join(&self, mut here: LocalStream, mut there: ByteStream) {
        let whole = tokio::io::copy_bidirectional(&mut here, &mut there);
        if !matches!(self.0.with.tasks.stopping().run_until_cancelled(whole).await, Some(Ok(_))) {
            local::reset(here);
        }
    }

    fn stands(&self, name: &str) {
        lock(&self.0.fallen).remove(name);
    }

    /// The tunnels that do not stand, and why.
    pub fn fallen(&self) -> Vec<(String, String)> {
        lock(&self.0.fallen).clone().into_iter().collect()
    }

    /// Joins each connection to a local address with a new stream to the peer.
    async fn forward(&self, tunnel: &Forward) -> Result<(), TunnelError> {
        let listener = LocalListener::bind(&tunnel.listen).await?;
        self.stands(&tunnel.listen);
        tracing::info!(at = listener.place()?, tunnel.protocol, "a tunnel stands");
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let here = match listener.accept().await {
                Ok(here) => here,
                Err(error) => {
                    tracing::warn!(%error, tunnel.listen, "a connection was not accepted");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            let Ok(room) = room.clone().try_acquire_owned() else { continue };
            let (owner, tunnel) = (self.clone(), tunnel.clone());
            self.0.with.tasks.before_the_end(async move {
                let _room = room;
                match owner.0.with.tasks.stopping().run_until_cancelled(owner.reach(&tunnel)).await {
                    Some(Ok(there)) => return owner.join(here, there).await,
                    Some(Err(error)) => tracing::warn!(%error, tunnel.listen, "a connection leads nowhere"),
                    None => {}
                }
                local::reset(here);
            });
        }
    }

    async fn reach(&self, tunnel: &Forward) -> Result<ByteStream, StreamsError> {
        let protocols = [tunnel.protocol.clone()];
        let Ok((there, _)) = p2pd_net::peer_address(&tunnel.peer) else {
            return Ok(self.open_stream(&tunnel.peer.parse()?, &protocols).await?.stream);
        };
        if !self.0.with.net.peers.is_connected(&there).await? {
            self.0.with.peers.connect(&tunnel.peer).await?;
        }
        Ok(self.open_stream(&there, &protocols).await?.stream)
    }

    /// Joins each stream that an allowed peer opens with a new connection to a local address.
    async fn expose(&self, tunnel: &Expose) -> Result<(), TunnelError> {
        let claim = Claim { protocol: tunnel.protocol.clone(), share: false, lease: None };
        let mut handler = self.handle_protocol(claim).await?;
        self.stands(&tunnel.protocol);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let allowed = |peer: &PeerId| tunnel.allow.iter().any(|a| a == ANYBODY || *a == peer.to_string());
        while let Some(Arrived { number, peer, .. }) = handler.next().await {
            let Ok(there) = self.take_stream(number).map(|waiting| waiting.stream) else { continue };
            // Dropping the stream resets it.
            let Ok(room) = room.clone().try_acquire_owned() else { continue };
            if !allowed(&peer) {
                tracing::warn!(%peer, tunnel.protocol, "a peer that tunnels.expose does not allow was turned away");
                continue;
            }
            let (owner, target) = (self.clone(), tunnel.target.clone());
            self.0.with.tasks.before_the_end(async move {
                let _room = room;
                match owner.0.with.tasks.stopping().run_until_cancelled(local::connect(&target)).await {
                    Some(Ok(here)) => owner.join(here, there).await,
                    Some(Err(error)) => tracing::warn!(%error, target, "a tunnel's end does not answer"),
                    None => {}
                }
            });
        }
        Ok(())
    }
}
