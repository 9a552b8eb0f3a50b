//! `dht`.

use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindProvidersRequest, ProvideRequest,
    StopProvidingRequest, dht_service_client::DhtServiceClient,
};

use super::Context;
use crate::{cli::DhtAction, output};

pub(super) async fn run(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    match action {
        DhtAction::FindPeer { peer } => {
            let found = context.client.answer(dht.find_peer(FindPeerRequest { peer_id: peer })).await?;
            output::message(context.format, "FindPeerResponse", &found, |f| f.addresses.join("\n"))
        }
        DhtAction::Closest { key } => {
            let request = FindClosestPeersRequest { key: key.into() };
            let found = context.client.answer(dht.find_closest_peers(request)).await?;
            let text = |next: &FindClosestPeersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            output::each(context.format, "FindClosestPeersResponse", found, text).await
        }
        DhtAction::Provide { key } => {
            let done = context.client.answer(dht.provide(ProvideRequest { key: key.clone().into() })).await?;
            output::message(context.format, "ProvideResponse", &done, |_| format!("provides {key}"))
        }
        DhtAction::Stop { key } => {
            let request = StopProvidingRequest { key: key.clone().into() };
            let done = context.client.answer(dht.stop_providing(request)).await?;
            output::message(context.format, "StopProvidingResponse", &done, |_| format!("no longer provides {key}"))
        }
        DhtAction::Providers { key } => {
            let request = FindProvidersRequest { key: key.into() };
            let found = context.client.answer(dht.find_providers(request)).await?;
            output::each(context.format, "FindProvidersResponse", found, |next| next.peer_id.clone()).await
        }
    }
}
