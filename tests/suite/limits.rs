//! What bounds connections, with peers that take as many as they get.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::machines::Machine;
use crate::support::{self, DEADLINE, peers, setup, start, until};
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    futures::StreamExt,
    noise,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
    tcp, yamux,
};
use p2pd::app::Daemon;
use p2pd_api::v1::{
    ClosedConnection, ConnectRequest, ListClosedConnectionsRequest, ListPeersRequest, Peer, PinPeerRequest,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket},
    time::timeout,
};

/// A peer that speaks nothing and stays.
fn guest() -> Swarm<dummy::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| dummy::Behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

fn dial(guest: &mut Swarm<dummy::Behaviour>, daemon: &Daemon) {
    let address: Multiaddr = support::tcp(daemon).parse().unwrap();
    guest.dial(DialOpts::from(address)).unwrap();
}

/// Whether it gets in.
async fn gets_in(guest: &mut Swarm<dummy::Behaviour>) -> bool {
    let answer = async {
        loop {
            match guest.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return true,
                SwarmEvent::OutgoingConnectionError { .. } => return false,
                _ => {}
            }
        }
    };
    timeout(DEADLINE, answer).await.expect("an answer to its dial")
}

/// Until it is sent away.
async fn stay(mut guest: Swarm<dummy::Behaviour>) {
    while !matches!(guest.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {}
}

async fn connected(daemon: &Daemon) -> Vec<Peer> {
    peers(daemon).await.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers
}

async fn closed(daemon: &Daemon) -> Vec<ClosedConnection> {
    let list = peers(daemon).await.list_closed_connections(ListClosedConnectionsRequest {}).await;
    list.unwrap().into_inner().connections
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_has_so_many_connections() {
    let mut bounded = setup(&[]);
    bounded.config.network.max_connections_per_peer = 2;
    let a = Daemon::start(bounded).await.unwrap();
    let mut guest = guest();
    let (address, id): (Multiaddr, _) = (support::tcp(&a).parse().unwrap(), support::id(&a).parse().unwrap());
    for _ in 0..5 {
        let again = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(vec![address.clone()]);
        guest.dial(again.build()).unwrap();
    }
    let mut ended = 0;
    while ended < 3 {
        let event = timeout(DEADLINE, guest.select_next_some()).await.expect("the end of one too many");
        ended += usize::from(matches!(event, SwarmEvent::ConnectionClosed { .. }));
    }
    // It may have closed one in favour of another, and then have taken a third.
    let ended = closed(&a).await.into_iter().map(|c| (c.connection.unwrap().opened_ms, c.closed_ms));
    // After those that ended, so that none is among both.
    let stand = connected(&a).await.into_iter().flat_map(|peer| peer.connections).map(|c| (c.opened_ms, u64::MAX));
    let times: Vec<_> = stand.chain(ended).collect();
    for (now, _) in &times {
        assert!(times.iter().filter(|(from, to)| from <= now && now < to).count() <= 2, "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_has_so_many_connections_and_room_again_when_one_ends() {
    const MOST: u32 = 8;
    // An eighth is for its own dials.
    const INBOUND: u32 = 7;
    let mut bounded = setup(&[]);
    let network = &mut bounded.config.network;
    (network.max_connections, network.connections_high, network.connections_low) = (MOST, MOST, MOST);
    let a = Daemon::start(bounded).await.unwrap();
    let mut guests = Vec::new();
    for _ in 0..INBOUND {
        let mut guest = guest();
        dial(&mut guest, &a);
        assert!(gets_in(&mut guest).await);
        guests.push(tokio::spawn(stay(guest)));
    }
    until("all of them", async || (connected(&a).await.len() == INBOUND as usize).then_some(())).await;
    let mut late = guest();
    let id = late.local_peer_id().to_string();
    dial(&mut late, &a);
    // Refused when the handshake is done: only then the daemon knows who it is.
    if gets_in(&mut late).await {
        timeout(DEADLINE, stay(late)).await.expect("that it is sent away");
    }
    assert!(closed(&a).await.iter().all(|one| one.peer_id != id), "{:?}", closed(&a).await);
    assert!(guests.iter().all(|guest| !guest.is_finished()));
    let b = start(&[]).await;
    peers(&a).await.connect(ConnectRequest { address: support::tcp(&b) }).await.expect("room for a dial of its own");
    guests.pop().unwrap().abort();
    until("it to be gone", async || (connected(&a).await.len() <= INBOUND as usize).then_some(())).await;
    let late = start(&[]).await;
    peers(&late).await.connect(ConnectRequest { address: support::tcp(&a) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_with_many_connections_each_shut_nobody_out() {
    let mut bounded = setup(&[]);
    let network = &mut bounded.config.network;
    (network.max_connections, network.connections_high, network.connections_low) = (16, 16, 16);
    let a = Daemon::start(bounded).await.unwrap();
    let (address, id): (Multiaddr, _) = (support::tcp(&a).parse().unwrap(), support::id(&a).parse().unwrap());
    for _ in 0..4 {
        let mut greedy = guest();
        for _ in 0..4 {
            let again = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(vec![address.clone()]);
            greedy.dial(again.build()).unwrap();
        }
        tokio::spawn(async move { while greedy.next().await.is_some() {} });
    }
    let open = |all: &[Peer]| all.iter().map(|peer| peer.connections.len()).sum::<usize>();
    until("each to have one left", async || {
        let all = connected(&a).await;
        (all.len() == 4 && open(&all) == 4 && closed(&a).await.len() >= 8).then_some(())
    })
    .await;
    let late = start(&[]).await;
    peers(&late).await.connect(ConnectRequest { address: support::tcp(&a) }).await.unwrap();
    assert_eq!(connected(&a).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_connections_are_made_at_once() {
    const MOST: u32 = 8;
    let mut bounded = setup(&[]);
    bounded.config.network.max_pending_connections = MOST;
    let a = Daemon::start(bounded).await.unwrap();
    let address = support::tcp(&a);
    let port = address.split('/').nth(4).unwrap().parse().unwrap();
    // They never say a word, and are given up after three seconds.
    let silent: Vec<_> = (0..MOST).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let b = start(&[]).await;
    let connect = async || peers(&b).await.connect(ConnectRequest { address: address.clone() }).await;
    until("to be one too many", async || connect().await.err()).await;
    assert!(connected(&a).await.is_empty());
    until("room again", async || connect().await.ok()).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_from_a_few_places_hold_up_nobody_else() {
    const HERE: &str = "203.0.113.1";
    const SILENT: [&str; 4] = ["203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"];
    let addresses: Vec<_> = SILENT.into_iter().chain([HERE]).collect();
    let Some(machine) = Machine::with(&addresses, "silent sockets").await else { return };
    let a = machine.start(HERE, &[]).await;
    let here = async || support::addresses(&a).await.into_iter().find(|address| address.contains(HERE));
    let address = until("an address of the interface", here).await;
    let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
    let held = machine.run(async move {
        let mut held = Vec::new();
        // Sixteen at once are the most that one place may begin.
        for from in SILENT.into_iter().flat_map(|from| [from; 16]) {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            held.push(socket.connect(format!("{HERE}:{port}").parse().unwrap()).await.unwrap());
        }
        held
    });
    let held = held.await;
    let b = machine.start(HERE, &[]).await;
    peers(&b).await.connect(ConnectRequest { address }).await.expect("a place among those in the making");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_crowd_of_new_peers_some_are_left_alone_and_who_was_there_stays() {
    let mut crowded = setup(&[]);
    let network = &mut crowded.config.network;
    (network.connections_high, network.connections_low) = (4, 2);
    // Who was there has outlived this, and the others never do.
    network.connections_grace = p2pd_core::setting::Span(Duration::from_secs(2));
    let a = Daemon::start(crowded).await.unwrap();
    let mut old = guest();
    let id = old.local_peer_id().to_string();
    dial(&mut old, &a);
    tokio::spawn(stay(old));
    let is_old = async || {
        let all = connected(&a).await;
        let opened = all.first()?.connections.first()?.opened_ms;
        (support::now_ms() > opened + 2_500).then_some(())
    };
    until("it to be no newcomer any more", is_old).await;
    for _ in 0..6 {
        let mut guest = guest();
        dial(&mut guest, &a);
        tokio::spawn(stay(guest));
    }
    let let_go = until("some to be let go of", async || Some(closed(&a).await).filter(|all| all.len() >= 3)).await;
    assert!(let_go.iter().all(|one| one.why.starts_with("more peers than wanted") && one.peer_id != id), "{let_go:?}");
    assert!(connected(&a).await.iter().any(|peer| peer.peer_id == id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_peer_that_is_not_there_is_dialled_ever_less_often() {
    let a = start(&[]).await;
    let door = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = door.local_addr().unwrap().port();
    let id = guest().local_peer_id().to_string();
    let peer = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{id}");
    peers(&a).await.pin_peer(PinPeerRequest { peer, tags: vec![], passive: false }).await.unwrap();
    let dialled = async {
        let mut dialled = Vec::new();
        while dialled.len() < 4 {
            let (mut caller, _) = door.accept().await.unwrap();
            dialled.push(Instant::now());
            // Hung up on in the middle of its first word.
            caller.read_exact(&mut [0]).await.unwrap();
        }
        dialled
    };
    let dialled = timeout(DEADLINE, dialled).await.expect("four dials");
    let waits: Vec<_> = dialled.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    // From one second on, doubled each time; the daemon looks once a second.
    for (wait, least) in waits.iter().zip([1, 2, 4]) {
        assert!(*wait >= Duration::from_secs(least) - Duration::from_millis(200), "{waits:?}");
    }
}
