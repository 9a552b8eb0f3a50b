//! `p2pctl doctor` on bad days: each fault is named, with what mends it.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{
    Daemon, P2PCTL, Start, id, json,
    lab::{Lab, Place, Router},
    p2pd, said, until,
};

fn findings(output: &Output) -> Vec<Value> {
    let found = json(&String::from_utf8(output.stdout.clone()).unwrap())["findings"].clone();
    found.as_array().cloned().unwrap_or_default()
}

/// What a daemon's doctor says of a thing, once that is so bad; `FAIL` ends with 1.
pub fn finds(daemon: &Daemon, check: &str, level: &str) -> String {
    let level = format!("FINDING_LEVEL_{level}");
    let (output, finding) = until("the finding", || {
        let output = daemon.run(&["-o", "json", "doctor"]);
        let found = findings(&output);
        let finding =
            found.into_iter().find(|finding| finding["check"] == check && finding["level"] == level.as_str())?;
        Some((output, finding))
    });
    if level.ends_with("FAIL") {
        assert_eq!(output.status.code(), Some(1));
    }
    assert!(!finding["mend"].as_str().unwrap().is_empty(), "{finding}");
    format!("{}: {}", finding["fact"].as_str().unwrap(), finding["mend"].as_str().unwrap())
}

#[test]
fn where_all_is_well_nothing_is_to_be_mended() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &a.address]);
    b.good(&["wait", "peers=1"]);
    let well = findings(&b.run(&["-o", "json", "doctor"]));
    assert!(well.len() > 3 && well.iter().all(|finding| finding["level"] == "FINDING_LEVEL_OK"), "{well:?}");
    assert!(b.good(&["doctor"]).contains("1 peer is connected"), "{}", b.good(&["doctor"]));
}

#[test]
fn bootstrap_peers_that_are_all_down_are_named() {
    let place = tempfile::tempdir().unwrap();
    let mut gone = Daemon::start(place.path(), "gone", &[]);
    gone.kill_9();
    let a = Daemon::start(place.path(), "a", &["--bootstrap", &gone.address]);
    assert!(finds(&a, "peers", "FAIL").contains("p2pctl peers connect"));
    let why = until("why", || Some(finds(&a, "bootstrap", "WARN")).filter(|why| why.contains("refused")));
    assert!(why.contains(&gone.address), "{why}");
}

#[test]
fn few_file_descriptors_are_named_before_they_are_short() {
    let place = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 256 && exec \"$@\"", "sh"]).arg(p2pd());
    let daemon = Daemon::launch(limited, place.path(), "limited", &[]);
    let found = finds(&daemon, "descriptors", "WARN");
    assert!(found.contains("of 256 file descriptors") && found.contains("LimitNOFILE"), "{found}");
}

/// Where no daemon answers: `p2pctl doctor` run by this command.
fn alone(mut command: Command, path: &str, config: &str) -> Output {
    command.arg(P2PCTL).args(["-s", "/nonexistent/api.sock", "-o", "json", "doctor"]);
    command.env("PATH", path).env("P2PD_CONFIG", config).stdout(Stdio::piped()).stderr(Stdio::piped()).finish()
}

#[test]
fn where_no_daemon_answers_its_configuration_is_looked_at() {
    let place = tempfile::tempdir().unwrap();
    let (bad, good) = (place.path().join("bad.toml"), place.path().join("good.toml"));
    fs::write(&bad, "[network]\nbotstrap = []\n").unwrap();
    fs::write(&good, "").unwrap();
    let path = p2pd().parent().unwrap().to_str().unwrap().to_owned();
    let of = |config: &std::path::Path| {
        let output = alone(Command::new("/usr/bin/env"), &path, config.to_str().unwrap());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let found = findings(&output);
        assert!(found[0]["check"] == "daemon" && found[0]["mend"].as_str().unwrap().contains("p2pd run"), "{found:?}");
        found.into_iter().find(|finding| finding["check"] == "config").unwrap()
    };
    // The ports are those that it names.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listen = format!("[network]\nlisten = [\"/ip4/127.0.0.1/tcp/{}\"]\n", taken.local_addr().unwrap().port());
    let named = place.path().join("named.toml");
    fs::write(&named, listen).unwrap();
    let found = findings(&alone(Command::new("/usr/bin/env"), &path, named.to_str().unwrap()));
    let port = found.iter().find(|finding| finding["check"] == "ports").unwrap();
    assert_eq!(port["level"], "FINDING_LEVEL_FAIL", "{port}");
    assert!(of(&bad)["fact"].as_str().unwrap().contains("botstrap"), "{}", of(&bad));
    assert_eq!(of(&good)["level"], "FINDING_LEVEL_OK");
    let output = alone(Command::new("/usr/bin/env"), "/nonexistent", good.to_str().unwrap());
    assert!(findings(&output)[1]["fact"].as_str().unwrap().contains("p2pd is not found"), "{:?}", findings(&output));
}

