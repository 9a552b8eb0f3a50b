//! Many followers of one topic around one publisher, who have nobody else to hear it from.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use p2pd::{app::Daemon, config::Dht};
use p2pd_api::v1::{
    ListTopicPeersRequest, PublishRequest, SubscribeRequest, pub_sub_service_client::PubSubServiceClient,
    subscribe_response::Event,
};
use tokio::time::timeout;

use crate::support::{DEADLINE, channel, setup, start, until};

/// Follows `town` on a daemon until so many messages have come, or none for a while. The numbers that came.
async fn hear(daemon: &Daemon, count: usize) -> impl Future<Output = HashSet<u32>> + use<> {
    let mut client = PubSubServiceClient::new(channel(daemon).await);
    let request = SubscribeRequest { topic: "town".into(), contract: None };
    let mut messages = client.subscribe(request).await.unwrap().into_inner();
    messages.message().await.unwrap();
    let hearing = tokio::spawn(async move {
        let mut heard = HashSet::new();
        while heard.len() < count
            && let Ok(next) = timeout(DEADLINE, messages.message()).await
        {
            if let Some(Event::Message(message)) = next.unwrap().unwrap().event {
                heard.insert(u32::from_be_bytes(message.data[..4].try_into().unwrap()));
            }
        }
        heard
    });
    async { hearing.await.unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_followers_of_one_publisher_each_get_all_it_says() {
    const FOLLOWERS: usize = 15;
    const MESSAGES: u32 = 1_000;
    let hub = start(&[]).await;
    let follower = || async {
        let mut setup = setup(&hub.addresses[..1]);
        // They find nobody but the publisher.
        setup.config.network.dht = Dht::Client;
        Daemon::start(setup).await.unwrap()
    };
    let followers = join_all((0..FOLLOWERS).map(|_| follower())).await;
    let hearing = join_all(followers.iter().map(|daemon| hear(daemon, MESSAGES as usize))).await;
    let mut publisher = PubSubServiceClient::new(channel(&hub).await);
    until("the followers", async || {
        let request = ListTopicPeersRequest { topic: "town".into() };
        let peers = publisher.clone().list_topic_peers(request).await.unwrap().into_inner();
        (peers.peer_ids.len() == FOLLOWERS).then_some(())
    })
    .await;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for n in 0..MESSAGES {
        pace.tick().await;
        let data = n.to_be_bytes().repeat(40).into();
        publisher.publish(PublishRequest { topic: "town".into(), data, wait_ms: 0 }).await.unwrap();
    }
    let heard: Vec<usize> = join_all(hearing).await.iter().map(HashSet::len).collect();
    assert_eq!(heard, [MESSAGES as usize; FOLLOWERS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_topics_never_make_a_greeting_that_peers_refuse() {
    let a = start(&[]).await;
    let topic = |n: usize| format!("{}{n:03}", "x".repeat(200));
    let mut followed = Vec::new();
    let refused = loop {
        let request = SubscribeRequest { topic: topic(followed.len()), contract: None };
        // One connection carries 64 calls.
        match PubSubServiceClient::new(channel(&a).await).subscribe(request).await {
            Ok(messages) => followed.push(messages),
            Err(refused) => break refused,
        }
    };
    assert!(followed.len() > 60 && refused.message().contains("15 KiB"), "{} {refused:?}", followed.len());
    // One that comes now is greeted with all of them.
    let b = start(&a.addresses[..1]).await;
    let mut other = PubSubServiceClient::new(channel(&b).await);
    for n in [0, followed.len() - 1] {
        until("a follower", async || {
            let request = ListTopicPeersRequest { topic: topic(n) };
            (!other.clone().list_topic_peers(request).await.unwrap().into_inner().peer_ids.is_empty()).then_some(())
        })
        .await;
    }
    let request = SubscribeRequest { topic: topic(0), contract: None };
    other.subscribe(request).await.unwrap();
}
