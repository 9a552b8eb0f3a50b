//! Daemons at home, behind routers that nobody has set up.

use std::process::Stdio;

use crate::support::{
    self, Start, id, interrupt, json,
    lab::{Lab, Place, Router},
    until,
};

/// What p2pctl says of the connections to a peer.
fn ways(daemon: &support::Daemon, peer: &str) -> Vec<(bool, String)> {
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

#[test]
fn behind_two_usual_routers_a_direct_connection_takes_the_relays_place_and_nothing_is_lost() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let mut relay =
        lab.daemon(Place::Internet, place.path(), "relay", Lab::PUBLIC[0], &[("P2PD_NETWORK_RELAY", "on")]);
    let home = |n: usize, name: &str| {
        let ip = format!("192.168.{n}.2");
        lab.daemon(Place::Home(n), place.path(), name, &ip, &[("P2PD_NETWORK_RELAYS", &relay.address)])
    };
    let (a, b) = (home(0, "a"), home(1, "b"));
    let reserved = || {
        let relays = json(&a.good(&["-o", "json", "status"]))["relays"].clone();
        (relays[0]["state"] == "RELAY_STATE_RESERVED").then_some(())
    };
    until("the relay", reserved);
    let _publishing = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "town", "--stats"]).stdout(Stdio::null()).start();
    let direct = || {
        let ways = ways(&b, &id(&a));
        (ways.len() == 1 && !ways[0].0).then(|| ways[0].1.clone())
    };
    let way = until("a direct connection alone", direct);
    assert!(way.contains("/45.10.20.10/"), "{way}");
    relay.kill_9();
    let before = groups(&listener.says("groups "));
    until("sound without the relay", || (groups(&listener.says("groups ")) > before + 50).then_some(()));
    let last = listener.says("groups ");
    assert!(last.contains("lost 0") && last.contains("concealed 0"), "{last}");
    interrupt(&listener);
    listener.wait().unwrap();
}

#[test]
fn behind_two_symmetric_routers_a_stream_is_heard_through_a_relay_and_through_another_when_that_goes() {
    let Some(lab) = Lab::new([Router::Symmetric, Router::Symmetric]) else { return };
    let place = tempfile::tempdir().unwrap();
    let relay = |n: usize| {
        let settings = [("P2PD_NETWORK_RELAY", "on")];
        lab.daemon(Place::Internet, place.path(), &format!("relay{n}"), Lab::PUBLIC[n], &settings)
    };
    let mut relays = Vec::from([relay(0), relay(1)]);
    let listed = relays.iter().map(|relay| relay.address.clone()).collect::<Vec<_>>().join(",");
    let home = |n: usize, name: &str| {
        lab.daemon(Place::Home(n), place.path(), name, &format!("192.168.{n}.2"), &[("P2PD_NETWORK_RELAYS", &listed)])
    };
    let (a, b) = (home(0, "a"), home(1, "b"));
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
