//! Two bare rust-libp2p gossipsub peers in processes of their own: the network's part of the way, and nothing else. Signed,
//! and over TCP with Noise and yamux, as the daemons do it.

use std::{collections::VecDeque, process::Stdio, time::Duration};

use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    futures::StreamExt,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::way::{TOPIC, Told};

fn gossip() -> Swarm<gossipsub::Behaviour> {
    swarm(|key| {
        let config = gossipsub::ConfigBuilder::default().flood_publish(false).max_transmit_size(1 << 20).build();
        let mut gossipsub =
            gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), config.unwrap()).unwrap();
        gossipsub.subscribe(&IdentTopic::new(TOPIC)).unwrap();
        gossipsub
    })
}

/// A swarm that does one thing.
pub fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(&libp2p::identity::Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| behaviour(key))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Listens on a free port; its address.
pub async fn listening<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// The listening process: prints how long each message took.
pub async fn listen(address: &str) {
    let mut swarm = gossip();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    loop {
        if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) = swarm.select_next_some().await
            && let Told::Took(us) = Told::took(&message.data)
        {
            println!("{us}");
        }
    }
}

/// Runs this program again as another process, which does `part`; what it prints.
pub fn other_process(part: &str, argument: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child =
        command.args([part, argument]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The publishing peer, and what the listening one prints.
pub struct Bare {
    swarm: Swarm<gossipsub::Behaviour>,
    heard: Lines<BufReader<ChildStdout>>,
    answers: VecDeque<Told>,
    _listener: Child,
}

impl Bare {
    pub async fn start() -> Self {
        let mut swarm = gossip();
        let address = listening(&mut swarm).await;
        let (_listener, heard) = other_process("bare-listener", &address.to_string());
        Bare { swarm, heard, answers: VecDeque::new(), _listener }
    }

    pub fn publish(&mut self, data: Vec<u8>) {
        let sent = self.swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), data);
        self.answers.push_back(if sent.is_ok() { Told::Accepted } else { Told::Refused });
    }

    pub async fn next(&mut self) -> Told {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            tokio::select! {
                line = self.heard.next_line() => return Told::Took(line.unwrap().unwrap().parse().unwrap()),
                _ = self.swarm.select_next_some() => {}
            }
        }
    }
}
