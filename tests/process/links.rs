//! Longer ways than loopback: daemons in network namespaces of their own, that reach each other over links with a delay
//! only, which can be cut.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Daemon, Namespace, Start, heard_in_peace, id, in_peace, interrupt, ready, said, until};

/// How much longer a transfer takes that stalls.
const STALL: Duration = Duration::from_millis(200);

/// A way from one namespace to a daemon in another. While it is cut, nothing gets through, and nothing is lost.
struct Link {
    /// The daemon's address at the near end.
    address: String,
    cut: Arc<AtomicBool>,
}

impl Link {
    fn new(near: &Namespace, far: &Namespace, daemon: &Daemon, delay: Duration) -> Self {
        Self::with_stalls(near, far, daemon, delay, 0)
    }

    /// One on which so many of 100 transfers, and what is behind them, take 200 ms longer.
    fn with_stalls(near: &Namespace, far: &Namespace, daemon: &Daemon, delay: Duration, percent: u64) -> Self {
        let target: u16 = daemon.address.split('/').nth(4).unwrap().parse().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let (accepted, to_connect) = mpsc::channel::<TcpStream>();
        let (port_is, port) = mpsc::channel();
        near.enter(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            port_is.send(listener.local_addr().unwrap().port()).unwrap();
            listener.incoming().map_while(Result::ok).try_for_each(|stream| accepted.send(stream)).unwrap();
        });
        let holds = cut.clone();
        far.enter(move || {
            for near in to_connect {
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                carry(near.try_clone().unwrap(), far.try_clone().unwrap(), delay, percent, holds.clone());
                carry(far, near, delay, percent, holds.clone());
            }
        });
        let id = daemon.address.rsplit('/').next().unwrap();
        Link { address: format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", port.recv().unwrap()), cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

/// Carries bytes one way, each `delay` after it came.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, stalls: u64, cut: Arc<AtomicBool>) {
    to.set_nodelay(true).unwrap();
    let (sender, on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let _ = sender.send((Instant::now() + delay, buffer[..count].to_vec()));
        }
    });
    thread::spawn(move || {
        let mut chance = u64::from(to.local_addr().unwrap().port());
        for (due, bytes) in on_the_way {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (chance >> 33) % 100 < stalls {
                thread::sleep(STALL);
            }
            while cut.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// What `listen -o json` says at its end.
fn heard(daemon: &Daemon, stream: &str, seconds: &str) -> serde_json::Value {
    let mut command = daemon.ctl(&["-o", "json", "listen", stream, "--wait", "20s", "--duration", seconds]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn over_three_hops_of_100_ms_nothing_is_lost_and_sound_stays_close() {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d"];
    let Some(spaces) = names.iter().map(|name| Namespace::new(name)).collect::<Option<Vec<_>>>() else { return };
    let mut daemons = vec![spaces[0].daemon(place.path(), "a", &[])];
    for (hop, ms) in [(1, 10), (2, 30), (3, 60)] {
        let way = Link::new(&spaces[hop], &spaces[hop - 1], &daemons[hop - 1], Duration::from_millis(ms));
        let next = spaces[hop].daemon(place.path(), names[hop], &["--bootstrap", &way.address]);
        next.good(&["wait", "peers=1", "--timeout", "20s"]);
        daemons.push(next);
    }
    // Those between follow too: gossip goes from follower to follower.
    for (stream, more, most) in [("usual", None, 300), ("quick", Some("--low-latency"), 200)] {
        let publisher = daemons[0].ctl(&["publish-stream", stream, "--tone", "440"]).args(more).start();
        let between: Vec<_> = daemons[1..3]
            .iter()
            .map(|daemon| daemon.ctl(&["-o", "json", "listen", stream, "--wait", "20s"]).start())
            .collect();
        daemons[3].good(&["wait", &format!("stream={stream}"), "--timeout", "20s"]);
        let numbers = heard(&daemons[3], stream, "10s");
        println!("{stream}: {numbers}");
        assert_eq!(numbers["concealed_frames"], 0, "{numbers}");
        // The goal, and what a busy machine adds.
        assert!(numbers["latency_ms"].as_u64().unwrap() <= most + 100, "{numbers}");
        for mut child in between.into_iter().chain([publisher]) {
            interrupt(&child);
            child.wait().unwrap();
        }
    }
}

#[test]
fn on_a_lan_daemons_find_each_other_by_mdns_alone() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("lan1"), Namespace::new("lan2")) else { return };
    if !one.join(&two) {
        return;
    }
    // More than once, since they find each other at the same moment, and their dials may meet.
    for round in 0..8 {
        let mdns = [("P2PD_NETWORK_MDNS", "true")];
        let a = one.on_lan(place.path(), &format!("a{round}"), "10.9.9.1", &mdns);
        let b = two.on_lan(place.path(), &format!("b{round}"), "10.9.9.2", &mdns);
        for (daemon, other) in [(&a, &b), (&b, &a)] {
            daemon.good(&["wait", "peers=1", "--timeout", "30s"]);
            assert!(daemon.good(&["-o", "json", "peers"]).contains(&id(other)));
        }
    }
}

/// A name of DNS in its labels.
fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// What one says on the local network who claims to be the n-th of many peers (RFC 6762, with the names of libp2p).
fn claim(n: u16) -> Vec<u8> {
    // An identity hash of four bytes, in base58.
    let [high, low] = n.to_be_bytes();
    let mut number = u64::from_be_bytes([0, 0, 0, 4, 1, 2, high, low]);
    let mut peer = Vec::new();
    while number > 0 {
        peer.insert(0, b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[(number % 58) as usize]);
        number /= 58;
    }
    let peer = format!("1{}", String::from_utf8(peer).unwrap());
    let (name, text) = (labels(&format!("peer{n}")), format!("dnsaddr=/ip4/10.9.9.2/tcp/1/p2p/{peer}"));
    let week = 604_800u32.to_be_bytes();
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    packet.extend(labels("_p2p._udp.local"));
    packet.extend([&[0, 12, 0, 1], &week[..], &[0, name.len() as u8], &name].concat());
    let length = text.len() as u8;
    packet.extend([&name[..], &[0, 16, 0x80, 1], &week[..], &[0, length + 1, length], text.as_bytes()].concat());
    packet
}

#[test]
fn one_who_invents_peers_on_a_lan_has_nobody_looked_for_there() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("quiet"), Namespace::new("inventive")) else { return };
    if !one.join(&two) {
        return;
    }
    two.set("route add 224.0.0.0/4 dev lan");
    let a = one.on_lan(place.path(), "a", "10.9.9.1", &[("P2PD_NETWORK_MDNS", "true")]);
    let shout = |claims: std::ops::Range<u16>| {
        two.enter(move || {
            let socket = UdpSocket::bind("10.9.9.2:0").unwrap();
            for n in claims {
                socket.send_to(&claim(n), "224.0.0.251:5353").unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        })
        .join()
        .unwrap();
    };
    let is_off = || a.logged().contains("not looking there for ten minutes");
    shout(0..200);
    assert!(!is_off(), "so many may be there");
    // What the kernel has no room for is said again.
    until("that there are too many", || {
        shout(0..300);
        is_off().then_some(())
    });
    shout(1_000..1_300);
    assert_eq!(a.logged().matches("not looking there").count(), 1, "it looks no more");
    a.good(&["status"]);
}

/// Whether a connection can be made.
fn connects(from: &Daemon, to: &Daemon) -> bool {
    from.ctl(&["peers", "connect", &to.address]).output().unwrap().status.success()
}

#[test]
fn one_address_gets_so_many_connections_and_others_theirs() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("host"), Namespace::new("crowd")) else { return };
    if !one.join(&two) {
        return;
    }
    two.set("address add 10.9.9.3/24 dev lan");
    let many =
        [("P2PD_NETWORK_MAX_CONNECTIONS_PER_ADDRESS", "2"), ("P2PD_NETWORK_NEW_CONNECTIONS_PER_ADDRESS", "1000")];
    let a = one.on_lan(place.path(), "a", "10.9.9.1", &many);
    // None that `a` could dial.
    let [first, second, third] = ["b", "c", "d"].map(|name| two.on_lan(place.path(), name, "127.0.0.1", &[]));
    assert!(connects(&first, &a) && connects(&second, &a));
    assert!(!connects(&third, &a), "a third of one address");
    two.set("route add 10.9.9.1 dev lan src 10.9.9.3");
    assert!(connects(&third, &a), "one of another address");
    third.good(&["peers", "disconnect", &id(&a)]);
    two.set("route del 10.9.9.1");
    first.good(&["peers", "disconnect", &id(&a)]);
    until("room", || connects(&third, &a).then_some(()));
    // An allowed address is exempt from the limit.
    a.good(&["peers", "allow", "10.9.9.2"]);
    assert!(connects(&first, &a));
    assert_eq!(a.good(&["-o", "jsonl", "peers"]).lines().count(), 3);
}

