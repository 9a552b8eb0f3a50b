//! Daemons at home, behind routers that nobody has set up.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    interop::Peer,
    support::{
        Daemon, Start, id, interrupt, json,
        lab::{Lab, Place, Router},
        p2pd, part, until, within,
    },
};

/// What p2pctl says of the connections to a peer.
fn ways(daemon: &Daemon, peer: &str) -> Vec<(bool, String)> {
    let shown = daemon.run(&["-o", "json", "peers", "show", peer]);
    if !shown.status.success() {
        return Vec::new();
    }
    let shown = json(&String::from_utf8(shown.stdout).unwrap());
    let connections = shown["connections"].as_array().cloned().unwrap_or_default();
    let way = |c: serde_json::Value| (c["relayed"] == true, c["address"].as_str().unwrap_or_default().to_owned());
    connections.into_iter().map(way).collect()
}

/// How many groups a line of the statistics counts.
fn groups(line: &str) -> u64 {
    line.split("groups ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_default()
}

/// A relay on the internet.
fn relay(lab: &Lab, place: &Path, n: usize) -> Daemon {
    lab.daemon(Place::Internet, place, &format!("relay{n}"), Lab::PUBLIC[n], &[("P2PD_NETWORK_RELAY", "on")])
}

/// A daemon in each home, which may be reached through these relays.
fn homes(lab: &Lab, place: &Path, relays: &str) -> (Daemon, Daemon) {
    let home = |n: usize, name: &str| {
        lab.daemon(Place::Home(n), place, name, &format!("192.168.{n}.2"), &[("P2PD_NETWORK_RELAYS", relays)])
    };
    (home(0, "a"), home(1, "b"))
}

/// Two homes behind such routers, with a relay on the internet: they find each other by the directory, hear each other through the relay,
/// and then directly, without a group that is lost; and go on when the relay is gone.
fn become_direct(routers: [Router; 2]) {
    let Some(lab) = Lab::new(routers) else { return };
    let place = tempfile::tempdir().unwrap();
    let mut relay = relay(&lab, place.path(), 0);
    let (a, b) = homes(&lab, place.path(), &relay.address);
    let reserved = || {
        let relays = json(&a.good(&["-o", "json", "status"]))["relays"].clone();
        (relays[0]["state"] == "RELAY_STATE_RESERVED").then_some(())
    };
    until("the relay", reserved);
    let _publishing = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "town", "--stats"]).stdout(Stdio::null()).start();
    let way = until("a direct connection alone", || direct(&b, &id(&a)));
    assert!(way.contains("/45.10.20.10/"), "{way}");
    relay.kill_9();
    let before = groups(&listener.says("groups "));
    until("sound without the relay", || (groups(&listener.says("groups ")) > before + 30).then_some(()));
    let last = listener.says("groups ");
    assert!(last.contains("lost 0") && last.contains("concealed 0"), "{last}");
    interrupt(&listener);
    listener.wait().unwrap();
}

#[test]
fn two_usual_routers_let_a_direct_connection_through() {
    become_direct([Router::PortRestricted, Router::PortRestricted]);
}

#[test]
fn a_router_that_lets_all_in_does_not_mind_a_symmetric_one() {
    become_direct([Router::FullCone, Router::Symmetric]);
}

#[test]
fn a_router_that_knows_its_callers_does_not_mind_a_symmetric_one() {
    become_direct([Router::AddressRestricted, Router::Symmetric]);
}

#[test]
fn without_udp_a_direct_connection_is_one_of_tcp() {
    become_direct([Router::PortRestricted, Router::NoUdp]);
}

#[test]
fn between_routers_that_answer_strangers_a_stream_is_heard_either_way() {
    let Some(lab) = Lab::new([Router::Answering, Router::Answering]) else { return };
    let place = tempfile::tempdir().unwrap();
    let relay = relay(&lab, place.path(), 0);
    let (a, b) = homes(&lab, place.path(), &relay.address);
    let _publishing = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "town", "--stats"]).stdout(Stdio::null()).start();
    until("sound", || (groups(&listener.says("groups ")) > 50).then_some(()));
    let truly = |(relayed, address): (bool, String)| relayed == address.contains("p2p-circuit");
    let ways = ways(&b, &id(&a));
    assert!(!ways.is_empty() && ways.into_iter().all(truly));
    interrupt(&listener);
    listener.wait().unwrap();
}

