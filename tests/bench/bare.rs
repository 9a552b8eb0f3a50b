//! Two bare rust-libp2p gossipsub peers in processes of their own: the network's part of the way, and nothing else. Signed,
//! and over TCP with Noise and yamux, as the daemons do it.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{GROUP, RATE};
use crate::numbers::now_us;
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    futures::StreamExt,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    noise,
    swarm::SwarmEvent,
    tcp, yamux,
};

const TOPIC: &str = "bench";

fn swarm() -> Swarm<gossipsub::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let config = gossipsub::ConfigBuilder::default().flood_publish(false).build().unwrap();
            let mut gossipsub = gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), config).unwrap();
            gossipsub.subscribe(&IdentTopic::new(TOPIC)).unwrap();
            gossipsub
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// The listening process: prints how long each message took.
pub async fn listen(address: &str, count: usize) {
    let mut swarm = swarm();
    swarm.dial(address.parse::<Multiaddr>().unwrap()).unwrap();
    let mut took = Vec::new();
    while took.len() < count {
        if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) = swarm.select_next_some().await {
            let at = u64::from_be_bytes(message.data[..8].try_into().unwrap());
            took.push(now_us().saturating_sub(at));
        }
    }
    took.iter().for_each(|us| println!("{us}"));
}

/// Publishes `count` messages in time to a listening process; how long each took, in microseconds.
pub async fn run(count: usize) -> Vec<u64> {
    let mut swarm = swarm();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["bare-listener", &address.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listener = tokio::task::spawn_blocking(|| child.wait_with_output());
    while !matches!(swarm.select_next_some().await, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })) {}
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    let mut sent = 0;
    loop {
        tokio::select! {
            _ = tick.tick(), if sent < count => {
                if swarm.behaviour().mesh_peers(&IdentTopic::new(TOPIC).hash()).next().is_none() {
                    continue;
                }
                let mut data = vec![7; GROUP];
                data[..8].copy_from_slice(&now_us().to_be_bytes());
                swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), data).unwrap();
                sent += 1;
            }
            heard = &mut listener => {
                let text = String::from_utf8(heard.unwrap().unwrap().stdout).unwrap();
                return text.lines().map(|line| line.parse().unwrap()).collect();
            }
            _ = swarm.select_next_some() => {}
        }
    }
}
