//! Days on which something else on the machine, or at the other end, is broken, and the daemon is not to blame and goes on.

use std::{fs, os::unix::net::UnixDatagram, process::Command, time::Duration};

use nix::unistd::Uid;

use crate::support::{Daemon, id, json, p2pd, said, signal, skip, until, within};

fn peers(daemon: &Daemon) -> usize {
    json(&daemon.good(&["-o", "json", "peers"]))["peers"].as_array().map_or(0, Vec::len)
}

#[test]
fn without_a_nameserver_it_starts_and_once_there_is_one_it_finds_names() {
    if !Uid::effective().is_root() {
        return skip("a machine without a nameserver: to make one takes root");
    }
    let place = tempfile::tempdir().unwrap();
    let (resolv, hosts) = (place.path().join("resolv.conf"), place.path().join("hosts"));
    fs::write(&resolv, "").unwrap();
    fs::write(&hosts, "127.0.0.1 hub.test\n").unwrap();
    let hub = Daemon::start(place.path(), "hub", &[]);
    let named = hub.address.replace("/ip4/127.0.0.1/", "/dns4/hub.test/");
    let mut without = Command::new("unshare");
    let mount =
        format!("mount --bind {} /etc/resolv.conf && mount --bind {} /etc/hosts", resolv.display(), hosts.display());
    without.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]).arg(p2pd());
    let daemon = Daemon::launch(without, place.path(), "without", &["--bootstrap", &named]);
    let status = until("the reason", || {
        let status = daemon.good(&["status"]);
        status.contains("the name is not resolved").then_some(status)
    });
    assert!(status.contains(&named) && status.contains("a nameserver answers"), "{status}");
    // As the network's own service writes it, in place.
    fs::write(&resolv, "nameserver 127.0.0.1\n").unwrap();
    until("the hub by its name", || (peers(&daemon) == 1).then_some(()));
}

#[test]
fn a_frozen_peer_is_gone_within_a_minute_and_back_when_it_thaws() {
    let place = tempfile::tempdir().unwrap();
    let hub = Daemon::start(place.path(), "hub", &[]);
    let daemon = Daemon::start(place.path(), "other", &["--bootstrap", &hub.address]);
    until("the connection", || (peers(&daemon) == 1).then_some(()));
    signal(&hub.child, "-STOP");
    within(Duration::from_secs(60), "its end", || (peers(&daemon) == 0).then_some(()));
    let closed = daemon.good(&["peers", "closed"]);
    assert!(closed.contains("it did not answer pings"), "{closed}");
    signal(&hub.child, "-CONT");
    within(Duration::from_secs(90), "the next connection", || (peers(&daemon) == 1).then_some(()));
}

#[test]
fn a_bootstrap_peer_is_reached_at_the_address_that_leads_to_it() {
    let place = tempfile::tempdir().unwrap();
    let hub = Daemon::start(place.path(), "hub", &[]);
    let elsewhere = format!("/ip4/127.0.0.1/tcp/9/p2p/{}", id(&hub));
    let daemon = Daemon::start(place.path(), "other", &["--bootstrap", &elsewhere, "--bootstrap", &hub.address]);
    until("the connection", || (peers(&daemon) == 1).then_some(()));
}

#[test]
fn a_configuration_that_cannot_be_read_is_no_reason_for_the_defaults() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("p2pd.toml")).unwrap();
    let mut run = Command::new(p2pd());
    run.env("STATE_DIRECTORY", place.path().join("data")).env("CONFIGURATION_DIRECTORY", place.path());
    let run = run.args(["run", "--socket"]).arg(place.path().join("api.sock")).output().unwrap();
    assert_eq!(run.status.code(), Some(78));
    assert!(said(&run).contains("cannot read the configuration file"), "{}", said(&run));
}

#[test]
fn callers_who_hold_every_place_do_not_starve_the_watchdog() {
    let place = tempfile::tempdir().unwrap();
    let notify = place.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    let variables = [
        ("NOTIFY_SOCKET", notify.to_str().unwrap()),
        ("WATCHDOG_USEC", "900000"),
        ("P2PD_API_MAX_CONNECTIONS_PER_USER", "4"),
    ];
    let daemon = Daemon::start_with(place.path(), "a", &[], &variables);
    let _held = daemon.hold_places(4);
    assert!(!daemon.run(&["status"]).status.success(), "the places are taken");
    let fed = || {
        let mut message = [0; 256];
        systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        loop {
            let count = systemd.recv(&mut message).expect("a word to systemd");
            if message[..count].starts_with(b"WATCHDOG=1") {
                return;
            }
        }
    };
    // Those that were sent before may be among the first.
    (0..6).for_each(|_| fed());
    assert!(!daemon.run(&["status"]).status.success(), "the places are still held");
}
