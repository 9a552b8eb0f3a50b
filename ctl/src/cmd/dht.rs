//! `dht`.

use std::time::Duration;

use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindPeerResponse, FindProvidersRequest,
    FindProvidersResponse, GetValueRequest, GetValueResponse, ProvideRequest, PutValueRequest, StopProvidingRequest,
    dht_service_client::DhtServiceClient,
};

use prost::bytes::Bytes;

use super::Context;
use crate::{cli::DhtAction, client, exit::fail, output};

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

/// Says in words that a list was empty.
fn told(count: u64, empty: &str) -> anyhow::Result<()> {
    if count == 0 {
        output::say(format_args!("{empty}"));
    }
    Ok(())
}

pub(super) async fn run(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    context.client.in_time("not done", ask(context, action)).await
}

async fn ask(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    match action {
        DhtAction::FindPeer { peer } => {
            let found = context.client.answer(dht.find_peer(FindPeerRequest { peer_id: peer })).await?;
            let text = |next: &FindPeerResponse| next.addresses.join("\n");
            output::each(context.format, "FindPeerResponse", found, text).await.map(drop)
        }
        DhtAction::Closest { key } => {
            let request = FindClosestPeersRequest { key: self::key(&key)? };
            let found = context.client.answer(dht.find_closest_peers(request)).await?;
            let text = |next: &FindClosestPeersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            told(
                output::each(context.format, "FindClosestPeersResponse", found, text).await?,
                "no peer answers in the DHT",
            )
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
        DhtAction::Put { name, data, ttl } => {
            if ttl < Duration::from_secs(1) {
                return Err(fail(2, "--ttl: takes 1s to 48h"));
            }
            let ttl_s = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
            let request = PutValueRequest { name: name.clone(), data: data.into(), ttl_s };
            let put = context.client.answer(dht.put_value(request)).await?;
            output::message(context.format, "PutValueResponse", &put, |p| format!("put {name}, number {}", p.seq))
        }
        DhtAction::Get { name, peer } => {
            let request = GetValueRequest { peer_id: peer.unwrap_or_default(), name };
            let mut found = context.client.answer(dht.get_value(request)).await?;
            let mut newest = None;
            while let Some(value) = found.message().await? {
                newest = Some(value);
            }
            let Some(value) = newest else { return Err(client::closed()) };
            let text = |value: &GetValueResponse| {
                String::from_utf8_lossy(&value.data).chars().filter(|c| output::is_harmless(*c)).collect()
            };
            output::message(context.format, "GetValueResponse", &value, text)
        }
        DhtAction::Providers { key } => {
            let request = FindProvidersRequest { key: self::key(&key)? };
            let found = context.client.answer(dht.find_providers(request)).await?;
            let text = |next: &FindProvidersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            told(
                output::each(context.format, "FindProvidersResponse", found, text).await?,
                "nobody is known to have it",
            )
        }
    }
}
