//! Listeners that others wrote: what they hear of a daemon's streams and topics, and how both sides judge each other.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    interop::Peer,
    support::{Daemon, Start, alone, json, until},
};

const CROWD: usize = 30;

fn daemon(place: &std::path::Path) -> Daemon {
    Daemon::start(place, "a", &["--listen", "/ip4/127.0.0.1/tcp/0"])
}

/// Every peer of a crowd goes on hearing a topic, and thinks no worse of us than we of it, which is not bad.
fn all_hear(a: &Daemon, topic: &str) {
    let count = CROWD.to_string();
    let Some(mut crowd) = Peer::js_program("crowd.mjs", &[&a.address, topic, &count]) else { return };
    let mut report = || {
        crowd.tell("");
        crowd.event("report", |_| true)["peers"].as_array().unwrap().clone()
    };
    // Gossipsub gives a peer three seconds to send what it has offered, and judges it each second.
    for round in 0..5 {
        std::thread::sleep(Duration::from_secs(3));
        let heard = report();
        assert_eq!(heard.len(), CROWD);
        let deaf = heard.iter().filter(|peer| peer["heard"] == 0).count();
        assert_eq!(deaf, 0, "of {CROWD} in round {round}: {heard:?}");
        assert!(heard.iter().all(|peer| peer["score"].as_f64().unwrap() >= 0.0), "round {round}: {heard:?}");
    }
    let peers = json(&a.good(&["-o", "json", "peers"]))["peers"].as_array().unwrap().clone();
    let scores: Vec<f64> = peers.iter().map(|peer| peer["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == CROWD && scores.iter().all(|score| *score >= 0.0), "{scores:?}");
}

#[test]
fn thirty_of_js_follow_one_native_stream() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let a = daemon(place.path());
    let _publisher = a.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    let topic = until("the stream", || {
        let stream = json(&a.good(&["-o", "json", "streams"]))["streams"].get(0)?.clone();
        Some(json(stream["metadata_json"].as_str()?)["topic"].as_str()?.to_owned())
    });
    all_hear(&a, &topic);
}

#[test]
fn thirty_of_js_follow_a_topic_of_programs() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let a = daemon(place.path());
    let lines = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";
    let mut lines = Command::new("sh").args(["-c", lines]).stdout(Stdio::piped()).start();
    let mut publish = a.ctl(&["pub", "town", "--wait", "1m"]);
    publish.stdin(lines.stdout.take().unwrap()).stdout(Stdio::null());
    let _publisher = publish.start();
    all_hear(&a, "town");
}
