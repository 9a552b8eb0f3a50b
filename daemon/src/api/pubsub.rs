//! `PubSubService`.

use p2pd_api::v1::{
    Gap, ListTopicPeersRequest, ListTopicPeersResponse, ListTopicsRequest, ListTopicsResponse, PublishRequest,
    PublishResponse, SubscribeRequest, SubscribeResponse, TopicMessage, pub_sub_service_server::PubSubService,
    subscribe_response::Event,
};
use p2pd_core::ring::Next;
use tonic::{Request, Response, Status};

use super::{
    Context,
    reply::{self, Replies},
    status,
};

pub(super) struct Service(pub(super) Context);

pub(super) fn gap(from: u64, to: u64) -> Gap {
    Gap { from, to, reason: "slow-reader".into() }
}

#[tonic::async_trait]
impl PubSubService for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let PublishRequest { topic, data } = request.into_inner();
        let peers = self.0.node.publish(&topic, data).await.map_err(status::of)?;
        Ok(Response::new(PublishResponse { peers: u32::try_from(peers).unwrap_or(u32::MAX) }))
    }

    type SubscribeStream = Replies<SubscribeResponse>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut reader = self.0.node.subscribe(&request.into_inner().topic).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.0.stop.clone(), async move |out| {
            out.send(SubscribeResponse { event: Some(Event::Subscribed(true)) }).await?;
            while let Some(next) = reader.next().await {
                let event = match next {
                    Next::Item(item) => Event::Message(TopicMessage {
                        sender: item.sender.to_string(),
                        data: item.data,
                        received_ms: item.received_ms,
                    }),
                    Next::Gap { from, to } => Event::Gap(gap(from, to)),
                };
                out.send(SubscribeResponse { event: Some(event) }).await?;
            }
            Ok(())
        })))
    }

    async fn list_topics(&self, _: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        Ok(Response::new(ListTopicsResponse { topics: self.0.node.topics().await.map_err(status::of)? }))
    }

    async fn list_topic_peers(
        &self,
        request: Request<ListTopicPeersRequest>,
    ) -> Result<Response<ListTopicPeersResponse>, Status> {
        let peers = self.0.node.topic_peers(&request.into_inner().topic).await.map_err(status::of)?;
        Ok(Response::new(ListTopicPeersResponse { peer_ids: peers.iter().map(ToString::to_string).collect() }))
    }
}
