//! Many followers around one publisher, who have nobody else to hear it from: what share of its messages each of them gets, how
//! soon, and what that costs the publishing side. Daemons, and bare rust-libp2p gossipsub with its defaults, in turns.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use p2pd_api::v1::{
    ListTopicPeersRequest, PublishManyRequest, PublishRequest, SubscribeRequest, SubscribeResponse,
    pub_sub_service_client::PubSubServiceClient, subscribe_response::Event,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    bare_crowd::Bare,
    daemon::Daemon,
    numbers::{Latencies, cpu_seconds, now_us, resident_mib},
    way::TOPIC,
};

const CROWDS: [usize; 2] = [15, 60];
const RATES: [u64; 3] = [50, 200, 500];
const SECONDS: u64 = 8;
/// Bytes of a message.
pub const SIZE: usize = 160;
/// What is on its way when nothing has come for so long is lost. Gossipsub offers, and sends what is asked for, within two seconds.
const QUIET: Duration = Duration::from_secs(3);
const START: Duration = Duration::from_secs(60);

/// What one follower got of one load.
#[derive(Default)]
pub struct Got {
    /// Microseconds that each message took.
    pub took: Vec<u64>,
    /// Messages of which it was told that they are lost.
    pub told: u64,
}

/// What the publishing side did.
pub struct Sent {
    pub accepted: usize,
    pub refused: usize,
    /// How often a follower was not waited for, as the answers tell.
    pub behind: u64,
    pub seconds: f64,
}

/// A message as every publisher here makes it.
pub fn dated() -> Vec<u8> {
    let mut data = vec![7; SIZE];
    data[..8].copy_from_slice(&now_us().to_be_bytes());
    data
}

/// Microseconds since it was made.
pub fn age(data: &[u8]) -> u64 {
    now_us().saturating_sub(u64::from_be_bytes(data[..8].try_into().unwrap()))
}

struct Ours {
    hub: Daemon,
    publisher: PubSubServiceClient<Channel>,
    got: Vec<Arc<Mutex<Got>>>,
    _followers: Vec<Daemon>,
}

impl Ours {
    async fn start(count: usize) -> Self {
        let hub = Daemon::start(&[]);
        let (mut got, mut followers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            // One that does not answer in the DHT is not found by the others.
            let follower = Daemon::start_with(&[&hub.address], &[("P2PD_NETWORK_DHT", "client")]);
            let mut client = PubSubServiceClient::new(follower.channel().await);
            let request = SubscribeRequest { topic: TOPIC.into(), contract: None };
            let mut heard = client.subscribe(request).await.unwrap().into_inner();
            heard.message().await.unwrap();
            let account = Arc::<Mutex<Got>>::default();
            tokio::spawn(read(heard, account.clone()));
            got.push(account);
            followers.push(follower);
        }
        let mut publisher = PubSubServiceClient::new(hub.channel().await);
        let began = Instant::now();
        let request = ListTopicPeersRequest { topic: TOPIC.into() };
        while publisher.list_topic_peers(request.clone()).await.unwrap().into_inner().peer_ids.len() < count {
            assert!(began.elapsed() < START, "not all have come to follow");
            sleep(Duration::from_millis(50)).await;
        }
        Ours { hub, publisher, got, _followers: followers }
    }

    async fn send(&mut self, rate: u64) -> Sent {
        let (items, requests) = mpsc::channel(64);
        let began = Instant::now();
        let sending = async {
            let mut pace = interval(Duration::from_micros(1_000_000 / rate));
            for _ in 0..rate * SECONDS {
                pace.tick().await;
                let message = PublishRequest { topic: TOPIC.into(), data: dated().into(), wait_ms: 0 };
                items.send(PublishManyRequest { message: Some(message) }).await.unwrap();
            }
            drop(items);
        };
        let mut publisher = self.publisher.clone();
        let answering = async {
            let mut answers = publisher.publish_many(ReceiverStream::new(requests)).await.unwrap().into_inner();
            let mut sent = Sent { accepted: 0, refused: 0, behind: 0, seconds: 0.0 };
            while let Some(answer) = answers.message().await.unwrap() {
                *if answer.reason.is_empty() { &mut sent.accepted } else { &mut sent.refused } += 1;
                sent.behind += u64::from(answer.behind);
            }
            sent
        };
        let ((), sent) = tokio::join!(sending, answering);
        Sent { seconds: began.elapsed().as_secs_f64(), ..sent }
    }

