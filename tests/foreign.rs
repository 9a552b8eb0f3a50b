//! A gossipsub peer that is not ours, where others differ from us.
#![allow(missing_docs)]

mod support;

use std::time::Duration;

use libp2p::{
    Swarm, SwarmBuilder,
    futures::StreamExt,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    noise,
    swarm::SwarmEvent,
    tcp, yamux,
};
use p2pd::app::Daemon;
use p2pd_api::v1::{
    ListPeersRequest, SubscribeRequest, pub_sub_service_client::PubSubServiceClient, subscribe_response::Event,
};
use support::{DEADLINE, channel, peers, start};
use tokio::time::{interval, timeout};

const TOPIC: &str = "chat";
/// So many that gossipsub's patience with a peer that does not send what it has offered (3 s) is over before the last.
const MESSAGES: usize = 80;

/// A peer that takes nobody into its mesh, so that it offers what it has, by ids of its own kind.
fn outsider() -> Swarm<gossipsub::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let mut config = gossipsub::ConfigBuilder::default();
            config.mesh_n_low(0).mesh_n(0).mesh_n_high(0).mesh_outbound_min(0).heartbeat_initial_delay(Duration::ZERO);
            let signed = MessageAuthenticity::Signed(key.clone());
            let mut gossipsub = gossipsub::Behaviour::new(signed, config.build().unwrap()).unwrap();
            gossipsub.subscribe(&IdentTopic::new(TOPIC)).unwrap();
            gossipsub
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

async fn score(daemon: &Daemon) -> f64 {
    peers(daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers[0].score
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_offers_messages_by_other_ids_keeps_its_place() {
    let mut swarm = outsider();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let daemon = start(&[format!("{address}/p2p/{}", swarm.local_peer_id())]).await;
    let subscribe = SubscribeRequest { topic: TOPIC.into(), contract: None };
    let mut client = PubSubServiceClient::new(channel(&daemon).await);
    let mut messages = client.subscribe(subscribe).await.unwrap().into_inner();
    let publishing = tokio::spawn(async move {
        let (mut sent, mut tick) = (0, interval(Duration::from_millis(100)));
        loop {
            tokio::select! {
                _ = swarm.next() => {}
                _ = tick.tick(), if sent < MESSAGES => {
                    let published = swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), sent.to_string());
                    sent += usize::from(published.is_ok());
                }
            }
        }
    });
    let mut heard = Vec::new();
    while heard.len() < MESSAGES {
        let next = timeout(DEADLINE, messages.message()).await.expect("a message").unwrap().unwrap();
        if let Some(Event::Message(message)) = next.event {
            heard.push(String::from_utf8(message.data.to_vec()).unwrap());
            let score = score(&daemon).await;
            assert!(score >= 0.0, "{score} after {} messages", heard.len());
        }
    }
    assert_eq!(heard, (0..MESSAGES).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
    publishing.abort();
}
