//! Values in the DHT: put by one, got by another, and filled by nobody but their owner.

use std::time::Duration;

use bytes::Bytes;
use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{GetValueRequest, GetValueResponse, PutValueRequest, dht_service_client::DhtServiceClient},
};
use p2pd_core::{
    dht_value::{self, ValueBody},
    id::PeerId,
};
use p2pd_net::{DhtMode, Event, Identity, Running};

use crate::support::{self, channel, id, now_ms, start, stranger, until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

async fn dht(daemon: &Daemon) -> DhtServiceClient<Channel> {
    DhtServiceClient::new(channel(daemon).await)
}

/// A hub that answers, and two that know it.
async fn three() -> (Daemon, Daemon, Daemon) {
    let hub = start(&[]).await;
    let tcp = support::tcp(&hub);
    let (b, c) = (start(std::slice::from_ref(&tcp)).await, start(std::slice::from_ref(&tcp)).await);
    (hub, b, c)
}

fn putting(name: &str, data: impl Into<Bytes>) -> PutValueRequest {
    PutValueRequest { name: name.into(), data: data.into(), ttl_s: 60 }
}

/// The last of what is found.
async fn get(at: &Daemon, peer_id: &str, name: &str) -> Result<GetValueResponse, Status> {
    let request = GetValueRequest { peer_id: peer_id.into(), name: name.into() };
    let mut found = dht(at).await.get_value(request).await?.into_inner();
    let mut newest: Option<GetValueResponse> = None;
    while let Some(value) = found.message().await? {
        assert!(newest.is_none_or(|before| before.seq < value.seq), "each is newer than the one before");
        newest = Some(value);
    }
    Ok(newest.expect("an error where there is none"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_found_by_others_and_the_newest_holds() {
    let (_hub, b, c) = three().await;
    let owner = id(&b);
    // At first nobody is known who could be asked, which is told as that.
    let asked = |none: &Status| reason_of(none) != Some(Reason::PeerUnreachable);
    let none = until("an answer", async || get(&c, &owner, "home").await.err().filter(asked)).await;
    assert_eq!((none.code(), reason_of(&none)), (Code::NotFound, Some(Reason::ValueNotFound)));
    let (alone, other) = (start(&[]).await, id(&c));
    let nobody = get(&alone, &other, "home").await.unwrap_err();
    assert_eq!(reason_of(&nobody), Some(Reason::PeerUnreachable), "{nobody}");
    let put = async |data: &'static str| dht(&b).await.put_value(putting("home", data)).await.ok();
    let first = until("the first", async || put("first").await).await.into_inner().seq;
    let found = until("its arrival", async || get(&c, &owner, "home").await.ok()).await;
    assert_eq!((found.data, found.seq), ("first".into(), first));
    let second = put("second").await.unwrap().into_inner().seq;
    assert!(second > first);
    let found = until("the second", async || get(&c, &owner, "home").await.ok().filter(|v| v.seq == second)).await;
    assert_eq!(found.data, "second");
    // One's own needs no peer id.
    assert_eq!(get(&b, "", "home").await.unwrap().data, "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_put_is_refused_by_its_field() {
    let (_hub, b, _c) = three().await;
    for (request, field) in [
        (putting("", "x"), "name"),
        (putting("a/b", "x"), "name"),
        (putting("big", vec![0; 4097]), "data"),
        (PutValueRequest { ttl_s: 172_801, ..putting("long", "x") }, "ttl_s"),
    ] {
        let refused = dht(&b).await.put_value(request).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::FieldInvalid)));
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let alone = start(&[]).await;
    let refused = dht(&alone).await.put_value(putting("home", "x")).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::Unavailable, Some(Reason::PeerUnreachable)));
}

/// A peer of the DHT that keeps none of its rules.
async fn rogue(hub: &Daemon) -> (Running, [u8; 32]) {
    let identity = Identity::generate();
    let config = stranger(&hub.addresses[0], DhtMode::Server);
    let mut running = p2pd_net::prepare(&config, &identity).unwrap().run(CancellationToken::new());
    loop {
        if let p2pd_core::ring::Next::Item(Event::Identified(_)) = running.events.next().await.unwrap() {
            return (running, identity.secret().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_fills_the_place_of_another() {
    let (hub, b, c) = three().await;
    let owner = id(&b);
    let seq =
        until("a value", async || dht(&b).await.put_value(putting("home", "true")).await.ok()).await.into_inner().seq;
    until("its arrival", async || get(&c, &owner, "home").await.ok()).await;
    let (rogue, secret) = rogue(&hub).await;
    let peer: PeerId = owner.parse().unwrap();
    for name in ["home", "empty"] {
        let key = dht_value::key(&peer, name).unwrap();
        let body =
            ValueBody { key: key.clone(), data: "forged".into(), seq: seq + 1_000, expires_ms: now_ms() + 60_000 };
        let forged = dht_value::sign(&body, &secret);
        until("a peer that takes it", async || {
            rogue.handle.dht.put_value(key.clone(), forged.clone(), Duration::from_secs(60)).await.ok()
        })
        .await;
    }
    assert_eq!(get(&c, &owner, "home").await.unwrap().data, "true");
    assert_eq!(get(&c, &owner, "empty").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get(&hub, &owner, "home").await.unwrap().data, "true");
}
