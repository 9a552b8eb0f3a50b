//! `dht`: providers, values and places of peers in the distributed hash table.

use std::{future::Future, time::Duration};

use p2pd_api::v1::{
    FindClosestPeersRequest, FindClosestPeersResponse, FindPeerRequest, FindPeerResponse, FindProvidersRequest,
    FindProvidersResponse, GetValueRequest, GetValueResponse, ListPeersRequest, Peer, ProvideRequest, PutValueRequest,
    StopProvidingRequest, dht_service_client::DhtServiceClient, peer_service_client::PeerServiceClient,
};
use p2pd_api::{Reason, reason_of};

use prost::{Message, bytes::Bytes};
use tonic::{Response, Status, Streaming};

use super::{
    cid::{self, Cid},
    context::Context,
    peer_id::resolve,
};
use crate::{
    cli::DhtAction,
    error::{Exit, closed, fail},
    output,
};

const REFUSED: &str = "no connected peer is a p2pd, and other programs refuse its values, so this daemon alone keeps this \
    one; what all of them take is `p2pctl dht provide`";

fn is_unreachable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Status>().and_then(reason_of) == Some(Reason::PeerUnreachable)
}

/// A key as it was given: a CID, of which the multihash is the key; `hex:` and its bytes in hexadecimal; or any text.
fn key(text: &str) -> anyhow::Result<Bytes> {
    if let Some(cid) = Cid::parse(text) {
        return Ok(cid.multihash.into());
    }
    if cid::is_meant(text) {
        let takes = "takes one such as bafybei... or Qm..., whole and without a path; hex: takes the bytes of any key";
        return Err(fail(Exit::Usage, format!("`{text}` begins like a CID and is none; {takes}")));
    }
    let Some(digits) = text.strip_prefix("hex:") else { return Ok(text.to_owned().into()) };
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(anyhow::Error::from));
    match pairs.collect::<Result<Vec<u8>, _>>() {
        Ok(bytes) if digits.len() % 2 == 0 => Ok(bytes.into()),
        _ => Err(fail(Exit::Usage, format!("`{text}` is no key; hex: is followed by pairs of hexadecimal digits"))),
    }
}

/// Prints each result. The timeout bounds the whole search; `empty` is the error where nothing was found.
async fn each<T: Message + Default>(
    context: &Context,
    search: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    name: &str,
    empty: &str,
    text: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let all = async { output::each(context.format, name, search.await?.into_inner(), text).await };
    match context.client.in_time("no end of the search", all).await? {
        0 => Err(fail(Exit::NotFound, empty)),
        _ => Ok(()),
    }
}

/// A peer and its addresses: in one line for programs, in lines of their own where the width is limited.
fn place(peer: &str, addresses: &[String]) -> String {
    let between = if output::width().is_some() { "\n  " } else { "  " };
    let addresses = addresses.join(if output::width().is_some() { between } else { " " });
    format!("{peer}{between}{addresses}").trim_end().into()
}

/// Whether all connected peers are other programs, which refuse the values of p2pd.
async fn among_others(context: &Context) -> anyhow::Result<bool> {
    let mut peers = PeerServiceClient::new(context.client.channel.clone());
    let list = context.client.answer(peers.list_peers(ListPeersRequest {})).await?.peers;
    let other = |peer: &Peer| !peer.protocols.is_empty() && !peer.protocols.iter().any(|p| p.starts_with("/p2pd/"));
    Ok(!list.is_empty() && list.iter().all(other))
}

pub(super) async fn run(context: &Context, action: DhtAction) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    match action {
        DhtAction::FindPeer { peer } => {
            let peer_id = resolve(context, "PEER", &peer).await?;
            let empty = format!("nobody who was asked knows where {peer_id} is");
            let text = |next: &FindPeerResponse| next.addresses.join("\n");
            each(context, dht.find_peer(FindPeerRequest { peer_id }), "FindPeerResponse", &empty, text).await
        }
        DhtAction::Closest { key } => {
            let request = FindClosestPeersRequest { key: self::key(&key)? };
            let text = |next: &FindClosestPeersResponse| place(&next.peer_id, &next.addresses);
            let empty = "no peer answers in the DHT; `p2pctl peers` lists who is connected";
            each(context, dht.find_closest_peers(request), "FindClosestPeersResponse", empty, text).await
        }
        DhtAction::Provide { key } => {
            let done = context.client.answer(dht.provide(ProvideRequest { key: self::key(&key)? })).await?;
            output::message(context.format, "ProvideResponse", &done, |_| format!("provides {key}"))
        }
        DhtAction::Stop { key } => {
            let request = StopProvidingRequest { key: self::key(&key)? };
            let done = context.client.answer(dht.stop_providing(request)).await?;
            output::message(context.format, "StopProvidingResponse", &done, |_| {
                format!("this daemon does not provide {key} now")
            })
        }
        DhtAction::Put { name, data, ttl } => {
            if ttl < Duration::from_secs(1) {
                return Err(fail(Exit::Usage, "--ttl: takes 1s to 48h"));
            }
            let ttl_s = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
            let request = PutValueRequest { name: name.clone(), data: data.into(), ttl_s };
            let put = match context.client.answer(dht.put_value(request)).await {
                Err(error) if is_unreachable(&error) && among_others(context).await? => {
                    return Err(fail(Exit::Refused, REFUSED));
                }
                put => put?,
            };
            output::message(context.format, "PutValueResponse", &put, |p| format!("put {name}, number {}", p.seq))
        }
        DhtAction::Get { name, peer } => get(context, name, peer).await,
        DhtAction::Providers { key } => {
            let request = FindProvidersRequest { key: self::key(&key)? };
            let text = |next: &FindProvidersResponse| place(&next.peer_id, &next.addresses);
            let empty = format!("nobody is known to have `{key}`; who has it says so with `p2pctl dht provide {key}`");
            each(context, dht.find_providers(request), "FindProvidersResponse", &empty, text).await
        }
    }
}

/// The newest value that is found.
async fn get(context: &Context, name: String, peer: Option<String>) -> anyhow::Result<()> {
    let mut dht = DhtServiceClient::new(context.client.channel.clone());
    let peer_id = match peer {
        Some(peer) => resolve(context, "PEER", &peer).await?,
        None => String::new(),
    };
    let request = GetValueRequest { peer_id, name };
    let mut found = context.client.answer(dht.get_value(request)).await?;
    let mut newest = None;
    let search = async {
        while let Some(value) = found.message().await? {
            newest = Some(value);
        }
        Err(closed())
    };
    let end: anyhow::Result<()> = context.client.in_time("no end of the search", search).await;
    // A value that was found before the timeout counts.
    let Some(value) = newest else { return end };
    let text = |value: &GetValueResponse| {
        String::from_utf8_lossy(&value.data).chars().filter(|c| output::is_harmless(*c)).collect()
    };
    output::message(context.format, "GetValueResponse", &value, text)
}
