//! Peers that share no muxer, no security or no transport with a daemon are told as just that, whoever dials; and those of
//! old networks, which have mplex alone, are let in where that is wanted.

use std::{future::poll_fn, time::Duration};

use libp2p::{
    Swarm, SwarmBuilder, Transport,
    core::{
        Endpoint,
        muxing::StreamMuxerExt,
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt},
    identity, noise, ping,
    swarm::SwarmEvent,
    tcp, yamux,
};
use p2pd::app::Daemon;
use p2pd_api::v1::{
    ConnectRequest, GetPeerRequest, HandleProtocolRequest, ListClosedConnectionsRequest, PingPeerRequest,
    WatchEventsRequest, node_service_client::NodeServiceClient,
};
use p2pd_live::topic;
use p2pd_net::{DhtMode, Identity};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    channel, id, list, listen, now_ms, peers, protocols, setup, start, stranger, tcp as tcp_of, until,
};

/// A peer that has mplex alone, or yamux too; and where it listens.
async fn old(both: bool) -> (Swarm<ping::Behaviour>, String) {
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let (socket, mplex) = (tcp::Config::default(), libp2p_mplex::Config::default);
    let behaviour = |_: &_| ping::Behaviour::default();
    let idle = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = if both {
        let muxers = (yamux::Config::default, mplex);
        builder
            .with_tcp(socket, noise::Config::new, muxers)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build()
    } else {
        builder
            .with_tcp(socket, noise::Config::new, mplex)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build()
    };
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let address = format!("{address}/p2p/{}", swarm.local_peer_id());
    (swarm, address)
}

fn run(mut swarm: Swarm<ping::Behaviour>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while swarm.next().await.is_some() {} })
}

/// Waits until a closed connection and an event say so; whose it was.
async fn told(daemon: &Daemon, why: &str) -> String {
    let closed = until("the closed connection", async || {
        let list =
            peers(daemon).await.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
        list.connections.into_iter().find(|closed| closed.why.contains(why))
    })
    .await;
    let watch = WatchEventsRequest { from_oldest: true, ..Default::default() };
    let mut events = NodeServiceClient::new(channel(daemon).await).watch_events(watch).await.unwrap().into_inner();
    let event = async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            if event.kind == "peer-incompatible" && event.subject.contains(why) {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, event).await.expect("an event");
    closed.peer_id
}

