//! The contract of pub/sub: what a publisher is told, what each kind of subscription gets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use p2pd::app::Daemon;
use p2pd_api::{
    Reason, reason_of,
    v1::{
        Block, DropOldest, Durable, ForgetTopicRequest, GetTopicRequest, MessageIdentity, PublishManyRequest,
        PublishRequest, SetTopicRequest, SubscribeRequest, SubscribeResponse, Topic, TopicSettings, WatchTopicRequest,
        pub_sub_service_client::PubSubServiceClient, subscribe_request::Contract, subscribe_response::Event,
    },
};
use p2pd_core::{time::UnixMs, topic_settings::dated};

use crate::support::{DEADLINE, channel, now_ms, pair, setup_at, standstill, start, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_types::StatusExt;

type Client = PubSubServiceClient<Channel>;

pub async fn client(daemon: &Daemon) -> Client {
    PubSubServiceClient::new(channel(daemon).await)
}

pub fn message(data: impl Into<Vec<u8>>) -> PublishRequest {
    PublishRequest { topic: "chat".into(), data: data.into().into(), wait_ms: 0 }
}

pub async fn subscribe(daemon: &Daemon, contract: Option<Contract>) -> Streaming<SubscribeResponse> {
    let request = SubscribeRequest { topic: "chat".into(), contract };
    let mut messages = client(daemon).await.subscribe(request).await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap().event, Some(Event::Subscribed(true)));
    messages
}

fn durable(after: Option<u64>) -> Option<Contract> {
    Some(Contract::Durable(Durable { after, from_oldest: false }))
}

fn oldest() -> Option<Contract> {
    Some(Contract::Durable(Durable { after: None, from_oldest: true }))
}

async fn next(messages: &mut Streaming<SubscribeResponse>) -> (Event, u64) {
    let response = tokio::time::timeout(DEADLINE, messages.message()).await.expect("an event in time");
    let response = response.unwrap().expect("not the end");
    (response.event.unwrap(), response.cursor)
}

/// The next message's text, and the cursor after it.
async fn text(messages: &mut Streaming<SubscribeResponse>) -> (String, u64) {
    match next(messages).await {
        (Event::Message(message), cursor) => (String::from_utf8(message.data.to_vec()).unwrap(), cursor),
        (other, _) => panic!("not a message: {other:?}"),
    }
}

pub async fn texts(messages: &mut Streaming<SubscribeResponse>, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(text(messages).await.0);
    }
    texts
}

async fn topic(daemon: &Daemon) -> Topic {
    let request = GetTopicRequest { topic: "chat".into() };
    client(daemon).await.get_topic(request).await.unwrap().into_inner().topic.unwrap()
}

