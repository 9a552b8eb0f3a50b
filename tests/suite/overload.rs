//! More than can be taken at once: it is held back, or whoever waits for it is told.

use std::time::{Duration, Instant};

use p2pd_api::{
    Reason, reason_of,
    v1::{OpenStream, WatchStreamsRequest},
};
use p2pd_core::ring::Next;
use p2pd_net::{Event, Incoming, Running, TopicRule};

use crate::support::{floor, open, publish, start, streams, until};
use tokio::time::timeout;

const TOPIC: &str = "news";
/// Far more than wait for a daemon.
const MESSAGES: u64 = 1_000;

/// Two of them that follow the topic.
async fn floors() -> (Running, Running) {
    let (slow, _) = floor(None);
    let address = until("an address", async || slow.handle.addresses().await.unwrap().into_iter().next()).await;
    let (other, _) = floor(Some(&address.to_string()));
    for floor in [&slow, &other] {
        floor.handle.subscribe(TOPIC, TopicRule::Open).await.unwrap();
    }
    until("the mesh", async || (other.handle.topic_peers(TOPIC).await.unwrap().mesh > 0).then_some(())).await;
    (slow, other)
}

async fn send_all(from: &Running) {
    for n in 0..MESSAGES {
        from.handle.publish_ahead(TOPIC, n.to_string().into()).await.unwrap().sent().await.unwrap();
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
        let next = timeout(Duration::from_secs(20), watch.message()).await;
        match next.unwrap_or_else(|_| panic!("nothing more after {seen}")) {
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
