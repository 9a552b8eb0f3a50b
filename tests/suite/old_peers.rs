//! Peers that know the old formats only, who neither ask nor follow what an announcement says.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use futures::future::join_all;
use p2pd::app::Daemon;
use p2pd_api::v1::{
    Durable, GetStatisticsRequest, GetTopicRequest, SubscribeRequest, SubscribeResponse,
    node_service_client::NodeServiceClient, pub_sub_service_client::PubSubServiceClient, publish_stream_request::Item,
    subscribe_request::Contract, subscribe_response, subscribe_stream_response,
};
use p2pd_core::ring::Next;
use p2pd_live::topic;
use p2pd_net::{Identity, Message, Running, queue};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;

use crate::support::{DEADLINE, channel, floor, list, listen, next, now_ms as now, open, publish, start, until};

const NETWORK: &str = topic::DEFAULT_NETWORK;

/// A peer that follows a topic, and takes whatever comes there.
async fn follower(daemon: &Daemon, topics: &[&str]) -> (Follower, Identity) {
    let (running, identity) = floor(Some(&daemon.addresses[0]));
    let mut heard = HashMap::new();
    for topic in topics {
        heard.insert((*topic).to_owned(), crate::support::follow(&running, topic).await);
    }
    (Follower { running, heard }, identity)
}

/// A floor, and what it hears by topic.
struct Follower {
    running: Running,
    heard: HashMap<String, queue::Reader<Message>>,
}

/// The next message of a topic that is JSON and fits.
async fn heard(follower: &mut Follower, of: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let Some(Next::Item(Message { data, .. })) = follower.heard.get_mut(of).unwrap().next().await else {
                continue;
            };
            let said: Value = serde_json::from_slice(&data).unwrap();
            if fits(&said) {
                return said;
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("a message")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_to_follow_the_directory_is_told_what_is_published() {
    let a = start(&[]).await;
    let _town = publish(&a, open("town")).await.unwrap();
    let _city = publish(&a, open("city")).await.unwrap();
    let directory = topic::directory(NETWORK);
    let topics = [directory.as_str()];
    // One that comes alone, and sixty at once.
    for count in [1, 60] {
        let late = join_all((0..count).map(|_| follower(&a, &topics))).await;
        join_all(late.into_iter().map(async |(mut late, _)| {
            let mut told = BTreeSet::new();
            while told.len() < 2 {
                let said = heard(&mut late, &directory, |said| said["type"] == "announce").await;
                told.insert(said["streamId"].as_str().unwrap().to_owned());
            }
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_stream_is_sent_in_the_old_format_while_somebody_follows_it_so() {
    let a = start(&[]).await;
    let town = publish(&a, open("town")).await.unwrap();
    let old = topic::audio_json(NETWORK, &"town".parse().unwrap());
    town.frames(0..50).await;
    assert_eq!(list(&a).await[0].old_listeners, 0);
    let (mut listener, _) = follower(&a, &[&topic::directory(NETWORK), &old]).await;
    until("the old listener", async || (list(&a).await[0].old_listeners == 1).then_some(())).await;
    town.frames(50..200).await;
    town.send(Item::Finish(true)).await;
    let said = heard(&mut listener, &old, |_| true).await;
    assert_eq!((&said["type"], &said["metadata"]["name"]), (&json!("metadata"), &json!("Town radio")), "{said}");
    let mut links = 0;
    loop {
        let said = heard(&mut listener, &old, |said| said["type"] != "metadata").await;
        if said["type"] == "end" {
            break;
        }
        let link = BASE64.decode(said["chunk"].as_str().unwrap()).unwrap();
        assert!(link.starts_with(b"OggS") && link[28..].starts_with(b"OpusHead"), "a newcomer begins with any");
        links += 1;
    }
    assert!((3..=4).contains(&links), "{links} in three seconds");
}

async fn subscribed(daemon: &Daemon, topic: &str, contract: Option<Contract>) -> Streaming<SubscribeResponse> {
    let request = SubscribeRequest { topic: topic.into(), contract };
    let mut messages = PubSubServiceClient::new(channel(daemon).await).subscribe(request).await.unwrap().into_inner();
    messages.message().await.unwrap();
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_a_topic_is_told_to_its_readers_and_counted() {
    let b = start(&[]).await;
    let durable = Contract::Durable(Durable { after: None, from_oldest: false });
    let readers = [subscribed(&b, "big", None).await, subscribed(&b, "big", Some(durable)).await];
    let (rogue, _) = follower(&b, &[&topic::directory(NETWORK), "big"]).await;
    until("the mesh", async || (rogue.running.handle.pubsub.topic_peers("big").await.unwrap().mesh > 0).then_some(()))
        .await;
    rogue.running.handle.pubsub.publish("big", vec![0; 61_441].into()).await.unwrap();
    rogue.running.handle.pubsub.publish("big", vec![0; 61_440].into()).await.unwrap();
    for mut messages in readers {
        let mut event = async || timeout(DEADLINE, messages.message()).await.unwrap().unwrap().unwrap().event.unwrap();
        let subscribe_response::Event::Gap(gap) = event().await else { panic!("a gap") };
        assert_eq!((gap.reason.as_str(), gap.from), ("too-large", gap.to));
        let subscribe_response::Event::Message(message) = event().await else { panic!("a message") };
        assert_eq!(message.data.len(), 61_440);
    }
    let numbers = NodeServiceClient::new(channel(&b).await).get_statistics(GetStatisticsRequest {}).await.unwrap();
    let topic = PubSubServiceClient::new(channel(&b).await).get_topic(GetTopicRequest { topic: "big".into() }).await;
    assert_eq!((numbers.into_inner().too_large, topic.unwrap().into_inner().topic.unwrap().too_large), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_slices_of_the_old_format_are_heard_and_larger_ones_told() {
    let b = start(&[]).await;
    let (directory, audio) = (topic::directory(NETWORK), topic::audio_json(NETWORK, &"town".parse().unwrap()));
    let (peer, identity) = follower(&b, &[&directory, &audio]).await;
    let me = identity.peer_id().to_string();
    let announce = json!({"type": "announce", "streamId": "town", "metadata": {"publisher": me, "timestamp": now()}});
    until("an announcement", async || {
        peer.running.handle.pubsub.publish(&directory, announce.to_string().into()).await.ok()
    })
    .await;
    let mut replies = listen(&b, "town", 0).await;
    until("the mesh", async || (peer.running.handle.pubsub.topic_peers(&audio).await.unwrap().mesh > 0).then_some(()))
        .await;
    let slice = |size: usize| {
        let chunk = BASE64.encode(vec![7; size]);
        json!({"type": "audio", "streamId": "town", "chunk": chunk, "timestamp": now()}).to_string()
    };
    for size in [66_000, 197_000, 150_000] {
        peer.running.handle.pubsub.publish(&audio, slice(size).into()).await.unwrap();
    }
    let subscribe_stream_response::Event::Chunk(first) = next(&mut replies).await else { panic!("a slice") };
    let subscribe_stream_response::Event::Gap(gap) = next(&mut replies).await else { panic!("a gap") };
    let subscribe_stream_response::Event::Chunk(last) = next(&mut replies).await else { panic!("a slice") };
    assert_eq!((first.len(), gap.reason.as_str(), last.len()), (66_000, "too-large", 150_000));
}
