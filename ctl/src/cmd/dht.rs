//! `dht`.

use std::{future::Future, time::Duration};

use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindPeerResponse, FindProvidersRequest,
    FindProvidersResponse, GetValueRequest, GetValueResponse, ProvideRequest, PutValueRequest, StopProvidingRequest,
    dht_service_client::DhtServiceClient,
};

use prost::{Message, bytes::Bytes};
use tonic::{Response, Status, Streaming};

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

/// Prints what is found, in the time that the user gave for all of it.
async fn each<T: Message + Default>(
    context: &Context,
    search: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    name: &str,
    text: impl Fn(&T) -> String,
) -> anyhow::Result<u64> {
    let all = async { output::each(context.format, name, search.await?.into_inner(), text).await };
    context.client.in_time("no end of the search", all).await
}

pub(super) async fn run(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    match action {
        DhtAction::FindPeer { peer } => {
            let text = |next: &FindPeerResponse| next.addresses.join("\n");
            each(context, dht.find_peer(FindPeerRequest { peer_id: peer }), "FindPeerResponse", text).await.map(drop)
        }
        DhtAction::Closest { key } => {
            let request = FindClosestPeersRequest { key: self::key(&key)? };
            let text = |next: &FindClosestPeersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            let count = each(context, dht.find_closest_peers(request), "FindClosestPeersResponse", text).await?;
            told(count, "no peer answers in the DHT")
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
            let search = async {
                while let Some(value) = found.message().await? {
                    newest = Some(value);
                }
                Err(client::closed())
            };
            let end: anyhow::Result<()> = context.client.in_time("no end of the search", search).await;
            // What was found in time is worth having.
            let Some(value) = newest else { return end };
            let text = |value: &GetValueResponse| {
                String::from_utf8_lossy(&value.data).chars().filter(|c| output::is_harmless(*c)).collect()
            };
            output::message(context.format, "GetValueResponse", &value, text)
        }
        DhtAction::Providers { key } => {
            let request = FindProvidersRequest { key: self::key(&key)? };
            let text = |next: &FindProvidersResponse| format!("{}  {}", next.peer_id, next.addresses.join(" "));
            let count = each(context, dht.find_providers(request), "FindProvidersResponse", text).await?;
            told(count, "nobody is known to have it")
        }
    }
}
