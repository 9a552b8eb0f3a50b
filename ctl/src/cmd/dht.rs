//! `dht`.

use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindProvidersRequest, ProvideRequest,
    StopProvidingRequest, dht_service_client::DhtServiceClient,
};

use prost::bytes::Bytes;

use super::Context;
use crate::{cli::DhtAction, exit::fail, output};

/// A key as it was given: `hex:` and its bytes in hexadecimal, or any text.
fn key(text: &str) -> anyhow::Result<Bytes> {
    let Some(digits) = text.strip_prefix("hex:") else { return Ok(text.to_owned().into()) };
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(anyhow::Error::from));
    match pairs.collect::<Result<Vec<u8>, _>>() {
        Ok(bytes) if digits.len() % 2 == 0 => Ok(bytes.into()),
        _ => Err(fail(2, format!("`{text}` is no key; hex: is followed by pairs of hexadecimal digits"))),
    }
}

pub(super) async fn run(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    match action {
        DhtAction::FindPeer { peer } => {
            let found = context.client.answer(dht.find_peer(FindPeerRequest { peer_id: peer })).await?;
            output::message(context.format, "FindPeerResponse", &found, |f| f.addresses.join("\n"))
        }
        DhtAction::Closest { key } => {
            let request = FindClosestPeersRequest { key: self::key(&key)? };
            let found = context.client.answer(dht.find_closest_peers(request)).await?;
            let text = |next: &FindClosestPeersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            output::each(context.format, "FindClosestPeersResponse", found, text).await
        }
        DhtAction::Provide { key } => {
            let done = context.client.answer(dht.provide(ProvideRequest { key: self::key(&key)? })).await?;
            output::message(context.format, "ProvideResponse", &done, |_| format!("provides {key}"))
        }
        DhtAction::Stop { key } => {
            let request = StopProvidingRequest { key: self::key(&key)? };
            let done = context.client.answer(dht.stop_providing(request)).await?;
            output::message(context.format, "StopProvidingResponse", &done, |_| format!("no longer provides {key}"))
        }
        DhtAction::Providers { key } => {
            let request = FindProvidersRequest { key: self::key(&key)? };
            let found = context.client.answer(dht.find_providers(request)).await?;
            output::each(context.format, "FindProvidersResponse", found, |next| next.peer_id.clone()).await
        }
    }
}
