//! `PeerService`.

use std::time::Duration;

use p2pd_api::v1::{
    ClosedConnection, ConnectRequest, ConnectResponse, DisconnectRequest, DisconnectResponse, GetPeerRequest,
    GetPeerResponse, ListClosedConnectionsRequest, ListClosedConnectionsResponse, ListPeersRequest, ListPeersResponse,
    ListPinsRequest, ListPinsResponse, ListRulesRequest, ListRulesResponse, Peer, Pin, PinPeerRequest, PinPeerResponse,
    PingPeerRequest, PingPeerResponse, RemoveRuleRequest, RemoveRuleResponse, Rule, SetRuleRequest, SetRuleResponse,
    UnpinPeerRequest, UnpinPeerResponse, Verdict, WatchPeersRequest, WatchPeersResponse,
    peer_service_server::PeerService, watch_peers_response::Event,
};
use p2pd_core::{connection_rules::Subject, id::PeerId, pins};
use p2pd_live::Live;
use p2pd_net::{Closed, PeerInfo};
use p2pd_node::{peers::Peers, tasks::Tasks};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    reply::{self, Replies},
    status,
};

#[derive(Clone)]
pub(super) struct Service {
    pub(super) peers: Peers,
    /// Knows what clocks peers have.
    pub(super) live: Live,
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
}

impl Service {
    fn shown(&self, peer: PeerInfo) -> Peer {
        let (tags, clock) = (self.peers.tags(&peer.peer), self.live.clock_of(&peer.peer));
        convert::peer(peer, tags, clock)
    }
}

fn event(event: Event) -> WatchPeersResponse {
    WatchPeersResponse { event: Some(event) }
}

#[tonic::async_trait]
impl PeerService for Service {
    async fn list_peers(&self, _: Request<ListPeersRequest>) -> Result<Response<ListPeersResponse>, Status> {
        let peers = self.peers.list().await.map_err(status::of)?;
        Ok(Response::new(ListPeersResponse { peers: peers.into_iter().map(|peer| self.shown(peer)).collect() }))
    }

    async fn get_peer(&self, request: Request<GetPeerRequest>) -> Result<Response<GetPeerResponse>, Status> {
        let id = convert::peer_id(&request.into_inner().peer_id)?;
        let peer = self.peers.get(&id).await.map_err(status::of)?;
        Ok(Response::new(GetPeerResponse { peer: Some(self.shown(peer)) }))
    }

    type WatchPeersStream = Replies<WatchPeersResponse>;