/// Waits until `daemon` knows of so many followers elsewhere.
pub async fn followers(daemon: &Daemon, count: u32) {
    until("followers", async || (topic(daemon).await.peers == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_waits_for_a_listener_and_says_when_none_came() {
    let (a, b) = pair().await;
    let mut publisher = client(&a).await;
    let began = Instant::now();
    let refused = publisher.publish(PublishRequest { wait_ms: 300, ..message("x") }).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::FailedPrecondition, Some(Reason::NoListeners)));
    assert!(began.elapsed() >= Duration::from_millis(300));
    let sending =
        tokio::spawn(async move { publisher.publish(PublishRequest { wait_ms: 20_000, ..message("y") }).await });
    let mut messages = subscribe(&b, None).await;
    assert_eq!(sending.await.unwrap().unwrap().into_inner().peers, 1);
    assert_eq!(text(&mut messages).await.0, "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_published_in_order_and_each_is_answered() {
    let (a, b) = pair().await;
    let mut messages = subscribe(&b, None).await;
    followers(&a, 1).await;
    let many = ["one".to_owned(), "x".repeat(100_000), "three".to_owned()];
    let requests = many.map(|text| PublishManyRequest { message: Some(message(text)) });
    let mut answers = client(&a).await.publish_many(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        told.push((answer.number, answer.peers, answer.reason));
    }
    assert_eq!(told, [(0, 1, String::new()), (1, 0, "FIELD_INVALID".into()), (2, 1, String::new())]);
    assert_eq!(texts(&mut messages, 2).await, ["one", "three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_ends_the_call_with_a_word() {
    let (a, b) = pair().await;
    let mut messages = subscribe(&b, None).await;
    followers(&a, 1).await;
    let requests = ["one".to_owned(), "x".repeat(3_000_000), "never read".to_owned()];
    let requests = requests.map(|text| PublishManyRequest { message: Some(message(text)) });
    let mut answers = client(&a).await.publish_many(tokio_stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().expect("an answer to the first").peers, 1);
    let refused = answers.message().await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::FieldInvalid)), "{refused}");
    assert_eq!(text(&mut messages).await.0, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_network_has_local_readers_get_too() {
    let (a, b) = pair().await;
    let block = || Some(Contract::Block(Block { max_wait_ms: 10_000 }));
    let (mut there, mut here) = (subscribe(&b, block()).await, subscribe(&a, block()).await);
    followers(&a, 1).await;
    let mut api = client(&a).await;
    let publishing = async {
        for call in 0..5 {
            let (items, requests) = mpsc::channel(16);
            // Large, so that some are on their way when the program goes away.
            for n in 0..16 {
                let message = Some(message(format!("{call} {n}{}", " ".repeat(50_000))));
                items.send(PublishManyRequest { message }).await.unwrap();
            }
            let mut answers = api.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
            answers.message().await.unwrap();
        }
        until("the last", async || client(&a).await.publish(message("end")).await.ok()).await;
    };
    let all = async |messages: &mut Streaming<_>| {
        let mut all = Vec::new();
        while all.last().is_none_or(|last| last != "end") {
            all.push(text(messages).await.0.trim().to_owned());
        }
        all
    };
    let ((), mut had_here, mut had_there) = tokio::join!(publishing, all(&mut here), all(&mut there));
    // Of one call they come in order; one call may be overtaken by the next, and so by the end.
    while had_here.len() < had_there.len() {
        had_here.push(text(&mut here).await.0.trim().to_owned());
    }
    let call = |text: &String| text.split(' ').next().map(str::to_owned);
    had_here.sort_by_key(call);
    had_there.sort_by_key(call);
    assert_eq!(had_here, had_there);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_told_with_each_change() {
    let (a, b) = pair().await;
    let request = WatchTopicRequest { topic: "chat".into() };
    let mut watch = client(&a).await.watch_topic(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().topic.unwrap().peers, 0);
    let messages = subscribe(&b, None).await;
    let told = async |watch: &mut Streaming<_>, peers, readers| loop {
        let told: p2pd_api::v1::WatchTopicResponse = watch.message().await.unwrap().unwrap();
        let topic = told.topic.unwrap();
        if (topic.peers, topic.readers) == (peers, readers) {
            return;
        }
    };
    tokio::time::timeout(DEADLINE, told(&mut watch, 1, 0)).await.expect("the other daemon");
    let here = subscribe(&a, None).await;
    tokio::time::timeout(DEADLINE, told(&mut watch, 1, 1)).await.expect("a reader here");
    drop((messages, here));
    tokio::time::timeout(DEADLINE, told(&mut watch, 0, 0)).await.expect("nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_reader_goes_on_where_it_was_after_reader_and_daemon_were_away() {
    let a = start(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let b = Daemon::start(setup_at(place.path(), &a.addresses[..1])).await.unwrap();
    let mut messages = subscribe(&b, durable(None)).await;
    followers(&a, 1).await;
    let mut publisher = client(&a).await;
    for text in ["one", "two", "three"] {
        publisher.publish(message(text)).await.unwrap();
    }
    assert_eq!(texts(&mut messages, 1).await, ["one"]);
    let (second, cursor) = text(&mut messages).await;
    assert_eq!(second, "two");
    drop(messages);
    // Nobody reads, and the log goes on.
    publisher.publish(message("four")).await.unwrap();
    until("four messages", async || (topic(&b).await.log?.newest == cursor + 2).then_some(())).await;
    b.stop().await;
    let b = Daemon::start(setup_at(place.path(), &a.addresses[..1])).await.unwrap();
    let mut messages = subscribe(&b, durable(Some(cursor))).await;
    assert_eq!(texts(&mut messages, 2).await, ["three", "four"]);
    away(&mut messages).await;
    // It follows the topic again without having been asked to.
    until("the restarted daemon", async || publisher.clone().publish(message("five")).await.ok()).await;
    assert_eq!(texts(&mut messages, 1).await, ["five"]);
    let mut all = subscribe(&b, oldest()).await;
    assert_eq!(texts(&mut all, 4).await, ["one", "two", "three", "four"]);
    away(&mut all).await;
    assert_eq!(texts(&mut all, 1).await, ["five"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_a_log_without_messages_is_good_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    subscribe(&a, durable(None)).await;
    let cursor = topic(&a).await.log.unwrap().newest;
    a.stop().await;
    let a = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    let mut messages = subscribe(&a, durable(Some(cursor))).await;
    away(&mut messages).await;
    // Also when what was before has gone.
    client(&a).await.publish(message("one")).await.unwrap();
    assert_eq!(texts(&mut messages, 1).await, ["one"]);
    away(&mut subscribe(&a, durable(Some(cursor))).await).await;
}

/// That the daemon was away, comes next, whether or not there was a message.
async fn away(messages: &mut Streaming<SubscribeResponse>) {
    let (event, cursor) = next(messages).await;
    let Event::Gap(gap) = event else { panic!("{event:?}") };
    assert_eq!((gap.reason.as_str(), gap.to), ("daemon-away", cursor));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_not_kept_names_the_oldest_that_is() {
    let a = start(&[]).await;
    let mut api = client(&a).await;
    let settings = TopicSettings { keep_bytes: 65_536, ..TopicSettings::default() };
    api.set_topic(SetTopicRequest { topic: "chat".into(), settings: Some(settings) }).await.unwrap();
    let mut reader = subscribe(&a, durable(None)).await;
    let first = topic(&a).await.log.unwrap().oldest;
    for n in 0..40u8 {
        api.publish(message([n; 10_000])).await.unwrap();
        assert!(matches!(next(&mut reader).await.0, Event::Message(_)));
    }
    let log = topic(&a).await.log.unwrap();
    assert!(log.oldest >= first + 32 && log.bytes <= 75_000, "{log:?}");
    for cursor in [first, log.newest + 1] {
        let request = SubscribeRequest { topic: "chat".into(), contract: durable(Some(cursor)) };
        let refused = api.subscribe(request).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused)), (Code::OutOfRange, Some(Reason::CursorExpired)));
        let oldest = refused.get_details_error_info().unwrap().metadata["oldest"].clone();
        assert_eq!(oldest, log.oldest.to_string());
    }
    api.forget_topic(ForgetTopicRequest { topic: "chat".into() }).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, reader.message()).await.unwrap().unwrap_err();
    assert_eq!(reason_of(&ended), Some(Reason::TopicNotFound));
    // What begins anew shares no cursor with what was.
    subscribe(&a, durable(None)).await;
    assert!(topic(&a).await.log.unwrap().oldest > log.newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_cursor_begins_no_log() {
    let a = start(&[]).await;
    let request = SubscribeRequest { topic: "chat".into(), contract: durable(Some(5)) };
    let refused = client(&a).await.subscribe(request).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::CursorExpired));
    let nobody = client(&a).await.publish(message("x")).await.unwrap_err();
    assert_eq!(reason_of(&nobody), Some(Reason::NoListeners), "{nobody}");
    assert!(nobody.message().contains("`chat`"), "{nobody}");
}

/// Reads `count` messages that each begin with their number, of a log from the cursor `first` on; how many lay in gaps, all for
/// this reason.
async fn missed(messages: &mut Streaming<SubscribeResponse>, first: u64, count: u64, reason: &str) -> u64 {
    let (mut at, mut missed) = (first, 0);
    while at < first + count {
        match next(messages).await {
            (Event::Message(message), cursor) => {
                assert_eq!(message.data[..8], (at - first).to_be_bytes());
                assert_eq!(cursor, if first > 0 { at } else { 0 }, "a live reader has none");
                at += 1;
            }
            (Event::Gap(gap), _) => {
                assert_eq!((gap.from, gap.reason.as_str()), (at, reason));
                missed += gap.to - gap.from + 1;
                at = gap.to + 1;
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    missed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_told_what_it_missed() {
    const COUNT: u64 = 2_000;
    let a = start(&[]).await;
    let oldest_go = Some(Contract::DropOldest(DropOldest { max_messages: 4 }));
    let mut slow = subscribe(&a, oldest_go).await;
    let mut api = client(&a).await;
    for n in 0..COUNT {
        api.publish(message(n.to_be_bytes().repeat(512))).await.unwrap();
    }
    let missed = missed(&mut slow, 0, COUNT, "slow-reader").await;
    assert!(missed > 0, "all that was sent fitted in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_blocking_reader_holds_local_publishers_back() {
    let a = start(&[]).await;
    let block = Some(Contract::Block(Block { max_wait_ms: 10_000 }));
    let mut slow = subscribe(&a, block).await;
    let mut publisher = client(&a).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let sending = tokio::spawn(async move {
        for n in 0..3_000u32 {
            publisher.publish(message(n.to_be_bytes().repeat(1024))).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    // All that may wait for the reader, with what the socket holds, is far less than was to be sent.
    let held = standstill(&sent).await;
    assert!(held < 3_000, "all were taken although nobody read");
    for n in 0..3_000u32 {
        let (event, _) = next(&mut slow).await;
        assert!(matches!(&event, Event::Message(m) if m.data[..4] == n.to_be_bytes()), "{n}: {event:?}");
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_reader_that_stays_away_costs_so_much_and_is_told_what_it_missed() {
    const PATIENCE: Duration = Duration::from_millis(50);
    let a = start(&[]).await;
    let mut away = subscribe(&a, Some(Contract::Block(Block { max_wait_ms: 50 }))).await;
    let mut publisher = client(&a).await;
    let (mut sent, mut waited) = (0u64, 0);
    // Each beyond what may wait for the reader costs its publisher so long, and is sent all the same.
    while waited < 40 {
        let began = Instant::now();
        publisher.publish(message(sent.to_be_bytes().repeat(7_500))).await.unwrap();
        waited += usize::from(began.elapsed() >= PATIENCE);
        sent += 1;
        assert!(sent < 2_000, "nobody ever waited");
    }
    let missed = missed(&mut away, 0, sent, "slow-reader").await;
    // What was within the bound when the waiting began is lost only as far as those that came after need its place.
    assert!((1..40).contains(&missed), "{missed} missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_reader_that_is_too_slow_is_told_what_has_expired() {
    const COUNT: u64 = 300;
    let a = start(&[]).await;
    let mut api = client(&a).await;
    let settings = TopicSettings { keep_bytes: 65_536, ..TopicSettings::default() };
    api.set_topic(SetTopicRequest { topic: "chat".into(), settings: Some(settings) }).await.unwrap();
    let mut slow = subscribe(&a, durable(None)).await;
    let first = topic(&a).await.log.unwrap().oldest;
    // What came in one batch with others is dropped with the next.
    for (from, to) in [(0, COUNT), (COUNT, COUNT + 1)] {
        for n in from..to {
            api.publish(message(n.to_be_bytes().repeat(6_250))).await.unwrap();
        }
        until("all on disk", async || (topic(&a).await.log?.newest == first + to - 1).then_some(())).await;
    }
    let missed = missed(&mut slow, first, COUNT + 1, "expired").await;
    assert!(missed > 0, "all that was sent fitted in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_bound_sizes_and_tell_messages_apart_and_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let b = start(&[]).await;
    let a = Daemon::start(setup_at(place.path(), &b.addresses[..1])).await.unwrap();
    let settings = TopicSettings {
        max_message_bytes: 200_000,
        identity: MessageIdentity::Content.into(),
        ..TopicSettings::default()
    };
    let request = SetTopicRequest { topic: "chat".into(), settings: Some(settings) };
    for daemon in [&a, &b] {
        client(daemon).await.set_topic(request.clone()).await.unwrap();
    }
    let bad = TopicSettings { judging_ms: 5_000, ..settings };
    let bad = SetTopicRequest { topic: "chat".into(), settings: Some(bad) };
    let refused = client(&a).await.set_topic(bad).await.unwrap_err();
    assert!(refused.message().contains("settings.judging_ms"), "{refused}");
    a.stop().await;
    let a = Daemon::start(setup_at(place.path(), &b.addresses[..1])).await.unwrap();
    assert_eq!(topic(&a).await.settings.unwrap().max_message_bytes, 200_000);
    let mut messages = subscribe(&b, None).await;
    followers(&a, 1).await;
    let mut publisher = client(&a).await;
    publisher.publish(message(vec![7; 180_000])).await.unwrap();
    let Event::Message(large) = next(&mut messages).await.0 else { panic!("a message") };
    assert_eq!(large.data.len(), 180_000);
    let again = publisher.publish(message(vec![7; 180_000])).await.unwrap_err();
    assert_eq!((again.code(), reason_of(&again)), (Code::AlreadyExists, Some(Reason::DuplicateMessage)));
    let refused = publisher.publish(message(vec![7; 200_001])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_old_is_dropped() {
    let b = start(&[]).await;
    let a = start(&b.addresses[..1]).await;
    let settings = Some(TopicSettings { max_age_ms: 60_000, ..TopicSettings::default() });
    for daemon in [&a, &b] {
        let request = SetTopicRequest { topic: "chat".into(), settings };
        assert_eq!(
            client(daemon).await.set_topic(request).await.unwrap().into_inner().settings.unwrap().max_age_ms,
            60_000
        );
    }
    let mut messages = subscribe(&b, None).await;
    // Without the setting, a daemon publishes whatever time its program writes.
    let plain = start(&b.addresses[..1]).await;
    for daemon in [&a, &plain] {
        followers(daemon, 1).await;
    }
    let now = now_ms();
    let dated = |text: &str, time| message(dated(text.as_bytes(), UnixMs(time)));
    let mut forger = client(&plain).await;
    for said in
        [dated("old", now - 90_000), dated("of the future", now + 90_000), message("no time"), dated("new", now)]
    {
        forger.publish(said).await.unwrap();
    }
    assert_eq!(texts(&mut messages, 1).await, ["new"]);
    client(&a).await.publish(message("fresh")).await.unwrap();
    assert_eq!(texts(&mut messages, 1).await, ["fresh"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_bounded_in_number() {
    let a = start(&[]).await;
    let mut api = client(&a).await;
    let request = |n: u32| SubscribeRequest { topic: format!("chat-{n}"), contract: durable(None) };
    for n in 0..32 {
        api.subscribe(request(n)).await.unwrap();
    }
    let refused = api.subscribe(request(32)).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::ResourceExhausted, Some(Reason::LimitReached)));
    api.subscribe(request(31)).await.unwrap();
    api.forget_topic(ForgetTopicRequest { topic: "chat-0".into() }).await.unwrap();
    api.subscribe(request(32)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_bounded_in_number() {
    const MOST: usize = 100;
    let a = start(&[]).await;
    let mut followed = Vec::new();
    let refused = loop {
        let request = SubscribeRequest { topic: format!("chat-{}", followed.len()), contract: None };
        // A connection has room for 64 calls.
        match client(&a).await.subscribe(request).await {
            Ok(messages) => followed.push(messages),
            Err(refused) => break refused,
        }
        assert!(followed.len() <= MOST);
    };
    assert_eq!((refused.code(), reason_of(&refused)), (Code::ResourceExhausted, Some(Reason::LimitReached)));
    followed.truncate(MOST / 2);
    until("room", async || subscribe_ok(&a).await).await;
}

async fn subscribe_ok(daemon: &Daemon) -> Option<()> {
    let request = SubscribeRequest { topic: "another".into(), contract: None };
    client(daemon).await.subscribe(request).await.ok().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_has_the_mesh_it_was_given_after_a_restart() {
    const FOLLOWERS: usize = 7;
    let place = tempfile::tempdir().unwrap();
    let hub = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    let set = async |mesh| {
        let settings = Some(TopicSettings { mesh, ..TopicSettings::default() });
        client(&hub).await.set_topic(SetTopicRequest { topic: "chat".into(), settings }).await
    };
    let refused = set(25).await.unwrap_err();
    assert!(refused.message().starts_with("settings.mesh"), "{refused:?}");
    set(2).await.unwrap();
    hub.stop().await;
    let hub = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    let topic = async |name: &str| {
        let request = GetTopicRequest { topic: name.into() };
        client(&hub).await.get_topic(request).await.unwrap().into_inner().topic.unwrap()
    };
    let follow = async |daemon: &Daemon, topic: &str| {
        let request = SubscribeRequest { topic: topic.into(), contract: None };
        client(daemon).await.subscribe(request).await.unwrap().into_inner()
    };
    let mut held = vec![follow(&hub, "chat").await, follow(&hub, "usual").await];
    let mut others = Vec::new();
    for _ in 0..FOLLOWERS {
        let other = start(&hub.addresses[..1]).await;
        held.extend([follow(&other, "chat").await, follow(&other, "usual").await]);
        others.push(other);
    }
    // All of them want the hub in their mesh, the only peer that they know.
    until("the usual mesh", async || (topic("usual").await.mesh_peers == FOLLOWERS as u32).then_some(())).await;
    let small = topic("chat").await;
    assert_eq!((small.peers, small.settings.unwrap().mesh), (FOLLOWERS as u32, 2));
    assert!((1..=4).contains(&small.mesh_peers), "{} in the mesh", small.mesh_peers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_goes_away_while_it_begins_leaves_nobody_deaf() {
    let (a, b) = pair().await;
    let (here, there) = (client(&b).await, client(&a).await);
    let follow = |n: u64| {
        let mut client = here.clone();
        async move { client.subscribe(SubscribeRequest { topic: format!("topic {n}"), contract: None }).await }
    };
    // All at once, so that some go away between the network's question and its answer.
    let gone = (0..60).map(|n| tokio::time::timeout(Duration::from_micros(50 * n), follow(n)));
    futures::future::join_all(gone).await;
    for n in 0..60 {
        let mut messages = follow(n).await.unwrap().into_inner();
        assert_eq!(next(&mut messages).await.0, Event::Subscribed(true));
        let sent = PublishRequest { topic: format!("topic {n}"), data: "day".into(), wait_ms: 20_000 };
        there.clone().publish(sent).await.unwrap();
        assert_eq!(text(&mut messages).await.0, "day", "topic {n}");
    }
}