#[test]
fn an_ipv6_customer_is_one_address_and_a_site_eight() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("host6"), Namespace::new("site")) else { return };
    if !one.join(&two) {
        return;
    }
    one.set("address add 2001:db8::1/64 dev lan nodad");
    two.set("address add 2001:db8::2/64 dev lan nodad");
    for site in ["2001:db8:a::/48", "2001:db8:b::/48"] {
        one.set(&format!("route add {site} dev lan"));
    }
    let a = one.on_lan(place.path(), "a", "2001:db8::1", &[("P2PD_NETWORK_MAX_CONNECTIONS_PER_ADDRESS", "1")]);
    let connects_from = |client: &Daemon, address: &str| {
        two.set(&format!("address add {address}/128 dev lan nodad"));
        two.set(&format!("route replace 2001:db8::1 dev lan src {address}"));
        connects(client, &a)
    };
    let client = |n: usize| two.on_lan(place.path(), &format!("b{n}"), "127.0.0.1", &[]);
    // A customer is given a network of /56, whatever is in it; a site of /48 has 256 of these.
    let (first, late) = (client(0), client(8));
    assert!(connects_from(&first, "2001:db8:a:000::1"));
    assert!(!connects_from(&late, "2001:db8:a:0ff::1"), "another address of the same customer");
    let others: Vec<Daemon> = (1..8).map(client).collect();
    for (n, other) in (1..8).zip(&others) {
        assert!(connects_from(other, &format!("2001:db8:a:{n}00::1")), "customer {n} of the site");
    }
    assert!(!connects_from(&late, "2001:db8:a:800::1"), "a ninth of one site");
    assert!(connects_from(&late, "2001:db8:b:800::1"), "one of another site");
    assert_eq!(a.good(&["-o", "jsonl", "peers"]).lines().count(), 9);
}

