//! The main job: a stream published on one daemon is listed and heard on others, whatever happens between.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use p2pd::app::{Daemon, Setup};
use p2pd_api::{
    Reason, reason_of,
    v1::{
        AudioGroup, ConnectRequest, Frame, Frames, GetInfoRequest, GetStreamRequest, ListPeersRequest,
        ListStreamsRequest, OpenStream, PublishRequest, Rule, SetRuleRequest, SubscribeStreamRequest, Verdict,
        WireFormat, node_service_client::NodeServiceClient, pub_sub_service_client::PubSubServiceClient,
        publish_stream_request::Item, stream_service_client::StreamServiceClient, subscribe_stream_response::Event,
    },
};

use crate::support::{
    self, channel, frame, list, listen, next, open, pair, publish, setup, setup_at, start, streams, until,
};
use tonic::Code;

/// Reads groups until the stream ends; the frames in the order of their numbers, and the numbers.
async fn to_the_end(replies: &mut tonic::Streaming<p2pd_api::v1::SubscribeStreamResponse>) -> (Vec<Vec<u8>>, Vec<u64>) {
    let mut groups: BTreeMap<u64, AudioGroup> = BTreeMap::new();
    loop {
        match next(replies).await {
            Event::Group(group) => {
                assert!(groups.insert(group.seq, group).is_none(), "each group comes once");
            }
            Event::Ended(end) => {
                assert_eq!(end.reason, "ended");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let numbers = groups.keys().copied().collect();
    (groups.into_values().flat_map(|g| g.frames).map(|f| f.to_vec()).collect(), numbers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_listed_within_two_seconds_and_heard_bit_exact() {
    let (a, b) = pair().await;
    until("a connection", async || {
        (!support::peers(&b).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers.is_empty())
            .then_some(())
    })
    .await;
    let began = Instant::now();
    let publishing = publish(&a, open("town-radio")).await.unwrap();
    let stream = until("the entry", async || list(&b).await.into_iter().next()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(
        (stream.stream_id.as_str(), stream.name.as_str(), stream.category.as_str()),
        ("town-radio", "Town radio", "news")
    );
    assert!(stream.confirmed && !stream.local && stream.config == Some(support::config()));
    assert!(stream.metadata_json.contains("4711"), "unknown fields are kept");

    let mut replies = listen(&b, "town-radio", 0).await;
    let mut local = listen(&a, "town-radio", 0).await;
    until("the follower", async || {
        let topic = serde_json::from_str::<serde_json::Value>(&stream.metadata_json).unwrap()["topic"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut pubsub = p2pd_api::v1::pub_sub_service_client::PubSubServiceClient::new(support::channel(&a).await);
        let followers =
            pubsub.list_topic_peers(p2pd_api::v1::ListTopicPeersRequest { topic }).await.unwrap().into_inner();
        (!followers.peer_ids.is_empty()).then_some(())
    })
    .await;
    publishing.frames(0..152).await;
    publishing.send(Item::Finish(true)).await;
    let sent: Vec<Vec<u8>> = (0..152).map(frame).collect();
    for replies in [&mut replies, &mut local] {
        let (frames, numbers) = to_the_end(replies).await;
        assert_eq!(frames, sent);
        assert_eq!(numbers, (0..31).collect::<Vec<_>>());
    }
    until("the entry's end", async || list(&b).await.is_empty().then_some(())).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_begins_with_a_burst() {
    let (a, b) = pair().await;
    let publishing = publish(&a, open("town")).await.unwrap();
    publishing.frames(0..100).await;
    let mut replies = listen(&b, "town", 2_000).await;
    let Event::Group(first) = next(&mut replies).await else { panic!("a group") };
    assert!(first.seq < 20, "from before it listened: {}", first.seq);
    drop(publishing);
    a.stop().await;
    b.stop().await;
}

/// One group in five is dropped on arrival; the numbers up to 57 of 62 that were read all the same.
async fn with_drops(repair: bool) -> Vec<u64> {
    let a = start(&[]).await;
    let mut second = setup(&a.addresses[..1]);
    (second.config.streams.drop_percent, second.config.streams.repair) = (20, repair);
    let b = Daemon::start(second).await.unwrap();
    let publishing = publish(&a, open("town")).await.unwrap();
    let mut replies = listen(&b, "town", 0).await;
    publishing.frames(0..310).await;
    publishing.send(Item::Finish(true)).await;
    let (_, mut numbers) = to_the_end(&mut replies).await;
    numbers.retain(|n| *n <= 57);
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_groups_are_fetched_in_time() {
    let numbers = with_drops(true).await;
    let first = *numbers.first().expect("groups");
    assert_eq!(numbers, (first..=57).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fetching_exactly_the_dropped_are_missing() {
    let numbers = with_drops(false).await;
    let first = *numbers.first().expect("groups");
    let missing = (58 - first) as usize - numbers.len();
    let expected = (58 - first) as usize / 5;
    assert!(missing.abs_diff(expected) <= 1, "{missing} of {expected}: {numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_daemon_hears_through_a_common_peer() {
    let hub = start(&[]).await;
    let (a, c) = (start(&[]).await, start(&[]).await);
    // A listener dials the publisher itself, if it may.
    for (daemon, other) in [(&a, &c), (&c, &a)] {
        let rule = Some(Rule { subject: support::id(other), verdict: Verdict::Deny.into() });
        support::peers(daemon).await.set_rule(SetRuleRequest { rule }).await.unwrap();
        let hub = ConnectRequest { address: support::tcp(&hub) };
        support::peers(daemon).await.connect(hub).await.unwrap();
    }
    let publishing = publish(&a, open("town")).await.unwrap();
    // Gossip goes from follower to follower.
    let _between = listen(&hub, "town", 0).await;
    let mut replies = listen(&c, "town", 0).await;
    tokio::select! {
        () = publishing.frames(0..1_000) => panic!("nothing is heard"),
        event = next(&mut replies) => assert!(matches!(event, Event::Group(_))),
    }
    let peers = support::peers(&c).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    assert_eq!(peers.into_iter().map(|peer| peer.peer_id).collect::<Vec<_>>(), [support::id(&hub)]);
    for daemon in [hub, a, c] {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_starts_again_is_heard_again() {
    let (a, b) = pair().await;
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let publishing = publish(&a, open("town")).await.unwrap();
        let mut replies = listen(&b, "town", 0).await;
        publishing.frames(0..40).await;
        let Event::Group(group) = next(&mut replies).await else { panic!("a group") };
        epochs.push(group.epoch);
        publishing.send(Item::Finish(true)).await;
        to_the_end(&mut replies).await;
        until("the entry's end", async || (list(&b).await.is_empty() && list(&a).await.is_empty()).then_some(())).await;
    }
    assert!(epochs[0] < epochs[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_publishers_may_use_one_id() {
    let (a, b) = pair().await;
    let one = publish(&a, open("town")).await.unwrap();
    let two = publish(&b, open("town")).await.unwrap();
    let both = until("both entries", async || Some(list(&b).await).filter(|l| l.len() == 2)).await;
    let error = streams(&b).await.get_stream(GetStreamRequest { stream: "town".into() }).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::FailedPrecondition, Some(Reason::StreamAmbiguous)));
    for entry in &both {
        assert!(error.message().contains(&entry.publisher), "{error}");
        let exact = format!("town@{}", entry.publisher);
        let found = streams(&b).await.get_stream(GetStreamRequest { stream: exact }).await.unwrap().into_inner();
        assert_eq!(found.stream.unwrap().publisher, entry.publisher);
    }
    drop(two);
    until("one entry", async || (list(&a).await.len() == 1).then_some(())).await;
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_there_at_once_after_a_restart() {
    let a = start(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let second = || {
        let mut setup = setup(&[]);
        (setup.paths.data, setup.paths.socket) = (place.path().join("data"), place.path().join("api.sock"));
        setup
    };
    let mut first: Setup = second();
    first.config.network.bootstrap = a.addresses[..1].to_vec();
    let b = Daemon::start(first).await.unwrap();
    let publishing = publish(&a, open("town")).await.unwrap();
    until("the entry", async || list(&b).await.into_iter().next()).await;
    b.stop().await;
    drop(publishing);
    a.stop().await;
    let again = Daemon::start(second()).await.unwrap();
    let kept = list(&again).await;
    assert_eq!(kept.len(), 1);
    assert!(!kept[0].confirmed, "not yet heard again");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_json_format_is_carried_both_ways() {
    let (a, b) = pair().await;
    let old = |id: &str| OpenStream { wire: WireFormat::Json.into(), config: None, ..open(id) };
    let publishing = publish(&a, old("town")).await.unwrap();
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    assert_eq!(entry.wire(), WireFormat::Json);
    let mut replies = listen(&b, "town", 0).await;
    let heard = tokio::spawn(async move { next(&mut replies).await });
    until("the slice", async || {
        publishing.send(Item::Chunk(vec![0xff, 0xfb, 1, 2].into())).await;
        heard.is_finished().then_some(())
    })
    .await;
    assert_eq!(heard.await.unwrap(), Event::Chunk(vec![0xff, 0xfb, 1, 2].into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_back_in_another_format_is_heard() {
    let (a, b) = pair().await;
    for (format, n) in [(WireFormat::Json, 1), (WireFormat::Native, 2), (WireFormat::Json, 3), (WireFormat::Native, 4)]
    {
        let config = open("town").config.filter(|_| format == WireFormat::Native);
        let publishing = publish(&a, OpenStream { wire: format.into(), config, ..open("town") }).await.unwrap();
        until("the entry", async || list(&b).await.into_iter().find(|entry| entry.wire() == format)).await;
        let mut replies = listen(&b, "town", 0).await;
        let heard = tokio::spawn(async move { next(&mut replies).await });
        until("something of it", async || {
            let item = if format == WireFormat::Json {
                Item::Chunk(vec![n; 9].into())
            } else {
                Item::Frame(Frame { data: frame(n.into()).into(), capture_us: 0, duration_us: 0 })
            };
            publishing.send(item).await;
            heard.is_finished().then_some(())
        })
        .await;
        match heard.await.unwrap() {
            Event::Chunk(chunk) => assert!(format == WireFormat::Json && chunk == vec![n; 9]),
            Event::Group(_) => assert_eq!(format, WireFormat::Native),
            other => panic!("{other:?}"),
        }
        publishing.send(Item::Finish(true)).await;
        until("its end", async || list(&a).await.is_empty().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_a_publisher_are_named() {
    let a = start(&[]).await;
    let held = publish(&a, open("town")).await.unwrap();
    let error = |open| async { publish(&a, open).await.err().expect("refused") };
    let twice = error(open("town")).await;
    assert_eq!((twice.code(), reason_of(&twice)), (Code::AlreadyExists, Some(Reason::StreamExists)));
    let bad = [
        (open(""), "open.stream_id"),
        (open("a b"), "open.stream_id"),
        (OpenStream { config: None, ..open("x") }, "open.config"),
        (OpenStream { metadata_json: "[]".into(), ..open("x") }, "open.metadata_json"),
        (OpenStream { name: "x".repeat(201), ..open("x") }, "open.name"),
    ];
    for (open, field) in bad {
        let refused = error(open).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(field), "{refused}");
    }
    assert_eq!(list(&a).await.len(), 1, "no phantom entry is left");
    drop(held);
    until("nothing", async || list(&a).await.is_empty().then_some(())).await;

    let frame = |bytes| Frame { data: vec![0; bytes].into(), capture_us: 0, duration_us: 0 };
    let frames = |count| Item::Frames(Frames { frames: vec![frame(9); count] });
    for (bad, field) in [(Item::Frame(frame(5000)), "frame.data"), (frames(0), "frames"), (frames(51), "frames")] {
        let mut publishing = publish(&a, open("again")).await.unwrap();
        publishing.send(bad).await;
        let refused = loop {
            if let Err(status) = publishing.replies.message().await {
                break status;
            }
        };
        assert!(refused.message().contains(field), "{refused}");
        until("nothing", async || list(&a).await.is_empty().then_some(())).await;
    }
}

/// In the millisecond of its end, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ended_is_published_again_at_once() {
    let a = start(&[]).await;
    for _ in 0..200 {
        let published = until("its place", async || match publish(&a, open("town")).await {
            Err(error) if reason_of(&error) == Some(Reason::StreamExists) => None,
            published => Some(published),
        });
        drop(published.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_stream_is_not_found_after_the_asked_wait() {
    let a = start(&[]).await;
    let request = SubscribeStreamRequest { stream: "nowhere".into(), wait_ms: 100, burst_ms: 0 };
    let error = streams(&a).await.subscribe_stream(request).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::NotFound, Some(Reason::StreamNotFound)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_tells_its_readers() {
    let a = start(&[]).await;
    let publishing = publish(&a, open("town")).await.unwrap();
    let mut replies = listen(&a, "town", 0).await;
    let stopped = Instant::now();
    a.stop().await;
    assert!(stopped.elapsed() < Duration::from_secs(10));
    let status = loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the end came without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason_of(&status), Some(Reason::Stopping));
    drop(publishing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_daemon_tells_who_waits_for_something() {
    let a = start(&[]).await;
    let channel = channel(&a).await;
    let mut streams = StreamServiceClient::new(channel.clone());
    let request = SubscribeStreamRequest { stream: "nowhere".into(), wait_ms: 60_000, burst_ms: 0 };
    let mut listening = Box::pin(streams.subscribe_stream(request));
    let mut pubsub = PubSubServiceClient::new(channel.clone());
    let request = PublishRequest { topic: "nobody".into(), data: "hello".into(), wait_ms: 60_000 };
    let mut publishing = Box::pin(pubsub.publish(request));
    assert!(futures::poll!(&mut listening).is_pending() && futures::poll!(&mut publishing).is_pending());
    // Behind the two on the same connection.
    NodeServiceClient::new(channel).get_info(GetInfoRequest {}).await.unwrap();
    a.stop().await;
    let (listening, publishing) = (listening.await.unwrap_err(), publishing.await.unwrap_err());
    assert_eq!([listening, publishing].each_ref().map(reason_of), [Some(Reason::Stopping); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_is_told_of_its_gap_and_others_are_untouched() {
    let a = start(&[]).await;
    let publishing = publish(&a, open("town")).await.unwrap();
    let mut slow = listen(&a, "town", 0).await;
    let mut fast = listen(&a, "town", 0).await;
    let read = Arc::new(AtomicU32::new(0));
    let count = read.clone();
    let reading = tokio::spawn(async move {
        while let Event::Group(_) = next(&mut fast).await {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Large frames fill what the connection holds; then the reader's own queue drops its oldest.
    for n in 0..6000u32 {
        publishing.send(Item::Frame(Frame { data: vec![n as u8; 3000].into(), capture_us: 0, duration_us: 0 })).await;
        // No faster than the fast one reads: what it is behind stays below its bound of 64 groups.
        until("the fast reader", async || (n / 5 < read.load(Ordering::SeqCst) + 30).then_some(())).await;
    }
    publishing.send(Item::Finish(true)).await;
    let mut gaps = 0;
    loop {
        match next(&mut slow).await {
            Event::Gap(gap) => gaps += gap.to - gap.from + 1,
            Event::Ended(_) => break,
            _ => {}
        }
    }
    assert!(gaps > 0, "the slow reader is told");
    reading.await.unwrap();
    assert_eq!(read.load(Ordering::SeqCst), 1201, "the fast one has all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_later_than_the_one_before_also_where_the_clock_was_set_back() {
    const DAY_MS: u64 = 86_400_000;
    let place = tempfile::tempdir().unwrap();
    let epoch = async || {
        let daemon = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
        let town = publish(&daemon, open("town")).await.unwrap();
        let mut replies = listen(&daemon, "town", 0).await;
        town.frames(0..5).await;
        let Event::Group(group) = next(&mut replies).await else { panic!("a group") };
        drop((town, replies));
        daemon.stop().await;
        group.epoch
    };
    let first = epoch().await;
    // As one that began tomorrow would have left it.
    let store = p2pd_store::Store::open(&place.path().join("data/db")).unwrap();
    assert_eq!(store.setting("epoch").unwrap(), Some(first.to_string()));
    store.set_setting("epoch", &(first + DAY_MS).to_string()).unwrap();
    drop(store);
    assert_eq!(epoch().await, first + DAY_MS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_has_pages() {
    let a = start(&[]).await;
    let mut published = Vec::new();
    for name in ["one", "three", "two"] {
        published.push(publish(&a, open(name)).await.unwrap());
    }
    let mut client = streams(&a).await;
    let mut page = async |page_token: String| {
        let request = ListStreamsRequest { page_size: 2, page_token, ..Default::default() };
        let page = client.list_streams(request).await?.into_inner();
        let names: Vec<_> = page.streams.into_iter().map(|stream| stream.stream_id).collect();
        Ok::<_, tonic::Status>((names.join(" "), page.next_page_token))
    };
    let (first, next) = page(String::new()).await.unwrap();
    assert_eq!((first.as_str(), page(next).await.unwrap()), ("one three", ("two".into(), String::new())));
    let refused = page("nonsense".into()).await.unwrap_err();
    assert!(refused.message().contains("page_token"), "{refused:?}");
}
