//! More than can be taken at once: it is held back, or whoever waits for it is told.

use std::time::Duration;

use p2pd_api::{
    Reason, reason_of,
    v1::{
        OpenStream, PublishManyRequest, PublishRequest, SubscribeRequest, WatchStreamsRequest,
        pub_sub_service_client::PubSubServiceClient, subscribe_stream_response,
    },
};
use p2pd_core::ring::Next;
use p2pd_net::{Message, queue};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{DEADLINE, channel, floor, follow, list, listen, next, open, publish, start, streams, until};

/// The last message of a topic.
const END: &str = "end";
/// Far more than wait for a daemon.
const MESSAGES: u64 = 1_000;

/// Reads what there is of a topic, up to a message of its end: how many messages came, and of how many it is told that they are lost.
async fn account(heard: &mut queue::Reader<Message>) -> (u64, u64) {
    let (mut came, mut lost) = (0, 0);
    let all = async {
        loop {
            match heard.next().await.unwrap() {
                Next::Item(message) if message.data == END => return,
                Next::Item(_) => came += 1,
                Next::Gap { from, to, .. } => lost += to - from + 1,
            }
        }
    };
    timeout(DEADLINE, all).await.expect("the end");
    (came, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_nobody_reads_loses_its_own_messages_alone_and_is_told() {
    const TOPICS: [&str; 2] = ["news", "quiet"];
    let (slow, _) = floor(None);
    let address =
        until("an address", async || slow.handle.addresses().await.unwrap().listening.into_iter().next()).await;
    let (other, _) = floor(Some(&address.to_string()));
    let (mut news, mut quiet) = (follow(&slow, TOPICS[0]).await, follow(&slow, TOPICS[1]).await);
    for topic in TOPICS {
        follow(&other, topic).await;
        let mesh = async || (other.handle.pubsub.topic_peers(topic).await.unwrap().mesh > 0).then_some(());
        until("the mesh", mesh).await;
    }
    let say = async |topic: &str, message: String| {
        other.handle.pubsub.publish_ahead(topic, message.into()).await.unwrap().sent().await.unwrap();
    };
    for n in 0..MESSAGES {
        say(TOPICS[0], n.to_string()).await;
        if n % 100 == 0 {
            say(TOPICS[1], n.to_string()).await;
        }
    }
    for topic in TOPICS {
        say(topic, END.to_owned()).await;
    }
    assert_eq!(account(&mut quiet).await, (MESSAGES / 100, 0));
    let (came, lost) = account(&mut news).await;
    assert!(came > 0 && lost > 0 && came + lost == MESSAGES, "{lost} lost, {came} left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_a_topic_costs_no_group_and_no_stream() {
    const FLOOD: usize = 10_000;
    const STREAMS: usize = 8;
    const GROUP: u32 = 5;
    let seq_of = |event| match event {
        subscribe_stream_response::Event::Group(group) => Some(group.seq),
        _ => None,
    };
    let a = start(&[]).await;
    let b = start(&a.addresses[..1]).await;
    let town = publish(&a, open("town")).await.unwrap();
    until("the stream", async || (!list(&b).await.is_empty()).then_some(())).await;
    let mut heard = listen(&b, "town", 0).await;
    // Groups from before the mesh stands are no loss.
    let (mut frame, mut seq) = (0, None);
    while seq.is_none() {
        town.frames(frame..frame + GROUP).await;
        frame += GROUP;
        seq = timeout(Duration::from_millis(200), next(&mut heard)).await.ok().and_then(seq_of);
    }
    // A reader that is never read, and one publisher that says all it can.
    let request = SubscribeRequest { topic: "flood".into(), contract: None };
    let _unread = PubSubServiceClient::new(channel(&b).await).subscribe(request).await.unwrap().into_inner();
    let (items, requests) = mpsc::channel(256);
    let flooding = tokio::spawn(async move {
        for n in 0..FLOOD {
            let message = PublishRequest { topic: "flood".into(), data: n.to_string().into(), wait_ms: 15_000 };
            if items.send(PublishManyRequest { message: Some(message) }).await.is_err() {
                return;
            }
        }
    });
    let mut publisher = PubSubServiceClient::new(channel(&a).await);
    let mut answers = publisher.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let published = tokio::spawn(async move { while answers.message().await.is_ok_and(|answer| answer.is_some()) {} });
    let mut others = Vec::new();
    while !published.is_finished() || others.len() < STREAMS {
        if others.len() < STREAMS {
            others.push(publish(&a, open(&format!("other-{}", others.len()))).await.unwrap());
        }
        town.frames(frame..frame + GROUP).await;
        frame += GROUP;
        let next = seq_of(timeout(DEADLINE, next(&mut heard)).await.expect("a group"));
        assert_eq!(next, seq.map(|seq| seq + 1), "no group is lost");
        seq = next;
    }
    flooding.await.unwrap();
    until("every stream", async || (list(&b).await.len() == STREAMS + 1).then_some(())).await;
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
