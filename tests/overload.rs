//! More than can be taken at once: it is held back, or whoever waits for it is told.
#![allow(missing_docs)]

mod support;

use std::time::{Duration, Instant};

use p2pd_api::{
    Reason, reason_of,
    v1::{
        Block, MessageIdentity, OpenStream, PublishManyRequest, PublishRequest, SetTopicRequest, SubscribeRequest,
        TopicSettings, WatchStreamsRequest, WatchTopicRequest, pub_sub_service_client::PubSubServiceClient,
        subscribe_request::Contract, subscribe_response,
    },
};
use p2pd_core::ring::Next;
use p2pd_net::{DhtMode, Event, Identity, Incoming, Running, TopicRule};
use support::{channel, open, pair, publish, start, stranger, streams, until};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "news";
/// Far more than wait for a daemon.
const MESSAGES: u64 = 1_000;

/// A network floor alone, which dials this address.
fn floor(bootstrap: Option<&str>) -> Running {
    let mut config = stranger(bootstrap.unwrap_or_default(), DhtMode::Client);
    config.bootstrap.retain(|address| !address.is_empty());
    p2pd_net::start(&config, &Identity::generate(), CancellationToken::new()).unwrap()
}

/// Two of them that follow the topic.
async fn floors() -> (Running, Running) {
    let slow = floor(None);
    let address = until("an address", async || slow.handle.addresses().await.unwrap().into_iter().next()).await;
    let other = floor(Some(&address));
    for floor in [&slow, &other] {
        floor.handle.subscribe(TOPIC, TopicRule::Open).await.unwrap();
    }
    until("the mesh", async || (other.handle.topic_peers(TOPIC).await.unwrap().mesh > 0).then_some(())).await;
    (slow, other)
}

async fn send_all(from: &Running) {
    for n in 0..MESSAGES {
        from.handle.publish(TOPIC, n.to_string().into()).await.unwrap();
    }
}

/// How many messages the floor says are lost, and how many are left, once these are all.
async fn account(mut slow: Running) -> (u64, u64) {
    let (mut lost, mut left) = (0, 0);
    let deadline = tokio::time::sleep(Duration::from_secs(30));
    tokio::pin!(deadline);
    while lost + left < MESSAGES {
        tokio::select! {
            event = slow.events.next() => if let Next::Item(Event::Lost { topic, count }) = event.unwrap() {
                assert_eq!(topic, TOPIC);
                lost += count;
            },
            next = slow.incoming.next() => {
                left += u64::from(matches!(next.unwrap(), Next::Item(Incoming::Message { .. })));
            }
            () = &mut deadline => panic!("of {MESSAGES} only {lost} are told of and {left} there"),
        }
    }
    (lost, left)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_nobody_took_are_counted_also_where_nobody_listened_to_that() {
    let (slow, other) = floors().await;
    send_all(&other).await;
    // Events push out each other, too, over several rounds in which losses are told.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        other.handle.subscribe("more", TopicRule::Open).await.unwrap();
        other.handle.unsubscribe("more").await.unwrap();
    }
    let (lost, left) = account(slow).await;
    assert!(left > 0 && lost + left == MESSAGES, "{lost} lost, {left} left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_falls_behind_is_told() {
    let a = start(&[]).await;
    let mut watch = streams(&a).await.watch_streams(WatchStreamsRequest {}).await.unwrap().into_inner();
    let metadata_json = format!(r#"{{"about":"{}"}}"#, "x".repeat(4_000));
    // As much as the connection holds, and then more than waits for one watcher.
    for n in 0..900 {
        // A daemon publishes not so many at once.
        let open = OpenStream { metadata_json: metadata_json.clone(), ..open(&format!("stream-{}", n % 50)) };
        publish(&a, open).await.unwrap();
    }
    let mut seen = 0;
    let ended = loop {
        match watch.message().await {
            Ok(Some(_)) => seen += 1,
            Ok(None) => panic!("it ended in good order after {seen}"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason_of(&ended), Some(Reason::WatchLagged), "{ended:?}");
    // As it is told to: a new watch begins with all there is.
    let mut anew = streams(&a).await.watch_streams(WatchStreamsRequest {}).await.unwrap().into_inner();
    assert!(anew.message().await.unwrap().is_some());
}

/// Publishes as fast as a program can, on a topic that tells messages apart like this.
async fn flood(identity: MessageIdentity) {
    const MANY: u64 = 10_000;
    let (a, b) = pair().await;
    let (mut from, mut to) = (PubSubServiceClient::new(channel(&a).await), PubSubServiceClient::new(channel(&b).await));
    let settings = Some(TopicSettings { identity: identity.into(), ..TopicSettings::default() });
    for client in [&mut from, &mut to] {
        client.set_topic(SetTopicRequest { topic: TOPIC.into(), settings }).await.unwrap();
    }
    let contract = Some(Contract::Block(Block::default()));
    let mut heard = to.subscribe(SubscribeRequest { topic: TOPIC.into(), contract }).await.unwrap().into_inner();
    let mut watch = from.watch_topic(WatchTopicRequest { topic: TOPIC.into() }).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().topic.unwrap().peers == 0 {}
    let messages = (0..MANY).map(|n| PublishRequest { topic: TOPIC.into(), data: n.to_string().into(), wait_ms: 0 });
    let messages = messages.map(|message| PublishManyRequest { message: Some(message) });
    let publishing = tokio::spawn(async move {
        let mut answers = from.publish_many(tokio_stream::iter(messages)).await.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(answer.reason, "", "{}", answer.error);
        }
    });
    let mut due = 0;
    while due < MANY {
        let next = timeout(Duration::from_secs(20), heard.message()).await;
        match next.unwrap_or_else(|_| panic!("message {due} is lost")).unwrap().unwrap().event.unwrap() {
            subscribe_response::Event::Message(message) => {
                assert_eq!(message.data, due.to_string().as_bytes());
                due += 1;
            }
            // It was this reader who was too slow.
            subscribe_response::Event::Gap(gap) => due += gap.to - gap.from + 1,
            subscribe_response::Event::Subscribed(_) => {}
        }
    }
    publishing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_faster_than_the_network_is_held_back() {
    flood(MessageIdentity::Sender).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_the_same_content_may_not_come_twice() {
    flood(MessageIdentity::Content).await;
}