#[test]
fn new_connections_of_one_address_come_at_a_bounded_rate() {
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("calm"), Namespace::new("hasty")) else { return };
    if !one.join(&two) {
        return;
    }
    let a = one.on_lan(place.path(), "a", "10.9.9.1", &[]);
    let b = two.on_lan(place.path(), "b", "127.0.0.1", &[]);
    let again = || {
        let connected = connects(&b, &a);
        let _ = b.ctl(&["peers", "disconnect", &id(&a)]).output().unwrap();
        connected
    };
    let mut made = 0;
    while again() {
        made += 1;
        assert!(made < 1_000, "nothing is refused");
    }
    assert!(made >= 16, "only {made} before the refusal");
    until("another", || again().then_some(()));
}

#[test]
fn after_a_cut_of_ten_seconds_it_is_live_again() {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("one"), Namespace::new("two")) else { return };
    let a = one.daemon(place.path(), "a", &[]);
    let link = Link::new(&two, &one, &a, Duration::from_millis(10));
    let b = two.daemon(place.path(), "b", &["--bootstrap", &link.address]);
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let latency = |seconds| {
        let numbers = heard(&b, "tone", seconds);
        println!("{numbers}");
        (numbers["latency_ms"].as_u64().unwrap(), numbers)
    };
    let (before, _) = latency("3s");
    let listener = b.ctl(&["-o", "json", "listen", "tone", "--duration", "10s"]).start();
    until("sound", || b.good(&["status"]).contains("1 local listener").then_some(()));
    link.cut(true);
    // Longer than anything buffers, and shorter than any connection takes to be given up.
    thread::sleep(Duration::from_secs(10));
    link.cut(false);
    let restored = Instant::now();
    // It has its ten seconds of sound without what was missed.
    let through = listener.wait_with_output().unwrap();
    let numbers: serde_json::Value = serde_json::from_slice(&through.stdout).unwrap();
    println!("{:?} after the cut: {numbers}", restored.elapsed());
    assert!(numbers["skipped_frames"].as_u64().unwrap() > 300, "{numbers}");
    assert!(numbers["latency_ms"].as_u64().unwrap() <= before + 150, "{numbers}");
    assert!(restored.elapsed() > Duration::from_secs(5), "{:?}", restored.elapsed());
    let (after, _) = latency("3s");
    assert!(after <= before + 150, "{before} ms before and {after} ms after");
    interrupt(&publisher);
    publisher.wait().unwrap();
}