async fn connect(daemon: &Daemon, address: &str) -> Result<(), tonic::Status> {
    peers(daemon).await.connect(ConnectRequest { address: address.into() }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_without_a_transport_in_common_is_told_as_that() {
    let hub = start(&[]).await;
    let a = start(&[tcp_of(&hub)]).await;
    // It listens nowhere, and says that it is where nobody here can dial.
    let mut config = stranger(&tcp_of(&hub), DhtMode::Client);
    config.network.listen.clear();
    let identity = Identity::generate();
    let publisher = p2pd_net::prepare(&config, &identity).unwrap().run(CancellationToken::new());
    let directory = topic::directory(topic::DEFAULT_NETWORK);
    crate::support::follow(&publisher, &directory).await;
    until("the mesh", async || (publisher.handle.pubsub.topic_peers(&directory).await.unwrap().mesh > 0).then_some(()))
        .await;
    let theirs = identity.peer_id().to_string();
    let metadata =
        json!({"publisher": theirs, "publisherAddrs": ["/ip4/127.0.0.1/udp/9/webrtc-direct"], "timestamp": now_ms()});
    let announce = json!({"type": "announce", "streamId": "town", "metadata": metadata}).to_string();
    publisher.handle.pubsub.publish(&directory, announce.into()).await.unwrap();
    until("the entry", async || list(&a).await.into_iter().next()).await;
    let _listening = listen(&a, "town", 0).await;
    assert_eq!(told(&a, "it shares no transport with this daemon, which has tcp, ws and quic-v1").await, theirs);

    let refused = connect(&a, &format!("/ip4/127.0.0.1/udp/9/webrtc-direct/p2p/{theirs}")).await.unwrap_err();
    assert!(refused.message().contains("it takes /tcp/PORT, /tcp/PORT/ws or /udp/PORT/quic-v1"), "{refused}");
}

const NO_MUXER: &str = "it shares no muxer with this daemon, which has yamux; network.mplex adds mplex";

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_muxer_in_common_is_told_as_that_both_ways() {
    let a = start(&[]).await;
    let (swarm, address) = old(false).await;
    let theirs = swarm.local_peer_id().to_string();
    let running = run(swarm);
    // Its word may be lost in its hanging up, and come with another try.
    until("the word for it", async || {
        connect(&a, &address).await.unwrap_err().message().contains(NO_MUXER).then_some(())
    })
    .await;
    assert_eq!(told(&a, NO_MUXER).await, theirs);
    running.abort();
    let b = start(&[]).await;
    let (mut swarm, _) = old(false).await;
    let theirs = swarm.local_peer_id().to_string();
    let target: libp2p::Multiaddr = tcp_of(&b).parse().unwrap();
    let running = tokio::spawn(async move {
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = again.tick() => drop(swarm.dial(target.clone())),
                _ = swarm.next() => {}
            }
        }
    });
    assert_eq!(told(&b, NO_MUXER).await, theirs);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn mplex_is_taken_where_it_is_wanted_and_yamux_before_it() {
    let mut with = setup(&[]);
    with.config.network.mplex = true;
    let a = Daemon::start(with).await.unwrap();
    for (both, muxer) in [(false, "mplex"), (true, "yamux")] {
        for they_dial in [false, true] {
            let (mut swarm, address) = old(both).await;
            let theirs = swarm.local_peer_id().to_string();
            if they_dial {
                swarm.dial(tcp_of(&a).parse::<libp2p::Multiaddr>().unwrap()).unwrap();
            }
            let running = run(swarm);
            if !they_dial {
                connect(&a, &address).await.unwrap();
            }
            let peer = until("the connection", async || {
                let peer = peers(&a).await.get_peer(GetPeerRequest { peer_id: theirs.clone() }).await;
                peer.ok()?.into_inner().peer
            })
            .await;
            assert_eq!(peer.connections[0].muxer, muxer, "they dial: {they_dial}");
            let ping = PingPeerRequest { peer_id: theirs.clone(), count: 3, interval_ms: 10 };
            let mut pings = peers(&a).await.ping_peer(ping).await.unwrap().into_inner();
            for _ in 0..3 {
                pings.message().await.unwrap().expect("a round trip");
            }
            running.abort();
        }
    }
}

/// A line as multistream-select has it.
fn line(text: &str) -> Vec<u8> {
    let mut line = vec![u8::try_from(text.len() + 1).unwrap()];
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_security_in_common_is_told_as_that_both_ways() {
    let why = "it shares no security with this daemon";
    let a = start(&[]).await;
    let port: u16 = tcp_of(&a).split('/').nth(4).unwrap().parse().unwrap();
    // Who only knocks lacks nothing.
    for said in [Vec::new(), line("/multistream/1.0.0")] {
        TcpStream::connect(("127.0.0.1", port)).await.unwrap().write_all(&said).await.unwrap();
    }
    let mut dialling = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    dialling.write_all(&[line("/multistream/1.0.0"), line("/plaintext/2.0.0")].concat()).await.unwrap();
    let mut answer = vec![0; 24];
    dialling.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[20..], line("na"));
    let dialled_from = dialling.local_addr().unwrap().port();
    drop(dialling);
    assert_eq!(told(&a, why).await, "", "nobody knows who it was");
    let from = dialled_from.to_string();
    let list = peers(&a).await.list_closed_connections(ListClosedConnectionsRequest {}).await.unwrap().into_inner();
    let ports: Vec<_> =
        list.connections.iter().map(|closed| closed.connection.as_ref().unwrap().address.clone()).collect();
    assert!(ports.len() == 1 && ports[0].ends_with(&from), "{ports:?}, not {from}");

    let b = start(&[]).await;
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", door.local_addr().unwrap().port(), id(&a));
    let refusing = tokio::spawn(async move {
        let (mut dialled, _) = door.accept().await.unwrap();
        dialled.write_all(&[line("/multistream/1.0.0"), line("na"), line("na")].concat()).await.unwrap();
        let _ = dialled.read_to_end(&mut Vec::new()).await;
    });
    let refused = connect(&b, &address).await.unwrap_err();
    assert!(refused.message().contains(why), "{refused}");
    assert_eq!(told(&b, why).await, id(&a));
    refusing.abort();
}

/// A peer that fills streams which nobody here reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_mplex_that_nobody_reads_is_reset_and_others_go_on() {
    const PROTOCOL: &str = "/test/1.0.0";
    let mut with = setup(&[]);
    with.config.network.mplex = true;
    let a = Daemon::start(with).await.unwrap();
    let handle = HandleProtocolRequest { protocol: PROTOCOL.into(), ..Default::default() };
    let mut handler = protocols(&a).await.handle_protocol(handle).await.unwrap().into_inner();
    handler.message().await.unwrap();

    let keys = identity::Keypair::generate_ed25519();
    let mut transport = tcp::tokio::Transport::default()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keys).unwrap())
        .multiplex(libp2p_mplex::Config::default())
        .boxed();
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, mut muxer) = transport.dial(tcp_of(&a).parse().unwrap(), options).unwrap().await.unwrap();
    for _ in 0..3 {
        let mut stream = poll_fn(|context| muxer.poll_outbound_unpin(context)).await.unwrap();
        let head = [line("/multistream/1.0.0"), line(PROTOCOL)].concat();
        stream.write_all(&head).await.unwrap();
        let mut answer = vec![0; head.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, head);
        // Far more than it may hold, in the largest frames.
        let flood = async {
            let frame = vec![7; 1 << 20];
            for _ in 0..32 {
                stream.write_all(&frame).await?;
            }
            stream.flush().await?;
            stream.read_exact(&mut [0]).await
        };
        let reset = tokio::time::timeout(crate::support::DEADLINE, flood).await.expect("a reset");
        assert!(reset.is_err(), "{reset:?}");
    }
}
