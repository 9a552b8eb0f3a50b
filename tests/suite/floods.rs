//! A stranger whose every word is in form, and who says as many as the connection takes: in the name of publishers that it invents,
//! of streams that nobody has, and as control messages of gossipsub.

use std::{collections::HashSet, time::Duration};

use p2pd::app::Daemon;
use p2pd_api::v1::{
    GetStateRequest, GetStatisticsRequest, GetStatisticsResponse, ListPeersRequest, ListStreamsRequest, Peer,
    PublishRequest, SubscribeRequest, WatchEventsRequest, node_service_client::NodeServiceClient,
    pub_sub_service_client::PubSubServiceClient, subscribe_response, subscribe_stream_response,
};
use p2pd_core::ring::Next;
use p2pd_live::directory::{MAX_ENTRIES, MAX_PER_PUBLISHER};
use p2pd_net::Message;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    raw_peer::{RawPeer, Rpc},
    rogue_words::{AT_ONCE, control, directory, heartbeats, invented_streams, questions},
    support::{
        DEADLINE, Published, channel, floor, id, listen, next, open, peers, publish, setup_at, start, streams, tcp,
        until,
    },
};

async fn statistics(daemon: &Daemon) -> GetStatisticsResponse {
    let mut node = NodeServiceClient::new(channel(daemon).await);
    node.get_statistics(GetStatisticsRequest {}).await.unwrap().into_inner()
}

/// Fills the directory of these daemons with streams of publishers that it invents.
async fn fill_directory(rogue: &RawPeer, victims: &[&Daemon]) {
    let began = Instant::now();
    loop {
        let mut full = true;
        for victim in victims {
            full &= statistics(victim).await.streams as usize == MAX_ENTRIES;
        }
        if full {
            return;
        }
        assert!(began.elapsed() < 3 * DEADLINE, "the directory is not full");
        for rpc in (0..10).flat_map(|_| invented_streams(AT_ONCE)) {
            assert!(rogue.say(rpc).await, "it is listened to");
        }
    }
}

/// The first event of this kind.
async fn event(daemon: &Daemon, kind: &str) -> String {
    let mut node = NodeServiceClient::new(channel(daemon).await);
    let request = WatchEventsRequest { from_oldest: true, ..Default::default() };
    let mut events = node.watch_events(request).await.unwrap().into_inner();
    let first = async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            if event.kind == kind {
                return event.subject;
            }
        }
    };
    timeout(DEADLINE, first).await.unwrap_or_else(|_| panic!("no {kind}"))
}

async fn advice(daemon: &Daemon) -> String {
    NodeServiceClient::new(channel(daemon).await).get_state(GetStateRequest {}).await.unwrap().into_inner().advice
}

