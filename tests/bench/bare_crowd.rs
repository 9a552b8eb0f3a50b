//! A crowd of bare rust-libp2p gossipsub peers with the library's defaults, each in a process of its own. They are told what to do
//! by lines, and answer with lines.

use std::{fmt::Display, time::Duration};

use libp2p::{
    Multiaddr, Swarm,
    futures::StreamExt,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    swarm::SwarmEvent,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin, stdin},
    process::{Child, ChildStdin, ChildStdout},
    time::{Instant, interval, timeout},
};

use crate::{
    bare::{listening, other_process, swarm},
    crowd::{Got, Sent, age, dated},
    way::TOPIC,
};

/// For an answer.
const DEADLINE: Duration = Duration::from_secs(60);

fn gossip() -> Swarm<gossipsub::Behaviour> {
    swarm(|key| {
        let signed = MessageAuthenticity::Signed(key.clone());
        let mut gossipsub = gossipsub::Behaviour::new(signed, gossipsub::Config::default()).unwrap();
        gossipsub.subscribe(&IdentTopic::new(TOPIC)).unwrap();
        gossipsub
    })
}

/// The publishing process: says its address, says when so many follow, and for each line `RATE COUNT` publishes so many.
pub async fn publish(followers: &str) {
    let mut swarm = gossip();
    println!("{}", listening(&mut swarm).await);
    let mut missing: usize = followers.parse().unwrap();
    while missing > 0 {
        let event = swarm.select_next_some().await;
        missing -= usize::from(matches!(event, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })));
    }
    println!("followed");
    let mut orders = BufReader::new(stdin()).lines();
    while let Some(order) = order(&mut orders, &mut swarm).await {
        let (rate, count) = order.split_once(' ').unwrap();
        let (rate, count): (u64, usize) = (rate.parse().unwrap(), count.parse().unwrap());
        let (mut pace, mut left, mut accepted) = (interval(Duration::from_micros(1_000_000 / rate)), count, 0);
        while left > 0 {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                _ = pace.tick() => {
                    left -= 1;
                    accepted += usize::from(swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), dated()).is_ok());
                }
            }
        }
        println!("{accepted} {}", count - accepted);
    }
}

/// A following process: for each line it says how many microseconds each message since the last one took.
pub async fn follow(address: &str) {
    let mut swarm = gossip();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    let (mut orders, mut took) = (BufReader::new(stdin()).lines(), Vec::<String>::new());
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) = event {
                    took.push(age(&message.data).to_string());
                }
            }
            order = orders.next_line() => match order.unwrap() {
                Some(_) => println!("{}", std::mem::take(&mut took).join(" ")),
                None => return,
            },
        }
    }
}

/// The next line, while the swarm goes on.
async fn order(orders: &mut Lines<BufReader<Stdin>>, swarm: &mut Swarm<gossipsub::Behaviour>) -> Option<String> {
    loop {
        tokio::select! {
            order = orders.next_line() => return order.unwrap(),
            _ = swarm.select_next_some() => {}
        }
    }
}

/// One of the processes.
struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(part: &str, argument: &str) -> Self {
        let (mut child, answers) = other_process(part, argument);
        Peer { orders: child.stdin.take().unwrap(), child, answers }
    }

    async fn answer(&mut self) -> String {
        timeout(DEADLINE, self.answers.next_line()).await.expect("an answer in time").unwrap().unwrap()
    }

    async fn ask(&mut self, order: impl Display) -> String {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
        self.answer().await
    }
}

/// The crowd.
pub struct Bare {
    publisher: Peer,
    followers: Vec<Peer>,
}

impl Bare {
    pub async fn start(count: usize) -> Self {
        let mut publisher = Peer::start("bare-crowd-publisher", &count.to_string());
        let address = publisher.answer().await;
        let followers = (0..count).map(|_| Peer::start("bare-crowd-follower", &address)).collect();
        assert_eq!(publisher.answer().await, "followed");
        Bare { publisher, followers }
    }

    pub fn publisher(&self) -> u32 {
        self.publisher.child.id().unwrap()
    }

    pub async fn send(&mut self, rate: u64, count: u64) -> Sent {
        let began = Instant::now();
        let answer = self.publisher.ask(format_args!("{rate} {count}")).await;
        let (accepted, refused) = answer.split_once(' ').unwrap();
        let seconds = began.elapsed().as_secs_f64();
        Sent { accepted: accepted.parse().unwrap(), refused: refused.parse().unwrap(), behind: 0, seconds }
    }

    pub async fn got(&mut self) -> Vec<Got> {
        let mut got = Vec::new();
        for follower in &mut self.followers {
            let took = follower.ask("what?").await.split_whitespace().map(|us| us.parse().unwrap()).collect();
            got.push(Got { took, told: 0 });
        }
        got
    }
}
