//! A machine whose clock is wrong, and what it and the others say.

use crate::support::{Daemon, Start, id, json, skewed_clock, until};

#[test]
fn a_wrong_clock_is_told_on_both_sides_with_the_difference() {
    let place = tempfile::tempdir().unwrap();
    let library = skewed_clock(place.path());
    let a = Daemon::start(place.path(), "a", &[]);
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &a.address]);
    let skewed = |name: &str, skew: &str| {
        let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("SKEW", skew)];
        Daemon::start_with(place.path(), name, &["--bootstrap", &a.address, "--bootstrap", &b.address], &variables)
    };
    let (day, minutes) = (skewed("day", "-86500"), skewed("minutes", "400"));
    // Each has something to say, and dates it.
    let _publishing =
        [&a, &b, &day, &minutes].map(|daemon| daemon.ctl(&["publish-stream", "town", "--tone", "440"]).start());
    for (wrong, ms, words) in
        [(&day, -86_500_000i64, "1 d 1 min behind those of"), (&minutes, 400_000, "6 min 40 s ahead of those of")]
    {
        until("its own word", || {
            let status = wrong.good(&["status"]);
            (status.contains("this machine's clock is") && status.contains(words)).then_some(())
        });
        let state = json(&wrong.good(&["rpc", "p2pd.v1.NodeService/GetState"]));
        assert!((state["clock_ahead_ms"].as_i64().unwrap() - ms).abs() < 10_000, "{state}");
        let mut events = wrong.ctl(&["events", "--from-oldest"]).start();
        events.printed().with("clock-wrong");
        let who = id(wrong);
        let peer = until("its clock as another sees it", || {
            let peers = json(&a.good(&["-o", "json", "peers"]));
            let peer = peers["peers"].as_array()?.iter().find(|peer| peer["peer_id"] == who.as_str())?.clone();
            peer["clock_ahead_ms"].is_i64().then_some(peer)
        });
        assert!((peer["clock_ahead_ms"].as_i64().unwrap() - ms).abs() < 10_000, "{peer}");
        let show = a.good(&["peers", "show", &who]);
        let way = if ms < 0 { " s behind this machine's" } else { " s ahead of this machine's" };
        assert!(show.contains(way), "{show}");
    }
    assert!(a.good(&["status"]).contains(&format!("the clock of {}", id(&day))));
    assert!(!a.good(&["status"]).contains("this machine's clock is"), "two of three that it hears, each its own way");
}

#[test]
fn a_bootstrap_peer_that_is_not_reached_has_its_reason_in_status() {
    let place = tempfile::tempdir().unwrap();
    let nobody = "/ip4/127.0.0.1/tcp/09/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let a = Daemon::start(place.path(), "a", &["--bootstrap", nobody]);
    let status = until("the reason", || {
        let status = a.good(&["status"]);
        status.contains("Connection refused").then_some(status)
    });
    assert!(status.contains(&format!("not reached  {nobody}: Connection refused")), "{status}");
    assert!(!status.contains("or network.bootstrap in p2pd.toml"), "it is set: {status}");
}
