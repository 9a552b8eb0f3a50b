//! `DhtService`.

use std::time::Duration;

use futures::StreamExt;
use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindPeerResponse, FindProvidersRequest,
    FindProvidersResponse, GetValueRequest, GetValueResponse, ProvideRequest, ProvideResponse, PutValueRequest,
    PutValueResponse, StopProvidingRequest, StopProvidingResponse, dht_service_server::DhtService,
};
use p2pd_core::dht_value::ValueBody;
use p2pd_net::Found;
use p2pd_node::dht::Dht;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    reply::{self, Followed, Replies},
    status,
};

pub(super) struct Service {
    pub(super) dht: Dht,
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl DhtService for Service {
    type FindPeerStream = Followed<FindPeerResponse>;

    async fn find_peer(&self, request: Request<FindPeerRequest>) -> Result<Response<Self::FindPeerStream>, Status> {
        let id = convert::peer_id(&request.into_inner().peer_id)?;
        let found = self.dht.find_peer(&id).await.map_err(status::of)?;
        let found = found
            .map(|next| next.map(|found| FindPeerResponse { addresses: convert::texts(&found) }).map_err(status::of));
        Ok(Response::new(reply::follow(self.stop.clone(), found)))
    }

    type FindClosestPeersStream = Followed<FindClosestPeersResponse>;

    async fn find_closest_peers(
        &self,
        request: Request<FindClosestPeersRequest>,
    ) -> Result<Response<Self::FindClosestPeersStream>, Status> {
        let found = self.dht.closest_peers(&request.into_inner().key).await.map_err(status::of)?;
        let found = found.map(|Found { peer, addresses }| {
            Ok(FindClosestPeersResponse { peer_id: peer.to_string(), addresses: convert::texts(&addresses) })
        });
        Ok(Response::new(reply::follow(self.stop.clone(), found)))
    }

    async fn provide(&self, request: Request<ProvideRequest>) -> Result<Response<ProvideResponse>, Status> {
        reply::unless_stopped(&self.stop, self.dht.provide(&request.into_inner().key)).await?;
        Ok(Response::new(ProvideResponse {}))
    }

    async fn stop_providing(
        &self,
        request: Request<StopProvidingRequest>,
    ) -> Result<Response<StopProvidingResponse>, Status> {
        self.dht.stop_providing(&request.into_inner().key).await.map_err(status::of)?;
        Ok(Response::new(StopProvidingResponse {}))
    }

    async fn put_value(&self, request: Request<PutValueRequest>) -> Result<Response<PutValueResponse>, Status> {
        let PutValueRequest { name, data, ttl_s } = request.into_inner();
        let ttl = Duration::from_secs(if ttl_s == 0 { 86_400 } else { ttl_s.into() });
        let seq = self.dht.put_value(&name, data, ttl).await.map_err(status::of)?;
        Ok(Response::new(PutValueResponse { seq }))
    }

    type GetValueStream = Replies<GetValueResponse>;

    async fn get_value(&self, request: Request<GetValueRequest>) -> Result<Response<Self::GetValueStream>, Status> {
        let GetValueRequest { peer_id, name } = request.into_inner();
        let peer = if peer_id.is_empty() { None } else { Some(convert::peer_id(&peer_id)?) };
        let peer = peer.unwrap_or_else(|| self.dht.me().clone());
        let mut found = self.dht.values(&peer, &name).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            let mut none = true;
            while let Some(ValueBody { data, seq, expires_ms, .. }) = found.recv().await {
                none = false;
                out.send(GetValueResponse { data, seq, expires_ms }).await?;
            }
            if none {
                return out.fail(status::no_value(&name, &peer)).await;
            }
            Ok(())
        })))
    }

    type FindProvidersStream = Followed<FindProvidersResponse>;

    async fn find_providers(
        &self,
        request: Request<FindProvidersRequest>,
    ) -> Result<Response<Self::FindProvidersStream>, Status> {
        let found = self.dht.providers(&request.into_inner().key).await.map_err(status::of)?;
        let found = found.map(|Found { peer, addresses }| {
            Ok(FindProvidersResponse { peer_id: peer.to_string(), addresses: convert::texts(&addresses) })
        });
        Ok(Response::new(reply::follow(self.stop.clone(), found)))
    }
}
