//! A way from a publisher's program over two peers to a subscriber's: the daemon's, the Go p2pd's or bare gossipsub's; and
//! the loads that are sent over it.

use std::time::{Duration, Instant};

use tokio::time::{interval, timeout};

use crate::{
    bare::Bare,
    go,
    numbers::{cpu_seconds, now_us},
    ours::Ours,
};

/// What every side calls its topic.
pub const TOPIC: &str = "bench";
/// What has not come so long after everything else is lost.
const QUIET: Duration = Duration::from_secs(1);

/// News of what was published.
pub enum Told {
    Accepted,
    Refused,
    /// It is there; microseconds since it was published.
    Took(u64),
    /// So many are lost, says the subscription.
    Lost(u64),
}

impl Told {
    /// Something came that the publisher has dated.
    pub fn took(data: &[u8]) -> Self {
        Told::Took(now_us().saturating_sub(u64::from_be_bytes(data[..8].try_into().unwrap())))
    }
}

pub enum Way {
    Ours(Box<Ours>),
    Bare(Box<Bare>),
    Go(Box<go::Topic>),
}

impl Way {
    async fn publish(&mut self, size: usize) {
        let mut data = vec![7; size];
        data[..8].copy_from_slice(&now_us().to_be_bytes());
        match self {
            Way::Ours(way) => way.publish(data).await,
            Way::Bare(way) => way.publish(data),
            Way::Go(way) => way.publish(data).await,
        }
    }

    /// What happens next. Cancel-safe.
    async fn next(&mut self) -> Told {
        match self {
            Way::Ours(way) => way.next().await,
            Way::Bare(way) => way.next().await,
            Way::Go(way) => way.next().await,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Way::Ours(_) => "p2pd",
            Way::Bare(_) => "bare gossipsub",
            Way::Go(_) => "go p2pd",
        }
    }

    /// The daemons; what bare peers cost cannot be told from their programs.
    pub fn daemons(&self) -> Vec<u32> {
        match self {
            Way::Ours(way) => way.daemons(),
            Way::Bare(_) => Vec::new(),
            Way::Go(way) => way.daemons(),
        }
    }

    /// How many messages may be under way so that no queue overflows: the Go p2pd's hold 32 messages, ours 64, and bare
    /// gossipsub's 5,000.
    pub fn window(&self) -> usize {
        match self {
            Way::Ours(_) => 64,
            Way::Bare(_) => 1_000,
            Way::Go(_) => 24,
        }
    }

    fn cpu(&self) -> f64 {
        self.daemons().into_iter().map(cpu_seconds).sum()
    }
}

/// When the next message is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many each second.
    Rate(u64),
    /// As soon as fewer than this are under way.
    Window(usize),
    /// As soon as the one before was accepted, wherever that is.
    Answered,
}

/// What came of a load.
#[derive(Default)]
pub struct Tally {
    pub took: Vec<u64>,
    pub accepted: usize,
    pub refused: usize,
    /// Lost, and the subscriber knows.
    pub told_lost: usize,
    /// From the first publication to the last delivery.
    pub seconds: f64,
    /// Of the daemons.
    pub cpu: f64,
}

impl Tally {
    pub fn lost(&self) -> usize {
        // Gossip may bring later even what gossipsub said it could not send.
        self.accepted.saturating_sub(self.took.len())
    }

    fn settled(&self) -> usize {
        self.refused + self.took.len() + self.told_lost
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Accepted => self.accepted += 1,
            Told::Refused => self.refused += 1,
            Told::Took(us) => self.took.push(us),
            Told::Lost(count) => self.told_lost += count as usize,
        }
    }
}

/// Sends so many messages of so many bytes, until all are there, refused or lost.
pub async fn send(way: &mut Way, count: usize, size: usize, pace: Pace) -> Tally {
    let rate = if let Pace::Rate(rate) = pace { rate } else { 1 };
    let mut tick = interval(Duration::from_micros(1_000_000 / rate));
    let (mut sent, mut given_up, mut tally) = (0, 0, Tally::default());
    let (began, cpu) = (Instant::now(), way.cpu());
    while sent < count || tally.accepted + tally.refused < count || tally.settled() < count {
        let room = match pace {
            Pace::Rate(_) => true,
            Pace::Window(window) => sent < window + tally.settled().max(given_up),
            Pace::Answered => sent == tally.accepted + tally.refused,
        };
        let turn = async {
            if matches!(pace, Pace::Rate(_)) {
                tick.tick().await;
            }
        };
        tokio::select! {
            biased;
            told = timeout(QUIET, way.next()) => match told {
                // Gossip may still bring what an earlier load has sent.
                Ok(Told::Took(us)) if u128::from(us) > began.elapsed().as_micros() => {}
                Ok(told) => {
                    tally.take(told);
                    tally.seconds = began.elapsed().as_secs_f64();
                }
                Err(_) if sent == count => break,
                Err(_) => given_up = sent,
            },
            () = turn, if room && sent < count => {
                way.publish(size).await;
                sent += 1;
            }
        }
    }
    tally.cpu = way.cpu() - cpu;
    tally
}

/// Sends until everything arrives: then the mesh stands.
pub async fn warm_up(way: &mut Way) {
    while send(way, 20, 160, Pace::Rate(50)).await.took.len() < 20 {}
}
