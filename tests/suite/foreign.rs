//! Peers that are not ours, where others differ from us, or say what they should not.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    futures::StreamExt,
    gossipsub::{self, IdentTopic, MessageAuthenticity},
    identify, identity,
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use p2pd::app::Daemon;
use p2pd_api::v1::{
    Durable, FindClosestPeersRequest, ListClosedConnectionsRequest, ListPeersRequest, ProvideRequest, PublishRequest,
    SubscribeRequest, SubscribeResponse, dht_service_client::DhtServiceClient,
    pub_sub_service_client::PubSubServiceClient, subscribe_request::Contract, subscribe_response::Event,
};
use p2pd_live::topic::DEFAULT_NETWORK;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{interval, timeout},
};
use tonic::Streaming;

use crate::{
    machines::Machine,
    support::{DEADLINE, channel, peers, setup, setup_at, start, until},
};

const TOPIC: &str = "chat";
/// So many that gossipsub's patience with a peer that does not send what it has offered (3 s) is over before the last.
const MESSAGES: usize = 80;

/// A peer with a behaviour of its own.
fn peer<B: NetworkBehaviour>(behaviour: impl FnOnce(&identity::Keypair) -> B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Has a peer listen; its port.
async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>, ip: &str) -> u16 {
    swarm.listen_on(format!("/ip4/{ip}/tcp/0").parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address.to_string().rsplit('/').next().unwrap().parse().unwrap();
        }
    }
}

/// A peer that takes nobody into its mesh, so that it offers what it has, by ids of its own kind.
fn outsider(more: impl FnOnce(&mut gossipsub::ConfigBuilder)) -> Swarm<gossipsub::Behaviour> {
    peer(|key| {
        let mut config = gossipsub::ConfigBuilder::default();
        more(&mut config);
        config.mesh_n_low(0).mesh_n(0).mesh_n_high(0).mesh_outbound_min(0).heartbeat_initial_delay(Duration::ZERO);
        let signed = MessageAuthenticity::Signed(key.clone());
        let mut gossipsub = gossipsub::Behaviour::new(signed, config.build().unwrap()).unwrap();
        gossipsub.subscribe(&IdentTopic::new(TOPIC)).unwrap();
        gossipsub
    })
}

#[derive(NetworkBehaviour)]
struct Guide {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

/// A peer that answers in the DHT.
fn guide() -> Swarm<Guide> {
    peer(|key| {
        let id = key.public().to_peer_id();
        let protocol = StreamProtocol::try_from_owned(format!("/p2pd/{DEFAULT_NETWORK}/kad/1.0.0")).unwrap();
        let mut config = kad::Config::new(protocol);
        config.set_record_filtering(kad::StoreInserts::FilterBoth);
        let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), config);
        kad.set_mode(Some(kad::Mode::Server));
        Guide { identify: identify::Behaviour::new(identify::Config::new("guide".into(), key.public())), kad }
    })
}

