//! Listeners that wait for a stream hear it from its first sound on.

use p2pd::app::Daemon;
use p2pd_api::v1::{
    Frame, ListTopicPeersRequest, OpenStream, StreamConfig, SubscribeStreamRequest, SubscribeStreamResponse,
    WireFormat, pub_sub_service_client::PubSubServiceClient, publish_stream_request::Item,
    subscribe_stream_response::Event,
};
use p2pd_live::topic;
use tonic::Streaming;

use crate::support::{channel, config, floor, frame, next, open, pair, publish, streams, until};

/// Waits on a daemon for a stream that is not there yet.
async fn wait(daemon: &Daemon) -> impl Future<Output = Streaming<SubscribeStreamResponse>> {
    let mut client = streams(daemon).await;
    let request = SubscribeStreamRequest { stream: "town".into(), wait_ms: 15_000, burst_ms: 1_000 };
    let waiting = tokio::spawn(async move { client.subscribe_stream(request).await.unwrap().into_inner() });
    async { waiting.await.unwrap() }
}

/// What is taken of each event, up to the end of the stream.
async fn to_the_end<T>(
    waiting: impl Future<Output = Streaming<SubscribeStreamResponse>>,
    take: impl Fn(Event) -> Option<T>,
) -> Vec<T> {
    let (mut replies, mut heard) = (waiting.await, Vec::new());
    loop {
        match next(&mut replies).await {
            Event::Ended(_) => return heard,
            event => heard.extend(take(event)),
        }
    }
}

fn old_topic() -> String {
    topic::audio_json(topic::DEFAULT_NETWORK, &"town".parse().unwrap())
}

/// Waits until a daemon sees so many follow a topic.
async fn followers(daemon: &Daemon, topic: &str, count: usize) {
    until("the followers", async || {
        let request = ListTopicPeersRequest { topic: topic.into() };
        let peers = PubSubServiceClient::new(channel(daemon).await).list_topic_peers(request).await.unwrap();
        (peers.into_inner().peer_ids.len() >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_native_stream_hears_its_first_group() {
    for _ in 0..3 {
        let (a, b) = pair().await;
        // While somebody follows it so, the stream is sent in the old format, too; whoever waits follows that as well.
        let ((old, _), topic) = (floor(Some(&a.addresses[0])), old_topic());
        crate::support::follow(&old, &topic).await;
        followers(&a, &topic, 1).await;
        let waiting = wait(&b).await;
        followers(&a, &topic, 2).await;
        until("the connection", async || (!b_peers(&b).await.is_empty()).then_some(())).await;
        let opening = OpenStream { config: Some(StreamConfig { frames_per_group: 1, ..config() }), ..open("town") };
        let town = publish(&a, opening).await.unwrap();
        let publishing = async {
            // So that some are there before anybody can have followed the stream.
            for n in 0..10 {
                town.send(Item::Frame(Frame { data: frame(n).into(), capture_us: 0, duration_us: 0 })).await;
            }
            town.frames(10..50).await;
            town.send(Item::Finish(true)).await;
        };
        let hearing = to_the_end(waiting, |event| match event {
            Event::Group(group) => (!group.frames.is_empty()).then_some(group.seq),
            Event::Opened(_) | Event::Gap(_) => None,
            other => panic!("not of a native stream: {other:?}"),
        });
        let ((), mut heard) = tokio::join!(publishing, hearing);
        heard.sort_unstable();
        assert_eq!(heard, (0..50).collect::<Vec<_>>());
    }
}

async fn b_peers(daemon: &Daemon) -> Vec<p2pd_api::v1::Peer> {
    let mut peers = crate::support::peers(daemon).await;
    peers.list_peers(p2pd_api::v1::ListPeersRequest {}).await.unwrap().into_inner().peers
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_stream_in_json_hears_its_first_slice() {
    for _ in 0..3 {
        let (a, b) = pair().await;
        let waiting = wait(&b).await;
        followers(&a, &old_topic(), 1).await;
        let opening = OpenStream { wire: WireFormat::Json.into(), config: None, ..open("town") };
        let town = publish(&a, opening).await.unwrap();
        let publishing = async {
            for n in 0..40u8 {
                town.send(Item::Chunk(vec![n; 100].into())).await;
                if n >= 10 {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            town.send(Item::Finish(true)).await;
        };
        let hearing = to_the_end(waiting, |event| match event {
            Event::Chunk(chunk) => Some(chunk[0]),
            _ => None,
        });
        let ((), heard) = tokio::join!(publishing, hearing);
        assert_eq!(heard, (0..40).collect::<Vec<_>>());
    }
}
