//! Daemons whose machine gets other addresses, and whose cable is pulled: each in a network of its own, joined by a pair of
//! virtual interfaces.

use std::time::Duration;

use p2pd::app::Daemon;
use p2pd_api::v1::{
    ListClosedConnectionsRequest, ListPeersRequest, SubscribeStreamResponse, subscribe_stream_response::Event,
};
use tokio::{task::JoinHandle, time::timeout};
use tonic::Streaming;

use crate::{
    machines::{self, Machine},
    support::{self, DEADLINE, list, listen, peers, publish, until},
};

const PUBLISHER: &str = "10.77.0.1";
const LISTENER: &str = "10.77.0.2";

/// Two machines with a cable between them; says so where there can be none.
async fn two() -> Option<(Machine, Machine)> {
    let made = async {
        let (a, b) = (Machine::new()?, Machine::new()?);
        let joined = a.ip("link add cable type veth peer name plug").await
            && a.ip(&format!("link set plug netns {}", b.id)).await
            && a.ip(&format!("address add {PUBLISHER}/24 dev cable")).await
            && b.ip(&format!("address add {LISTENER}/24 dev plug")).await
            && a.ip("link set cable up").await
            && b.ip("link set plug up").await;
        joined.then_some((a, b))
    };
    let made = made.await;
    if made.is_none() {
        machines::skip("machines that move");
    }
    made
}

/// Waits for sound.
async fn hear(replies: &mut Streaming<SubscribeStreamResponse>, within: Duration) {
    let heard = async { while !matches!(replies.message().await.unwrap().unwrap().event, Some(Event::Group(_))) {} };
    timeout(within, heard).await.expect("sound");
}

/// Takes what has come already: sound of before.
async fn drain(replies: &mut Streaming<SubscribeStreamResponse>) {
    while let Ok(next) = timeout(Duration::from_secs(1), replies.message()).await {
        next.unwrap().expect("not the end");
    }
}

async fn closed(daemon: &Daemon) -> Vec<String> {
    let list = peers(daemon).await.list_closed_connections(ListClosedConnectionsRequest {}).await;
    list.unwrap().into_inner().connections.into_iter().map(|one| one.why).collect()
}

/// A publisher that is on the air, on a machine, and a listener on another that knows its address.
struct Town {
    here: Machine,
    there: Machine,
    a: Daemon,
    b: Daemon,
    on_air: JoinHandle<()>,
}

impl Town {
    async fn new() -> Option<Self> {
        let (here, there) = two().await?;
        let a = here.start(PUBLISHER, &[]).await;
        let own = async || support::addresses(&a).await.into_iter().find(|address| address.contains(PUBLISHER));
        let address = until("an address of the interface", own).await;
        let b = there.start(LISTENER, &[address]).await;
        let published = publish(&a, support::open("radio")).await.unwrap();
        let on_air = tokio::spawn(async move { published.frames(0..u32::MAX).await });
        Some(Town { here, there, a, b, on_air })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_gets_another_address_hears_on_soon() {
    let Some(town) = Town::new().await else { return };
    let mut replies = listen(&town.b, "radio", 0).await;
    hear(&mut replies, DEADLINE).await;
    // In this order: the second address of a network goes with its first.
    assert!(town.there.ip(&format!("address delete {LISTENER}/24 dev plug")).await);
    assert!(town.there.ip("address add 10.77.0.3/24 dev plug").await);
    drain(&mut replies).await;
    hear(&mut replies, 2 * DEADLINE).await;
    let why = closed(&town.b).await;
    assert!(why.iter().any(|why| why.contains("addresses changed")), "{why:?}");
    town.on_air.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_where_its_publisher_is_now() {
    let Some(town) = Town::new().await else { return };
    let told = async |ip: &str| {
        let tells = async || {
            let metadata = list(&town.b).await.first().map(|stream| stream.metadata_json.clone()).unwrap_or_default();
            metadata.contains(ip).then_some(())
        };
        until("the stream to tell its address", tells).await;
    };
    told(PUBLISHER).await;
    assert!(town.here.ip("address add 10.77.0.9/24 dev cable").await);
    told("10.77.0.9").await;
    town.on_air.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_comes_later_is_listened_on_then() {
    const LATER: &str = "10.77.0.5";
    let Some(machine) = Machine::with(&[PUBLISHER], "an address that comes later").await else { return };
    let mut setup = support::setup(&[]);
    setup.config.network.listen = [PUBLISHER, LATER].map(|ip| format!("/ip4/{ip}/tcp/0")).into();
    let daemon = machine.run(async { Daemon::start(setup).await.unwrap() }).await;
    assert!(!support::addresses(&daemon).await.iter().any(|address| address.contains(LATER)));
    assert!(machine.ip(&format!("address add {LATER}/32 dev lo")).await);
    let listens = async || support::addresses(&daemon).await.iter().any(|at| at.contains(LATER)).then_some(());
    until("to listen there", listens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_cable_is_pulled_peers_are_gone_within_a_minute_and_sound_is_back_with_it() {
    const MINUTE: Duration = Duration::from_secs(60);
    let Some(town) = Town::new().await else { return };
    let mut replies = listen(&town.b, "radio", 0).await;
    hear(&mut replies, DEADLINE).await;
    assert!(town.here.ip("link set cable down").await);
    let gone = async {
        let connected = async |of: &Daemon| {
            !peers(of).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers.is_empty()
        };
        while connected(&town.a).await || connected(&town.b).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(MINUTE, gone).await.expect("both to know");
    drain(&mut replies).await;
    assert!(town.here.ip("link set cable up").await);
    hear(&mut replies, 4 * DEADLINE).await;
    town.on_air.abort();
}
