//! Many followers of one topic around one publisher, who have nobody else to hear it from.

use std::{
    collections::HashSet,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use p2pd::app::Daemon;
use p2pd_api::v1::{
    ListPeersRequest, ListTopicPeersRequest, PublishManyRequest, PublishRequest, SubscribeRequest,
    pub_sub_service_client::PubSubServiceClient, subscribe_response::Event,
};
use p2pd_net::DhtMode;
use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{channel, id, peers, setup, start, until};

/// What a follower of `town` got.
#[derive(Default)]
struct Heard {
    /// The messages.
    numbers: HashSet<u32>,
    /// How many it was told that it misses.
    gaps: u64,
}

struct Follower {
    daemon: Daemon,
    heard: Arc<Mutex<Heard>>,
}

impl Follower {
    /// One that finds nobody but the publisher.
    async fn start(hub: &Daemon) -> Self {
        let mut setup = setup(&hub.addresses[..1]);
        setup.config.network.dht = DhtMode::Client;
        let daemon = Daemon::start(setup).await.unwrap();
        let mut client = PubSubServiceClient::new(channel(&daemon).await);
        let request = SubscribeRequest { topic: "town".into(), contract: None };
        let mut messages = client.subscribe(request).await.unwrap().into_inner();
        messages.message().await.unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let account = heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(next)) = messages.message().await {
                let mut account = account.lock().unwrap();
                match next.event.unwrap() {
                    Event::Message(message) => {
                        let number = u32::from_be_bytes(message.data[..4].try_into().unwrap());
                        assert!(account.numbers.insert(number), "{number} came twice");
                    }
                    Event::Gap(gap) => account.gaps += gap.to - gap.from + 1,
                    Event::Subscribed(_) => unreachable!("that was the first"),
                }
            }
        });
        Follower { daemon, heard }
    }

    /// Messages that it got, and those that it was told of.
    fn count(&self) -> (usize, u64) {
        let heard = self.heard.lock().unwrap();
        (heard.numbers.len(), heard.gaps)
    }
}

/// A publisher, and so many around it.
async fn star(followers: usize) -> (Daemon, Vec<Follower>) {
    let hub = start(&[]).await;
    let all = join_all((0..followers).map(|_| Follower::start(&hub))).await;
    let publisher = PubSubServiceClient::new(channel(&hub).await);
    until("the followers", async || {
        let request = ListTopicPeersRequest { topic: "town".into() };
        let peers = publisher.clone().list_topic_peers(request).await.unwrap().into_inner();
        (peers.peer_ids.len() == followers).then_some(())
    })
    .await;
    (hub, all)
}

/// What became of publications.
struct Sent {
    accepted: usize,
    /// To how many followers they may not have gone, as the answers tell.
    behind: u64,
}

/// Publishes so many messages in time.
async fn publish(hub: &Daemon, count: u32, every: Duration) -> Sent {
    let (items, requests) = mpsc::channel(16);
    let sending = tokio::spawn(async move {
        let mut pace = interval(every);
        for n in 0..count {
            pace.tick().await;
            let data = n.to_be_bytes().repeat(40).into();
            let message = Some(PublishRequest { topic: "town".into(), data, wait_ms: 0 });
            items.send(PublishManyRequest { message }).await.unwrap();
        }
    });
    let mut publisher = PubSubServiceClient::new(channel(hub).await);
    let mut answers = publisher.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let mut sent = Sent { accepted: 0, behind: 0 };
    while let Some(answer) = answers.message().await.unwrap() {
        sent.accepted += usize::from(answer.reason.is_empty());
        sent.behind += u64::from(answer.behind);
    }
    sending.await.unwrap();
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_followers_of_one_publisher_each_get_all_it_says() {
    const MESSAGES: u32 = 1_000;
    let (hub, followers) = star(15).await;
    let sent = publish(&hub, MESSAGES, Duration::from_millis(5)).await;
    assert_eq!((sent.accepted, sent.behind), (MESSAGES as usize, 0));
    until("every message at every follower", || {
        ready(followers.iter().all(|one| one.count() == (sent.accepted, 0)).then_some(()))
    })
    .await;
}

/// How many messages each follower misses as far as the publisher's daemon knows.
async fn missed(hub: &Daemon, followers: &[Follower]) -> Vec<u64> {
    let all = peers(hub).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    let lost = |who: String| all.iter().find(|peer| peer.peer_id == who).expect("that it is connected").messages_lost;
    followers.iter().map(|one| lost(id(&one.daemon))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_followers_of_a_fast_publisher_each_get_all_or_are_told_how_much_they_miss() {
    const MESSAGES: u32 = 1_000;
    let (hub, followers) = star(60).await;
    let sent = publish(&hub, MESSAGES, Duration::from_millis(2)).await;
    assert!(sent.accepted > 0);
    let missing = |one: &Follower| sent.accepted as u64 - one.heard.lock().unwrap().numbers.len() as u64;
    until("word of what each misses", || {
        ready(followers.iter().all(|one| one.count().1 == missing(one)).then_some(()))
    })
    .await;
    let lost: u64 = followers.iter().map(missing).sum();
    let known: u64 = missed(&hub, &followers).await.iter().sum();
    println!("{} accepted, {} times somebody was not waited for, {lost} lost", sent.accepted, sent.behind);
    assert!(lost <= sent.behind, "what was not sent to a follower, the publishing program was told");
    assert!(lost <= known, "and the operator: {known} of {lost}");
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