/// A listener on `at` hears what `publisher` sends, from before or from now on.
async fn is_heard(at: &Daemon, publisher: &Published, stream: &str) {
    let mut replies = listen(at, stream, 0).await;
    publisher.frames(0..50).await;
    assert!(matches!(next(&mut replies).await, subscribe_stream_response::Event::Group(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_publishers_two_hops_away_take_the_room_of_nobody_else() {
    let relay = start(&[]).await;
    let victim = start(&relay.addresses[..1]).await;
    let neighbour = start(&victim.addresses[..1]).await;
    let known = publish(&neighbour, open("known")).await.unwrap();
    until("the honest stream", async || (statistics(&victim).await.streams == 1).then_some(())).await;
    let rogue = RawPeer::connect(&tcp(&relay), "rogue").await;
    rogue.say(Rpc::follow(&[&directory()])).await;
    fill_directory(&rogue, &[&relay, &victim]).await;

    // What was there is still there, and what its own programs and its neighbours' publish has room.
    let own = publish(&victim, open("own")).await.expect("room for a stream of its own");
    let late = publish(&neighbour, open("late")).await.unwrap();
    is_heard(&victim, &known, "known").await;
    is_heard(&victim, &late, "late").await;
    is_heard(&neighbour, &own, "own").await;
    is_heard(&relay, &own, "own").await;
    assert_eq!(statistics(&victim).await.streams as usize, MAX_ENTRIES);

    // Each names the neighbour from whom it came.
    for (daemon, who) in [(&relay, rogue.id.to_string()), (&victim, id(&relay))] {
        let subject = event(daemon, "directory-full").await;
        assert!(subject.starts_with(&format!("{who}: ")), "{subject}");
        let advice = advice(daemon).await;
        assert!(advice.contains(&format!("the directory is full, most of it brought by {who}")), "{advice}");
    }
    assert_eq!(streams_of(&victim, &id(&neighbour)).await, 2);
}

/// How many streams of a publisher are listed.
async fn streams_of(daemon: &Daemon, publisher: &str) -> usize {
    let mut client = streams(daemon).await;
    let (mut found, mut after) = (0, String::new());
    loop {
        let request = ListStreamsRequest { page_token: after, ..Default::default() };
        let page = client.list_streams(request).await.unwrap().into_inner();
        found += page.streams.iter().filter(|stream| stream.publisher == publisher).count();
        after = page.next_page_token;
        if after.is_empty() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_heartbeats_and_control_messages_without_end_cost_others_nothing() {
    const SECONDS: u64 = 5;
    const MESSAGES: u32 = 100;
    let hub = start(&[]).await;
    let follower = start(&hub.addresses[..1]).await;
    let _town = publish(&hub, open("town")).await.unwrap();
    let request = SubscribeRequest { topic: "news".into(), contract: None };
    let mut heard = PubSubServiceClient::new(channel(&follower).await).subscribe(request).await.unwrap().into_inner();
    heard.message().await.unwrap();
    // Who counts what daemons say in the directory.
    let (observer, _) = floor(Some(&hub.addresses[0]));
    let mut observed = crate::support::follow(&observer, &directory()).await;
    let (honest, mut said) = (HashSet::from([id(&hub), id(&follower)]), 0);

    // Larger than what others read of an identification.
    let rogue = RawPeer::connect(&tcp(&hub), &"x".repeat(8_000)).await;
    let stranger = rogue.id.to_string();
    rogue.say(Rpc::follow(&[&directory(), "news"])).await;
    let flooding = tokio::spawn(async move {
        // Until it is thrown out, if it is.
        for n in 0.. {
            for rpc in [questions(), heartbeats()].into_iter().chain(control(n)) {
                rogue.say(rpc).await;
            }
        }
    });
    let counting = async {
        loop {
            if let Some(Next::Item(Message { sender: Some(sender), .. })) = observed.next().await {
                said += usize::from(honest.contains(&sender.to_string()));
            }
        }
    };
    let mut publisher = PubSubServiceClient::new(channel(&hub).await);
    let talking = async {
        for n in 0..MESSAGES {
            let data = n.to_be_bytes().to_vec().into();
            publisher.publish(PublishRequest { topic: "news".into(), data, wait_ms: 15_000 }).await.unwrap();
            let next = timeout(DEADLINE, heard.message()).await.expect("a message").unwrap().unwrap();
            let Some(subscribe_response::Event::Message(message)) = next.event else { panic!("{next:?}") };
            assert_eq!(message.data, n.to_be_bytes().to_vec());
            sleep(Duration::from_millis(SECONDS * 1000 / u64::from(MESSAGES))).await;
        }
    };
    let began = Instant::now();
    tokio::select! {
        () = counting => unreachable!("it goes on"),
        () = talking => {}
    }
    // Sixteen answers at once, and one a second; as often a question of the two about whom only heartbeats come.
    let most = 2 * (16 + 4 * began.elapsed().as_secs() as usize);
    assert!(said <= most, "{said} words in the directory in {:?}", began.elapsed());
    let list = peers(&hub).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    let received = |peer: &Peer| peer.connections.iter().map(|one| one.received).sum::<u64>();
    let flood = list.iter().find(|peer| peer.peer_id == stranger).map(received);
    assert!(flood.is_none_or(|bytes| bytes > 1 << 20), "it was no flood: {flood:?}");
    let score = list.iter().find(|peer| peer.peer_id == id(&follower)).expect("that it is connected").score;
    assert!(score >= 0.0, "{score}");
    println!("{said} words in {:?}; {flood:?} bytes of flood", began.elapsed());
    flooding.abort();
}

/// A stranger who says this to a daemon, until so many streams are listed there.
async fn told(daemon: &Daemon, words: Vec<Rpc>, streams: u32) -> RawPeer {
    let rogue = RawPeer::connect(&tcp(daemon), "rogue").await;
    rogue.say(Rpc::follow(&[&directory()])).await;
    for rpc in words {
        rogue.say(rpc).await;
    }
    until("the streams", async || (statistics(daemon).await.streams >= streams).then_some(())).await;
    rogue
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signer_has_five_words_a_second_in_the_directory() {
    let a = start(&[]).await;
    let began = Instant::now();
    let rogue = told(&a, invented_streams(MAX_PER_PUBLISHER), AT_ONCE as u32).await;
    let before = statistics(&a).await.streams;
    // By the same way, after all of them.
    for rpc in invented_streams(1) {
        rogue.say(rpc).await;
    }
    until("the other signer's", async || (statistics(&a).await.streams > before).then_some(())).await;
    let most = AT_ONCE as u64 + 1 + 5 * (began.elapsed().as_secs() + 1);
    let listed = u64::from(statistics(&a).await.streams);
    assert!(listed <= most, "{listed} of {MAX_PER_PUBLISHER}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_listed_is_listed_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    // A daemon that is busy takes not all of them at once.
    let words = (0..50).flat_map(|_| invented_streams(AT_ONCE)).collect();
    let rogue = told(&a, words, 1_000).await;
    drop(rogue);
    let (mut all, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        let now = statistics(&a).await.streams;
        if now != all {
            (all, since) = (now, Instant::now());
        }
    }
    a.stop().await;
    let a = Daemon::start(setup_at(place.path(), &[])).await.unwrap();
    assert_eq!(statistics(&a).await.streams, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_topics_that_a_peer_follows_are_kept_where_they_are_short() {
    let (floor, identity) = floor(None);
    let found = until("where it listens", async || floor.handle.addresses().await.unwrap().listening.first().cloned());
    let rogue = RawPeer::connect(&found.await.to_string(), "long-winded").await;
    let long: Vec<String> = (0..50).map(|n| format!("{n}{}", "x".repeat(4_000))).collect();
    let names: Vec<&str> = long.iter().map(String::as_str).chain(["short"]).collect();
    assert!(rogue.say(Rpc::follow(&names)).await);
    let followers = async |topic: &str| floor.handle.pubsub.topic_peers(topic).await.unwrap().followers.len();
    until("the short one", async || (followers("short").await == 1).then_some(())).await;
    for topic in &long {
        assert_eq!(followers(topic).await, 0);
    }
    drop(identity);
}