#[test]
fn where_no_daemon_answers_a_taken_port_is_named() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let ports = || {
        let programs = p2pd().parent().unwrap().to_str().unwrap().to_owned();
        let output = alone(lab.command(Place::Internet), &format!("{programs}:{}", std::env::var("PATH").unwrap()), "");
        let found = findings(&output).into_iter().filter(|finding| finding["check"] == "ports");
        found.map(|finding| (finding["level"] == "FINDING_LEVEL_FAIL", finding["fact"].to_string())).collect::<Vec<_>>()
    };
    assert!(matches!(&ports()[..], [(false, _)]), "{:?}", ports());
    let _other = lab.daemon(Place::Internet, place.path(), "other", Lab::PUBLIC[0], &[]);
    assert!(
        matches!(&ports()[..], [(true, tcp), (true, udp), ..] if tcp.contains("TCP port 4001") && udp.contains("UDP port 4001")),
        "{:?}",
        ports()
    );
}

#[test]
fn a_symmetric_router_without_a_relay_is_named_and_so_is_a_full_relay() {
    let Some(lab) = Lab::new([Router::Symmetric, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let tester = |n: usize, more: &[(&str, &str)]| {
        let settings = [&[("P2PD_NETWORK_AUTONAT_SERVER", "on")], more].concat();
        lab.daemon(Place::Internet, place.path(), &format!("tester{n}"), Lab::PUBLIC[n], &settings)
    };
    let full = [("P2PD_NETWORK_RELAY", "on"), ("P2PD_RELAY_RESERVATIONS", "1")];
    let testers = [tester(0, &[]), tester(1, &full)];
    let known = testers.each_ref().map(|tester| tester.address.clone()).join(",");
    let home = |n: usize, name: &str, known: &str| {
        let settings = [("P2PD_NETWORK_BOOTSTRAP", known)];
        lab.daemon(Place::Home(n), place.path(), name, &format!("192.168.{n}.2"), &settings)
    };
    // The only place at the relay.
    let first = home(1, "first", &testers[1].address);
    let has_relay = |daemon: &Daemon| daemon.good(&["-o", "json", "status"]).contains("RELAY_STATE_RESERVED");
    until("the relay", || has_relay(&first).then_some(()));
    let second = home(0, "second", &known);
    assert!(finds(&second, "relay", "WARN").contains("it has no room"));
    let reach = finds(&second, "reach", "WARN");
    assert!(
        reach.contains("the world does not reach /ip4/45.10.20.10/") && reach.contains("network.relays"),
        "{reach}"
    );
    let router = finds(&second, "router", "WARN");
    assert!(router.contains("gives each destination another port"), "{router}");
    assert!(!findings(&first.run(&["-o", "json", "doctor"])).iter().any(|finding| finding["check"] == "router"));
}

#[test]
fn udp_that_does_not_get_through_is_named_when_it_is_tried() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::NoUdp]) else { return };
    let place = tempfile::tempdir().unwrap();
    let server = lab.daemon(Place::Internet, place.path(), "server", Lab::PUBLIC[0], &[]);
    let probed = |n: usize| {
        let settings = [("P2PD_NETWORK_BOOTSTRAP", server.address.as_str())];
        let home = lab.daemon(Place::Home(n), place.path(), &format!("home{n}"), &format!("192.168.{n}.2"), &settings);
        home.good(&["wait", "peers=1", "--timeout", "20s"]);
        until("the peer's addresses", || {
            home.good(&["-o", "json", "peers", "show", &id(&server)]).contains("quic-v1").then_some(())
        });
        let found = findings(&home.run(&["-o", "json", "doctor", "--probe"]));
        let udp = found.into_iter().find(|finding| finding["check"] == "udp").unwrap();
        (udp["level"].as_str().unwrap().to_owned(), udp["fact"].as_str().unwrap().to_owned())
    };
    let (open, blocked) = (probed(0), probed(1));
    assert!(open.0 == "FINDING_LEVEL_OK" && open.1.contains("over UDP"), "{open:?}");
    assert!(blocked.0 == "FINDING_LEVEL_WARN" && blocked.1.contains(&id(&server)), "{blocked:?}");
}