/// Opening a stream costs no extra round trip: the protocol is negotiated optimistically on the existing connection.
#[test]
fn a_stream_takes_one_round_trip_to_its_first_answer() {
    /// Far longer than a busy machine adds.
    const ONE_WAY: Duration = Duration::from_millis(500);
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let (Some(one), Some(two)) = (Namespace::new("near"), Namespace::new("distant")) else { return };
    let a = one.daemon(place.path(), "a", &[]);
    let (serving, _) = ready(a.ctl(&["serve", "/echo/1", "cat"]));
    let link = Link::new(&two, &one, &a, ONE_WAY);
    let b = two.daemon(place.path(), "b", &["--bootstrap", &link.address]);
    let peer = id(&a);
    let speaks = || b.run(&["-o", "json", "peers", "show", &peer]).stdout;
    until("what it speaks", || String::from_utf8_lossy(&speaks()).contains("/echo/1").then_some(()));
    let began = Instant::now();
    assert_eq!(b.good(&["call", &peer, "/echo/1", "hello"]), "hello");
    let took = began.elapsed();
    assert!(took >= ONE_WAY * 2 && took < ONE_WAY * 4, "{took:?}");
    interrupt(&serving);
    serving.wait_with_output().unwrap();
}

/// Half a minute here; `X_STALLS_FOR=15m` for as long as the goal has it.
#[test]
fn where_links_stall_now_and_then_another_way_brings_every_group() {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let names = ["p", "q", "r", "s", "t"];
    let Some(spaces) = names.iter().map(|name| Namespace::new(name)).collect::<Option<Vec<_>>>() else { return };
    let mut daemons: Vec<Daemon> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let ways: Vec<String> = (0..n)
            .map(|m| Link::with_stalls(&spaces[n], &spaces[m], &daemons[m], Duration::from_millis(10), 2).address)
            .collect();
        let bootstrap: Vec<&str> = ways.iter().flat_map(|way| ["--bootstrap", way]).collect();
        let next = spaces[n].daemon(place.path(), name, &bootstrap);
        next.good(&["wait", &format!("peers={n}"), "--timeout", "20s"]);
        daemons.push(next);
    }
    let mut publisher = daemons[0].ctl(&["publish-stream", "stalled", "--tone", "440"]).start();
    let duration = std::env::var("X_STALLS_FOR").unwrap_or_else(|_| "30s".into());
    let listen = ["-o", "json", "listen", "stalled", "--wait", "20s", "--duration", &duration];
    let at = |daemon: &Daemon| daemon.ctl(&listen).start();
    for numbers in heard_in_peace(|| at(&daemons[0]), || daemons[1..].iter().map(at).collect()) {
        println!("stalls: {numbers}");
        assert_eq!(numbers["concealed_frames"], 0, "{numbers}");
        assert!(numbers["latency_ms"].as_u64().unwrap() <= 400, "{numbers}");
    }
    interrupt(&publisher);
    publisher.wait().unwrap();
}