    /// What has come until all is there, or nothing comes any more.
    async fn got(&mut self, wanted: usize) -> Vec<Got> {
        let now = || self.got.iter().map(|got| got.lock().unwrap().took.len().min(wanted)).sum::<usize>();
        let (mut last, mut since) = (now(), Instant::now());
        while last < wanted * self.got.len() && since.elapsed() < QUIET {
            sleep(Duration::from_millis(50)).await;
            if now() > last {
                (last, since) = (now(), Instant::now());
            }
        }
        self.got.iter().map(|got| std::mem::take(&mut *got.lock().unwrap())).collect()
    }
}

/// Reads a subscription until its daemon ends.
async fn read(mut heard: Streaming<SubscribeResponse>, account: Arc<Mutex<Got>>) {
    while let Ok(Some(SubscribeResponse { event: Some(event), .. })) = heard.message().await {
        let mut account = account.lock().unwrap();
        match event {
            Event::Message(message) => account.took.push(age(&message.data)),
            Event::Gap(gap) => account.told += gap.to - gap.from + 1,
            Event::Subscribed(_) => {}
        }
    }
}

enum Side {
    Ours(Ours),
    Bare(Bare),
}

impl Side {
    async fn run(&mut self, rate: u64) -> (Sent, Vec<Got>) {
        match self {
            Side::Ours(ours) => {
                let sent = ours.send(rate).await;
                let got = ours.got(sent.accepted).await;
                (sent, got)
            }
            Side::Bare(bare) => {
                let sent = bare.send(rate, rate * SECONDS).await;
                sleep(QUIET).await;
                (sent, bare.got().await)
            }
        }
    }

    fn publisher(&self) -> u32 {
        match self {
            Side::Ours(ours) => ours.hub.pid(),
            Side::Bare(bare) => bare.publisher(),
        }
    }

    /// Sends a load and says what came of it.
    async fn measure(&mut self, crowd: usize, rate: u64) {
        let before = cpu_seconds(self.publisher());
        let (sent, got) = self.run(rate).await;
        let cpu = (cpu_seconds(self.publisher()) - before) / sent.seconds * 100.0;
        let share = |got: &Got| got.took.len() as f64 / sent.accepted.max(1) as f64;
        let worst = got.iter().map(share).fold(f64::INFINITY, f64::min);
        let mean = got.iter().map(share).sum::<f64>() / got.len() as f64;
        let told: u64 = got.iter().map(|got| got.told).sum();
        let mut took = Latencies::default();
        took.extend(got.into_iter().flat_map(|got| got.took).collect());
        let name = if matches!(self, Side::Ours(_)) { "p2pd" } else { "bare" };
        println!(
            "{:<27}{worst:.4} the worst, {mean:.4} in the mean; {}; {cpu:.0} % of a core, {:.0} MiB; {:.0}/s accepted, {} refused, {} not waited for, {told} told lost",
            format!("{crowd} followers, {rate}/s, {name}"),
            took.show().trim_start(),
            resident_mib(self.publisher()),
            sent.accepted as f64 / sent.seconds,
            sent.refused,
            sent.behind,
        );
    }
}

/// All crowds at all rates.
pub async fn crowd() {
    for crowd in CROWDS {
        // One after the other: both crowds at once would not leave each other the machine, even idle.
        let mut ours = Side::Ours(Ours::start(crowd).await);
        for rate in RATES {
            ours.measure(crowd, rate).await;
        }
        drop(ours);
        let mut bare = Side::Bare(Bare::start(crowd).await);
        for rate in RATES {
            bare.measure(crowd, rate).await;
        }
    }
    println!("                           goal for p2pd: 0.999 the worst up to 200/s");
}