/// The Go p2pd there, and its peer id.
struct Go {
    child: Child,
    id: String,
    /// It dies of a word that nobody could read.
    _said: BufReader<ChildStdout>,
}

impl Go {
    fn start(lab: &Lab, at: Place, place: &Path, ip: &str, flags: &[&str]) -> Option<Self> {
        let mut command = lab.command(at);
        command.arg(part("go")?.join("p2pd")).arg(format!("-listen=/unix{}", place.join("go.sock").display()));
        command.arg(format!("-hostAddrs=/ip4/{ip}/tcp/4001,/ip4/{ip}/udp/4001/quic-v1")).args(flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut lines = said.by_ref().lines().map_while(Result::ok);
        let id = lines.find_map(|line| Some(line.strip_prefix("Peer ID: ")?.to_owned()));
        Some(Go { child, id: id.expect("the id of the Go p2pd"), _said: said })
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_go_p2pd_is_a_relay_for_us() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let flags = ["-relayService", "-forceReachabilityPublic"];
    let Some(relay) = Go::start(&lab, Place::Internet, place.path(), Lab::PUBLIC[0], &flags) else { return };
    let address = format!("/ip4/{}/tcp/4001/p2p/{}", Lab::PUBLIC[0], relay.id);
    let (a, b) = homes(&lab, place.path(), &address);
    // It offers the service some time after its start, and may say so with the next identify only, a minute later.
    let circuit = within(Duration::from_secs(90), "the address through the relay", || circuit(&a));
    b.good(&["peers", "connect", &circuit]);
    assert!(ways(&b, &id(&a)).iter().any(|(relayed, _)| *relayed), "through the relay at first");
    until("a direct connection alone", || direct(&b, &id(&a)));
}

/// An own address of a daemon that leads through a relay.
fn circuit(daemon: &Daemon) -> Option<String> {
    let addresses = json(&daemon.good(&["-o", "json", "status"]))["addresses"].as_array().cloned().unwrap_or_default();
    let mut texts = addresses.into_iter().filter_map(|address| address.as_str().map(str::to_owned));
    texts.find(|address| address.contains("p2p-circuit"))
}

/// Where a peer is connected, once that is directly and nothing else.
fn direct(daemon: &Daemon, peer: &str) -> Option<String> {
    let ways = ways(daemon, peer);
    (ways.len() == 1 && !ways[0].0).then(|| ways[0].1.clone())
}

/// Messages that are counted.
const MESSAGES: usize = 20_000;
/// For the last of them.
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn no_message_is_lost_or_doubled_when_a_direct_connection_takes_the_relays_place() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let relay = relay(&lab, place.path(), 0);
    let (a, b) = homes(&lab, place.path(), &relay.address);
    let circuit = until("the address through the relay", || circuit(&a));
    let heard = place.path().join("heard");
    let mut subscriber = b.ctl(&["sub", "count", "-n", &MESSAGES.to_string()]);
    let mut subscriber = subscriber.stdout(File::create(&heard).unwrap()).spawn().unwrap();
    b.good(&["peers", "connect", &circuit]);
    assert!(ways(&b, &id(&a)).iter().any(|(relayed, _)| *relayed), "through the relay at first");
    let mut publisher = a.ctl(&["pub", "count", "--wait", "20s"]);
    let mut publisher = publisher.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = publisher.stdin.take().unwrap();
    // Before the change, across it and after.
    let mut was = Vec::new();
    for n in 0..MESSAGES {
        writeln!(lines, "{n}").unwrap();
        if n % 100 == 0 {
            thread::sleep(Duration::from_millis(40));
        }
        if n % 2_000 == 0 {
            was.push(ways(&b, &id(&a)).iter().all(|(relayed, _)| !relayed));
        }
    }
    drop(lines);
    assert!(publisher.wait().unwrap().success());
    let heard =
        || -> Vec<usize> { fs::read_to_string(&heard).unwrap().lines().map(|line| line.parse().unwrap()).collect() };
    let missing = |heard: &[usize]| (0..MESSAGES).filter(|n| !heard.contains(n)).take(8).collect::<Vec<_>>();
    let began = Instant::now();
    while subscriber.try_wait().unwrap().is_none() && began.elapsed() < DEADLINE {
        thread::sleep(Duration::from_millis(10));
    }
    let heard = heard();
    assert_eq!((heard.len(), missing(&heard)), (MESSAGES, Vec::new()), "each once");
    assert_eq!(was.last(), Some(&true), "direct in the end: {was:?}");
}

#[test]
fn between_two_symmetric_routers_a_relay_remains() {
    stay_relayed([Router::Symmetric, Router::Symmetric]);
}

#[test]
fn between_a_symmetric_router_and_a_usual_one_a_relay_remains() {
    stay_relayed([Router::PortRestricted, Router::Symmetric]);
}

/// Two homes behind routers that let no direct connection through: a stream is heard through a relay, and through another when that goes.
fn stay_relayed(routers: [Router; 2]) {
    let Some(lab) = Lab::new(routers) else { return };
    let place = tempfile::tempdir().unwrap();
    let mut relays: Vec<_> = (0..2).map(|n| relay(&lab, place.path(), n)).collect();
    let listed = relays.iter().map(|relay| relay.address.clone()).collect::<Vec<_>>().join(",");
    let (a, b) = homes(&lab, place.path(), &listed);
    let status = || json(&a.good(&["-o", "json", "status"]));
    let reserved = || {
        let relays = status()["relays"].as_array().cloned().unwrap_or_default();
        let reserved = |relay: &&serde_json::Value| relay["state"] == "RELAY_STATE_RESERVED";
        (relays.iter().filter(reserved).count() == 2).then_some(())
    };
    until("two relays", reserved);
    let _publishing = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "town", "--stats"]).stdout(Stdio::null()).start();
    listener.says("groups 2");
    let through = |way: &str| {
        let (_, address) = ways(&b, &id(&a)).into_iter().find(|(relayed, _)| *relayed)?;
        Some(address).filter(|address| address.contains(way))
    };
    let address = until("the way through a relay", || through("/p2p-circuit"));
    let before = groups(&listener.says("groups "));
    let used = relays.iter().position(|relay| address.contains(&id(relay))).expect("one of the relays");
    relays.remove(used).kill_9();
    let other = id(&relays[0]);
    until("the way through the other one", || through(&other));
    until("sound again", || (groups(&listener.says("groups ")) > before + 50).then_some(()));
    interrupt(&listener);
    listener.wait().unwrap();
}