    async fn watch_peers(&self, _: Request<WatchPeersRequest>) -> Result<Response<Self::WatchPeersStream>, Status> {
        let service = self.clone();
        // Registered before the snapshot is read, so that no change falls between; one told twice does no harm.
        let mut changed = service.peers.watch();
        let snapshot = service.peers.list().await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            for peer in snapshot {
                out.send(event(Event::Present(service.shown(peer)))).await?;
            }
            out.send(event(Event::SnapshotDone(true))).await?;
            loop {
                let Ok(Some(id)) = changed.recv().await else { return out.fail(status::lagged()).await };
                let now = match service.peers.get(&id).await {
                    Ok(peer) => Event::Present(service.shown(peer)),
                    Err(_) => Event::Gone(id.to_string()),
                };
                out.send(event(now)).await?;
            }
        })))
    }

    async fn connect(&self, request: Request<ConnectRequest>) -> Result<Response<ConnectResponse>, Status> {
        let address = request.into_inner().address;
        let peer = reply::unless_stopped(&self.stop, self.peers.connect(&address)).await?;
        Ok(Response::new(ConnectResponse { peer_id: peer.to_string() }))
    }

    type PingPeerStream = Replies<PingPeerResponse>;

    async fn ping_peer(&self, request: Request<PingPeerRequest>) -> Result<Response<Self::PingPeerStream>, Status> {
        let PingPeerRequest { peer_id, count, interval_ms } = request.into_inner();
        let id = convert::peer_id(&peer_id)?;
        if count > 1000 {
            return Err(status::field("count", "takes at most 1000"));
        }
        if interval_ms != 0 && !(10..=60_000).contains(&interval_ms) {
            return Err(status::field("interval_ms", "takes 10 to 60000, or 0 for 1000"));
        }
        let interval = Duration::from_millis(if interval_ms == 0 { 1000 } else { interval_ms.into() });
        let peers = self.peers.clone();
        let mut tick = tokio::time::interval(interval);
        tick.tick().await;
        // Whoever cannot be pinged at all is told before anything else.
        let mut taken = peers.ping(&id).await;
        if let Err(error) = taken {
            return Err(status::of(error));
        }
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            for left in (0..count.max(1)).rev() {
                match taken {
                    Ok(rtt) => {
                        let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
                        out.send(PingPeerResponse { rtt_us }).await?;
                    }
                    Err(error) => return out.fail(status::of(error)).await,
                }
                if left == 0 {
                    break;
                }
                tick.tick().await;
                taken = peers.ping(&id).await;
            }
            Ok(())
        })))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Result<Response<DisconnectResponse>, Status> {
        let id = convert::peer_id(&request.into_inner().peer_id)?;
        self.peers.disconnect(&id).await.map_err(status::of)?;
        Ok(Response::new(DisconnectResponse {}))
    }

    async fn pin_peer(&self, request: Request<PinPeerRequest>) -> Result<Response<PinPeerResponse>, Status> {
        let PinPeerRequest { peer, tags, passive } = request.into_inner();
        let peers = self.peers.clone();
        let pinning = self.tasks.whole(async move { peers.pin(&peer, tags, passive).await });
        let pinned = status::whole(pinning.await)?;
        Ok(Response::new(PinPeerResponse { peer_id: pinned.to_string() }))
    }

    async fn unpin_peer(&self, request: Request<UnpinPeerRequest>) -> Result<Response<UnpinPeerResponse>, Status> {
        let UnpinPeerRequest { peer_id, tags } = request.into_inner();
        let peer = convert::peer_id(&peer_id)?;
        let peers = self.peers.clone();
        let unpinning = self.tasks.whole(async move { peers.unpin(&peer, &tags).await });
        let pinned = status::whole(unpinning.await)?;
        Ok(Response::new(UnpinPeerResponse { pinned }))
    }

    async fn list_pins(&self, _: Request<ListPinsRequest>) -> Result<Response<ListPinsResponse>, Status> {
        let connected = self.peers.connected().await.map_err(status::of)?;
        let pin = |(peer, pin): (PeerId, pins::Pin)| Pin {
            connected: connected.contains(&peer),
            peer_id: peer.to_string(),
            addresses: convert::texts(&pin.addresses),
            tags: pin.tags,
            passive: pin.passive,
        };
        Ok(Response::new(ListPinsResponse { pins: self.peers.pins().0.into_iter().map(pin).collect() }))
    }

    async fn list_closed_connections(
        &self,
        _: Request<ListClosedConnectionsRequest>,
    ) -> Result<Response<ListClosedConnectionsResponse>, Status> {
        let closed = |c: Closed| ClosedConnection {
            peer_id: c.peer.map_or_else(String::new, |peer| peer.to_string()),
            connection: Some(convert::connection(c.connection)),
            closed_ms: c.closed.0,
            why: c.why,
        };
        let connections = self.peers.closed().await.map_err(status::of)?.into_iter().map(closed).collect();
        Ok(Response::new(ListClosedConnectionsResponse { connections }))
    }

    async fn list_rules(&self, _: Request<ListRulesRequest>) -> Result<Response<ListRulesResponse>, Status> {
        let rule = |(subject, allow): (Subject, bool)| Rule {
            subject: subject.to_string(),
            verdict: if allow { Verdict::Allow } else { Verdict::Deny }.into(),
        };
        Ok(Response::new(ListRulesResponse { rules: self.peers.rules().into_iter().map(rule).collect() }))
    }

    async fn set_rule(&self, request: Request<SetRuleRequest>) -> Result<Response<SetRuleResponse>, Status> {
        let rule = request.into_inner().rule.ok_or_else(|| status::field("rule", "is missing"))?;
        let allow = match rule.verdict() {
            Verdict::Allow => true,
            Verdict::Deny => false,
            Verdict::Unspecified => return Err(status::field("rule.verdict", "takes allow or deny")),
        };
        let peers = self.peers.clone();
        let ruling = self.tasks.whole(async move { peers.rule(&rule.subject, allow).await });
        status::whole(ruling.await)?;
        Ok(Response::new(SetRuleResponse {}))
    }

    async fn remove_rule(&self, request: Request<RemoveRuleRequest>) -> Result<Response<RemoveRuleResponse>, Status> {
        let subject = request.into_inner().subject;
        let peers = self.peers.clone();
        status::whole(self.tasks.whole(async move { peers.unrule(&subject).await }).await)?;
        Ok(Response::new(RemoveRuleResponse {}))
    }
}
