//! Resident memory of the daemon and of the Go p2pd: idle, and after topics that were joined and left again.

use p2pd_api::v1::{ListTopicsRequest, SubscribeRequest, pub_sub_service_client::PubSubServiceClient};
use tokio::time::{Duration, Instant, sleep};

use crate::{daemon::Daemon, go::Go, numbers::resident_mib};

/// A thousand topics.
const ROUNDS: usize = 12;
/// Programs of a daemon follow at most so many.
const AT_ONCE: usize = 80;
/// A connection carries 64 calls at once.
const CONNECTIONS: usize = 2;

/// Joins so many topics, and leaves them.
async fn join(daemon: &Daemon, round: usize) {
    let mut all = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = PubSubServiceClient::new(daemon.channel().await);
        for number in 0..AT_ONCE / CONNECTIONS {
            let topic = format!("topic {round} {connection} {number}");
            let mut heard = client.subscribe(SubscribeRequest { topic, contract: None }).await.unwrap().into_inner();
            heard.message().await.unwrap();
            all.push(heard);
        }
    }
    drop(all);
    let mut client = PubSubServiceClient::new(daemon.channel().await);
    let mut topics = async || client.list_topics(ListTopicsRequest {}).await.unwrap().into_inner().topics;
    let began = Instant::now();
    while topics().await.iter().any(|topic| topic.starts_with("topic")) {
        assert!(began.elapsed() < Duration::from_secs(30), "the daemon does not leave its topics");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn join_go(go: &Go, round: usize) {
    let mut all = Vec::new();
    for number in 0..AT_ONCE {
        all.push(go.follow(&format!("topic {round} {number}")).await);
    }
}

/// Resident memory once it has stood still for half a second, or after ten.
async fn settled(pid: u32) -> f64 {
    let (mut last, mut still) = (0.0, 0);
    for _ in 0..200 {
        let now = resident_mib(pid);
        still = if now == last { still + 1 } else { 0 };
        if still == 10 {
            break;
        }
        last = now;
        sleep(Duration::from_millis(50)).await;
    }
    last
}

/// Idle, after the first round, and after those so far.
type Resident = [f64; 3];

fn show(name: &str, rounds: usize, [idle, first, last]: Resident) {
    let topics = rounds * AT_ONCE;
    println!(
        "{:<27}{idle:>8.1} MiB idle, {first:.1} after {AT_ONCE} topics joined and left, {last:.1} after {topics}",
        format!("resident, {name}")
    );
}

/// A thousand topics; then thousands more, until it has taken so long.
pub async fn memory(at_least: Duration) {
    let daemon = Daemon::start(&[]);
    let go = Go::start().await;
    let now = async || {
        let go = go.as_ref().map(Go::pid);
        [settled(daemon.pid()).await, if let Some(go) = go { settled(go).await } else { 0.0 }]
    };
    let (idle, mut first, began) = (now().await, [0.0; 2], Instant::now());
    for round in 0.. {
        join(&daemon, round).await;
        if let Some(go) = &go {
            join_go(go, round).await;
        }
        if round == 0 {
            first = now().await;
        }
        if round % ROUNDS != ROUNDS - 1 {
            continue;
        }
        let last = now().await;
        show("p2pd", round + 1, [idle[0], first[0], last[0]]);
        if go.is_some() {
            show("go p2pd", round + 1, [idle[1], first[1], last[1]]);
        }
        if began.elapsed() >= at_least {
            println!(
                "growth                     {:>8.1} MiB from the first {AT_ONCE} on   goal flat",
                last[0] - first[0]
            );
            if go.is_some() {
                println!("ratio to go                {:>8.2} idle   goal below 1", idle[0] / idle[1]);
            }
            return;
        }
    }
}