/// Own addresses of a daemon, each with its state and who says so.
fn own_addresses(daemon: &Daemon) -> Vec<serde_json::Value> {
    json(&daemon.good(&["-o", "json", "status"]))["own_addresses"].as_array().cloned().unwrap_or_default()
}

/// The state of the first own address that begins so, once a peer has tested it.
fn tested(daemon: &Daemon, address: &str) -> Option<String> {
    let own = own_addresses(daemon);
    let own = own.iter().find(|own| own["address"].as_str().is_some_and(|text| text.starts_with(address)))?;
    (own["witness"] == "ADDRESS_WITNESS_TESTER").then(|| own["state"].as_str().unwrap().to_owned())
}

#[test]
fn peers_tell_whether_a_router_lets_anybody_in() {
    let Some(lab) = Lab::new([Router::FullCone, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let tester = |n: usize| {
        let settings = [("P2PD_NETWORK_AUTONAT_SERVER", "on"), ("P2PD_NETWORK_RELAY", "on")];
        lab.daemon(Place::Internet, place.path(), &format!("tester{n}"), Lab::PUBLIC[n], &settings)
    };
    let testers = [tester(0), tester(1)];
    let known = testers.each_ref().map(|tester| tester.address.clone()).join(",");
    let home = |n: usize, name: &str| {
        let settings = [("P2PD_NETWORK_BOOTSTRAP", known.as_str())];
        lab.daemon(Place::Home(n), place.path(), name, &format!("192.168.{n}.2"), &settings)
    };
    let (open, closed) = (home(0, "open"), home(1, "closed"));
    let state = until("a test of the open one", || tested(&open, "/ip4/45.10.20.10/tcp/4001"));
    assert_eq!(state, "ADDRESS_STATE_PUBLIC");
    let state = until("a test of the closed one", || tested(&closed, "/ip4/45.10.20.11/"));
    assert_eq!(state, "ADDRESS_STATE_PRIVATE");
    // Who is reached tells its address, and answers in the DHT; the other has relays.
    let status = |daemon: &Daemon| json(&daemon.good(&["-o", "json", "status"]));
    let told = |daemon: &Daemon, what: &str| status(daemon)["addresses"].to_string().contains(what);
    until("that it is told", || told(&open, "/ip4/45.10.20.10/tcp/4001/p2p/").then_some(()));
    until("a relay", || told(&closed, "p2p-circuit").then_some(()));
    assert!(!told(&closed, "/ip4/45.10.20.11/"));
    let serves = |daemon: &Daemon| {
        let shown = testers[0].good(&["-o", "json", "peers", "show", &id(daemon)]);
        json(&shown)["protocols"].to_string().contains("/kad/")
    };
    until("that it answers in the DHT", || serves(&open).then_some(()));
    assert!(!serves(&closed));
    assert!(open.good(&["status"]).contains("from the world at /ip4/45.10.20.10/"), "{}", open.good(&["status"]));
    assert!(closed.good(&["status"]).contains("from the world through relays"), "{}", closed.good(&["status"]));
    let mut events = open.ctl(&["events", "--from-oldest"]).start();
    events.printed().with("address-public");
    until("that the open one needs no relay", || status(&open)["relays"].as_array().unwrap().is_empty().then_some(()));
    assert!(!told(&open, "p2p-circuit"), "{}", status(&open)["addresses"]);
}

#[test]
fn a_peer_of_js_libp2p_tells_whether_a_router_lets_anybody_in() {
    let Some(lab) = Lab::new([Router::FullCone, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = lab.command(Place::Internet);
    let Some(tester) = Peer::js_program_by(at, "autonat.mjs", &[Lab::PUBLIC[0], "4001"]) else { return };
    let known = tester.ready["address"].as_str().unwrap().to_owned();
    for (n, says) in ["ADDRESS_STATE_PUBLIC", "ADDRESS_STATE_PRIVATE"].into_iter().enumerate() {
        let settings = [("P2PD_NETWORK_BOOTSTRAP", known.as_str())];
        let home = lab.daemon(Place::Home(n), place.path(), &format!("home{n}"), &format!("192.168.{n}.2"), &settings);
        let address = format!("/ip4/45.10.20.1{n}/tcp/");
        assert_eq!(until("a test", || tested(&home, &address)), says);
    }
}

/// Packets of UDP to groups of hosts that have left a home.
fn multicast(lab: &Lab, n: usize) -> u64 {
    let mut list = lab.command(Place::Home(n));
    let output = list.args(["nft", "list", "table", "inet", "watch"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let counted = text.split("packets ").skip(1).map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap());
    counted.sum()
}

#[test]
fn nothing_is_multicast_unless_it_is_asked_for() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    for n in 0..2 {
        let mut nft = lab.command(Place::Home(n));
        let rules = "add table inet watch; add chain inet watch out { type filter hook output priority 0; }; \
                     add rule inet watch out ip daddr 224.0.0.0/4 meta l4proto udp counter; \
                     add rule inet watch out ip6 daddr ff00::/8 meta l4proto udp counter";
        assert!(nft.args(["nft", rules]).status().unwrap().success());
    }
    let relay = relay(&lab, place.path(), 0);
    // Not one of --dev, which never asks around.
    let home = |n: usize, name: &str, mdns: &str| {
        let (mut command, socket) = (lab.command(Place::Home(n)), place.path().join(format!("{name}.sock")));
        command.arg(p2pd()).args(["run", "--data"]).arg(place.path().join(name)).arg("--socket").arg(&socket);
        command.args(["--bootstrap", &relay.address, "--listen", &format!("/ip4/192.168.{n}.2/tcp/4001")]);
        if !mdns.is_empty() {
            command.env("P2PD_NETWORK_MDNS", mdns);
        }
        Daemon::spawn(command, socket)
    };
    let (quiet, _loud) = (home(0, "quiet", ""), home(1, "loud", "true"));
    until("that one asks around", || (multicast(&lab, 1) > 2).then_some(()));
    let _publishing = quiet.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    until("a relay", || quiet.good(&["-o", "json", "status"]).contains("RELAY_STATE_RESERVED").then_some(()));
    assert_eq!(multicast(&lab, 0), 0);
}
