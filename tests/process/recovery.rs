//! What goes wrong at a home's router or at its relay, and that sound comes back by itself.

use std::{path::Path, process::Stdio, thread, time::Duration};

use crate::support::{
    Daemon, Program, Start, id, json,
    lab::{Lab, Place, Router},
    until, within,
};

/// Until sound is back. A connection counts as dead after 48 s at most.
const BACK: Duration = Duration::from_secs(120);

/// A relay on the internet, which keeps its identity when it starts again.
fn relay(lab: &Lab, place: &Path, more: &[(&str, &str)]) -> Daemon {
    let data = place.join("relay");
    let settings = [&[("P2PD_NETWORK_RELAY", "on"), ("P2PD_DATA", data.to_str().unwrap())], more].concat();
    lab.daemon(Place::Internet, place, "relay", Lab::PUBLIC[0], &settings)
}

/// A daemon in a home, which may be reached through a relay.
fn home(lab: &Lab, place: &Path, n: usize, relay: &Daemon) -> Daemon {
    let settings = [("P2PD_NETWORK_RELAYS", relay.address.as_str())];
    lab.daemon(Place::Home(n), place, &format!("home{n}"), &format!("192.168.{n}.2"), &settings)
}

/// Whether the first relay of a daemon is in this state.
fn is(daemon: &Daemon, state: &str) -> Option<()> {
    let relays = json(&daemon.good(&["-o", "json", "status"]))["relays"].clone();
    (relays[0]["state"] == format!("RELAY_STATE_{state}")).then_some(())
}

/// A listener of what one home publishes in the other, who hears it.
fn heard(a: &Daemon, b: &Daemon) -> [Program; 2] {
    let publishing = a.ctl(&["publish-stream", "town", "--tone", "440", "--stay"]).start();
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "town", "--stats"]).stdout(Stdio::null()).start();
    listener.hears(2.0);
    [publishing, listener]
}

/// Groups of sound that a line of the statistics counts.
fn groups(line: &str) -> Option<u64> {
    line.split_once("groups ")?.1.split(',').next()?.parse().ok()
}

/// Waits until a listener has heard three seconds more than it had.
fn goes_on(listener: &mut Program) {
    listener.told().catch_up();
    let had = groups(&listener.says("groups ")).unwrap();
    let more = |line: &str| groups(line) >= Some(had + 30);
    listener.told().until(BACK, more).expect("sound again");
}

/// Whether a peer is connected, and not through a relay alone.
fn is_direct(daemon: &Daemon, peer: &Daemon) -> Option<()> {
    let shown = daemon.run(&["-o", "json", "peers", "show", &id(peer)]);
    let shown = shown.status.success().then(|| json(&String::from_utf8(shown.stdout).unwrap()))?;
    shown["connections"].as_array()?.iter().any(|way| way["relayed"] != true).then_some(())
}

#[test]
fn a_router_that_starts_again_or_gets_another_address_costs_some_seconds() {
    let Some(lab) = Lab::new([Router::PortRestricted, Router::PortRestricted]) else { return };
    let place = tempfile::tempdir().unwrap();
    let relay = relay(&lab, place.path(), &[]);
    let [a, b] = [0, 1].map(|n| home(&lab, place.path(), n, &relay));
    until("the relay", || is(&a, "RESERVED"));
    let [_publishing, mut listener] = heard(&a, &b);
    until("a direct connection", || is_direct(&b, &a));
    lab.restart_router(0);
    goes_on(&mut listener);
    // As a provider gives it, overnight.
    lab.move_router(0, "45.10.20.30");
    goes_on(&mut listener);
    within(BACK, "a direct connection to the new address", || {
        let ways = b.run(&["-o", "json", "peers", "show", &id(&a)]).stdout;
        String::from_utf8(ways).unwrap().contains("/45.10.20.30/").then_some(())
    });
    within(BACK, "the relay again", || is(&a, "RESERVED"));
}

#[test]
fn a_relay_that_is_gone_for_a_minute_is_used_again() {
    let Some(lab) = Lab::new([Router::Symmetric, Router::Symmetric]) else { return };
    let place = tempfile::tempdir().unwrap();
    let mut server = relay(&lab, place.path(), &[]);
    let [a, b] = [0, 1].map(|n| home(&lab, place.path(), n, &server));
    until("the relay", || is(&a, "RESERVED"));
    let [_publishing, mut listener] = heard(&a, &b);
    server.kill_9();
    within(BACK, "that it is missed", || is(&a, "LOST"));
    // That it lasts is what is tried.
    thread::sleep(Duration::from_secs(60));
    let _server = relay(&lab, place.path(), &[]);
    within(BACK, "the relay again", || is(&a, "RESERVED"));
    goes_on(&mut listener);
}

#[test]
fn a_full_relay_is_asked_again_and_taken_when_it_has_room() {
    let Some(lab) = Lab::new([Router::Symmetric, Router::Symmetric]) else { return };
    let place = tempfile::tempdir().unwrap();
    let relay = relay(&lab, place.path(), &[("P2PD_RELAY_RESERVATIONS", "1")]);
    let first = home(&lab, place.path(), 0, &relay);
    until("the relay", || is(&first, "RESERVED"));
    let second = home(&lab, place.path(), 1, &relay);
    until("that it is full", || is(&second, "LOST"));
    drop(first);
    within(BACK, "its room", || is(&second, "RESERVED"));
}