async fn score(daemon: &Daemon) -> f64 {
    peers(daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers[0].score
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_offers_messages_by_other_ids_keeps_its_place() {
    let mut swarm = outsider(|_| {});
    let port = listen(&mut swarm, "127.0.0.1").await;
    let daemon = start(&[format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", swarm.local_peer_id())]).await;
    let subscribe = SubscribeRequest { topic: TOPIC.into(), contract: None };
    let mut client = PubSubServiceClient::new(channel(&daemon).await);
    let mut messages = client.subscribe(subscribe).await.unwrap().into_inner();
    let publishing = tokio::spawn(async move {
        let (mut sent, mut tick) = (0, interval(Duration::from_millis(100)));
        loop {
            tokio::select! {
                _ = swarm.next() => {}
                _ = tick.tick(), if sent < MESSAGES => {
                    let published = swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), sent.to_string());
                    sent += usize::from(published.is_ok());
                }
            }
        }
    });
    let mut heard = Vec::new();
    while heard.len() < MESSAGES {
        let next = timeout(DEADLINE, messages.message()).await.expect("a message").unwrap().unwrap();
        if let Some(Event::Message(message)) = next.event {
            heard.push(String::from_utf8(message.data.to_vec()).unwrap());
            let score = score(&daemon).await;
            assert!(score >= 0.0, "{score} after {} messages", heard.len());
        }
    }
    assert_eq!(heard, (0..MESSAGES).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_cannot_drive_a_terminal() {
    let mut swarm = guide();
    let port = listen(&mut swarm, "127.0.0.1").await;
    let name = Protocol::Dns4("\u{1b}[31mred\u{202e}.example".into());
    swarm.add_external_address(Multiaddr::empty().with(name).with(Protocol::Tcp(1)));
    let peer = *swarm.local_peer_id();
    let driving = tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let daemon = start(&[format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")]).await;
    let addresses = until("what it says of itself", async || {
        let peers = peers(&daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        peers.into_iter().next().map(|peer| peer.addresses).filter(|addresses| !addresses.is_empty())
    });
    assert!(addresses.await.contains(&"/dns4/[31mred.example/tcp/1".to_owned()));
    driving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_gossip_stream_has_ended_is_connected_anew() {
    // It takes no control message, and ends the stream that brings one.
    let mut swarm = outsider(|config| _ = config.max_control_message_size(1));
    let port = listen(&mut swarm, "127.0.0.1").await;
    let peer = *swarm.local_peer_id();
    let driving = tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let daemon = start(&[format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}")]).await;
    let client = PubSubServiceClient::new(channel(&daemon).await);
    until("the subscription", async || {
        let data = "is anybody there?".into();
        client.clone().publish(PublishRequest { topic: TOPIC.into(), data, wait_ms: 0 }).await.ok()
    })
    .await;
    let topics = AtomicU32::new(0);
    until("the word", async || {
        // Each is a control message. Those that are sent before the end of the stream is seen end no more than one.
        let topic = format!("topic {}", topics.fetch_add(1, Ordering::Relaxed) % 50);
        let subscribe = SubscribeRequest { topic, contract: None };
        client.clone().subscribe(subscribe).await.unwrap().into_inner().message().await.unwrap();
        let closed = peers(&daemon).await.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap();
        closed.into_inner().connections.iter().any(|closed| closed.why == "its gossip stream had ended").then_some(())
    })
    .await;
    until("the next connection", async || {
        let peers = peers(&daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        (!peers.is_empty()).then_some(())
    })
    .await;
    driving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_again_after_a_restart_is_in_the_log_once() {
    // It offers again and again what it has.
    let mut swarm = outsider(|config| _ = config.history_length(1_000).history_gossip(1_000));
    let port = listen(&mut swarm, "127.0.0.1").await;
    let bootstrap = [format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", swarm.local_peer_id())];
    let (publish, mut to_publish) = mpsc::channel::<String>(1);
    let publishing = tokio::spawn(async move {
        let (mut next, mut tick) = (None, interval(Duration::from_millis(100)));
        loop {
            tokio::select! {
                _ = swarm.next() => {}
                Some(text) = to_publish.recv(), if next.is_none() => next = Some(text),
                // Until somebody follows.
                _ = tick.tick() => {
                    next.take_if(|text| swarm.behaviour_mut().publish(IdentTopic::new(TOPIC), text.clone()).is_ok());
                }
            }
        }
    });
    let place = tempfile::tempdir().unwrap();
    let contract = || Some(Contract::Durable(Durable { after: None, from_oldest: true }));
    let start = async || Daemon::start(setup_at(place.path(), &bootstrap)).await.unwrap();
    let read = async |daemon: &Daemon| {
        let request = SubscribeRequest { topic: TOPIC.into(), contract: contract() };
        PubSubServiceClient::new(channel(daemon).await).subscribe(request).await.unwrap().into_inner()
    };
    let next = async |messages: &mut Streaming<SubscribeResponse>| loop {
        let next = timeout(DEADLINE, messages.message()).await.expect("a message").unwrap().unwrap();
        if let Some(Event::Message(message)) = next.event {
            break String::from_utf8(message.data.to_vec()).unwrap();
        }
    };
    let daemon = start().await;
    let mut messages = read(&daemon).await;
    let texts = ["one", "two"].map(|text| text.repeat(10_000));
    for text in &texts {
        publish.send(text.clone()).await.unwrap();
        assert!(next(&mut messages).await == *text);
    }
    daemon.stop().await;
    let daemon = start().await;
    let mut messages = read(&daemon).await;
    until("the first two, once more", async || {
        let list = peers(&daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
        let received: u64 = list.iter().flat_map(|peer| &peer.connections).map(|c| c.received).sum();
        (received > 60_000).then_some(())
    })
    .await;
    publish.send("three".into()).await.unwrap();
    for text in texts.iter().map(String::as_str).chain(["three"]) {
        assert!(next(&mut messages).await == text);
    }
    publishing.abort();
}

/// A door at which somebody may knock.
async fn door(ip: &str) -> (TcpListener, String) {
    let door = TcpListener::bind((ip, 0)).await.unwrap();
    let port = door.local_addr().unwrap().port();
    (door, format!("/ip4/{ip}/tcp/{port}"))
}

/// Where a daemon and another peer have addresses of the world, which lead nowhere else.
const HERE: &str = "203.0.113.1";
const THERE: &str = "203.0.113.2";

#[tokio::test(flavor = "multi_thread")]
async fn from_afar_nobody_has_it_dial_its_own_machine_nor_is_told_of_that() {
    let Some(machine) = Machine::with(&[HERE, THERE], "addresses of the DHT").await else { return };
    let told = async {
        let ((near, near_address), (far, far_address)) = (door("127.0.0.1").await, door(THERE).await);
        let elsewhere = PeerId::random();
        let mut swarm = guide();
        let port = listen(&mut swarm, THERE).await;
        for address in [near_address, far_address] {
            swarm.behaviour_mut().kad.add_address(&elsewhere, address.parse().unwrap());
        }
        let mut setup = setup(&[format!("/ip4/{THERE}/tcp/{port}/p2p/{}", swarm.local_peer_id())]);
        setup.config.network.listen = ["127.0.0.1", HERE].map(|ip| format!("/ip4/{ip}/tcp/0")).into();
        let daemon = Daemon::start(setup).await.unwrap();
        let (tell, mut told) = mpsc::channel::<Vec<Multiaddr>>(8);
        let answering = tokio::spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(GuideEvent::Kad(kad::Event::InboundRequest {
                    request: kad::InboundRequest::AddProvider { record: Some(record) },
                })) = event
                {
                    tell.send(record.addresses).await.unwrap();
                }
            }
        });
        let dht = DhtServiceClient::new(channel(&daemon).await);
        let knocked = async {
            loop {
                // Until it knows that the other answers.
                let closest = || FindClosestPeersRequest { key: "anything".into() };
                let asked = until("somebody to ask", async || dht.clone().find_closest_peers(closest()).await.ok());
                let mut found = asked.await.into_inner();
                let search = async { while let Ok(Some(_)) = found.message().await {} };
                tokio::select! {
                    knock = far.accept() => break drop(knock.unwrap()),
                    () = search => {}
                }
            }
        };
        timeout(DEADLINE, knocked).await.expect("a knock at the address that is far away");
        let knock = timeout(Duration::from_millis(300), near.accept()).await;
        assert!(knock.is_err(), "a knock at this machine's own door");
        dht.clone().provide(ProvideRequest { key: "thing".into() }).await.unwrap();
        let told = timeout(DEADLINE, told.recv()).await.expect("a provider").unwrap();
        assert!(told.len() == 1 && told[0].to_string().starts_with(&format!("/ip4/{HERE}/")), "{told:?}");
        answering.abort();
    };
    machine.run(told).await;
}
