//! `p2pctl explain`: what decides how it is with a peer, an address, a topic or a stream.

use crate::support::{Daemon, Start, id, json, pair, said, until};

/// What an explanation says, each as check, level and fact.
fn explained(daemon: &Daemon, words: &[&str]) -> Vec<[String; 3]> {
    let text = daemon.good(&[&["-o", "json", "explain"], words].concat());
    let findings = json(&text)["findings"].as_array().cloned().expect("findings");
    let part = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    findings.iter().map(|finding| ["check", "level", "fact"].map(|name| part(finding, name))).collect()
}

/// Whether one of them says this of a check.
fn says(explained: &[[String; 3]], check: &str, level: &str, words: &str) -> bool {
    let level = format!("FINDING_LEVEL_{level}");
    explained.iter().any(|[of, is, fact]| of == check && *is == level && fact.contains(words))
}

#[test]
fn a_rule_a_lost_connection_and_the_known_addresses_are_named() {
    let (_place, a, b) = pair();
    until("the peer", || b.good(&["peers"]).contains("p2pd/").then_some(()));
    let there = explained(&b, &["peer", &id(&a)]);
    assert!(says(&there, "rule", "OK", "no rule is about it"), "{there:?}");
    assert!(says(&there, "connection", "OK", "this daemon has dialled it at /ip4/127.0.0.1/"), "{there:?}");
    assert!(says(&there, "kept", "OK", "kept for bootstrap"), "{there:?}");
    let address = a.address.as_str();
    let at = explained(&b, &["address", address]);
    assert!(says(&at, "way", "OK", "TCP") && says(&at, "scope", "OK", "of this machine alone"), "{at:?}");
    assert!(says(&at, "connection", "OK", "the peer is connected"), "{at:?}");
    b.good(&["peers", "deny", &id(&a)]);
    until("that it is gone", || b.good(&["-o", "jsonl", "peers"]).is_empty().then_some(()));
    let denied = explained(&b, &["peer", &id(&a)]);
    assert!(says(&denied, "rule", "FAIL", "the rule of 12D3"), "{denied:?}");
    assert!(says(&denied, "connection", "WARN", "not connected"), "{denied:?}");
    assert!(says(&denied, "closed", "WARN", "rule"), "{denied:?}");
    let shown = b.good(&["explain", "peer", &id(&a)]);
    assert!(shown.contains("`p2pctl peers unrule` takes the rule of 12D3"), "{shown}");
    b.good(&["peers", "unrule", &id(&a)]);
    b.good(&["peers", "allow", "127.0.0.0/8"]);
    let allowed = explained(&b, &["address", address]);
    assert!(says(&allowed, "rule", "OK", "the rule of 127.0.0.0/8 allows it"), "{allowed:?}");
    let me = explained(&a, &["peer", &id(&a)]);
    assert!(says(&me, "peer", "OK", "this daemon"), "{me:?}");
}

#[test]
fn who_hears_a_topic_and_where_a_stream_comes_from() {
    let (_place, a, b) = pair();
    let alone = explained(&a, &["topic", "chat"]);
    assert!(says(&alone, "followers", "WARN", "no connected peer follows it"), "{alone:?}");
    let _reader = b.ctl(&["sub", "chat"]).start();
    until("the follower", || (a.good(&["topics", "peers", "chat"]).lines().count() == 1).then_some(()));
    assert!(says(&explained(&a, &["topic", "chat"]), "followers", "OK", "connected peers that follow it: 1"));
    a.good(&["topics", "set", "chat", "--closed"]);
    assert!(says(&explained(&a, &["topic", "chat"]), "settings", "WARN", "it is closed"));
    let nowhere = explained(&b, &["stream", "tone"]);
    assert!(says(&nowhere, "directory", "FAIL", "tone is not listed"), "{nowhere:?}");
    let _publishing = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let there = explained(&b, &["stream", "tone"]);
    assert!(says(&there, "directory", "OK", "is listed, and was announced"), "{there:?}");
    assert!(says(&there, "connection", "OK", "this daemon has dialled it"), "{there:?}");
    assert!(says(&explained(&a, &["stream", "tone"]), "directory", "OK", "published here"));
}

#[test]
fn what_is_no_address_is_told_as_by_a_dial() {
    let (_place, a, _b) = pair();
    let refused = a.run(&["explain", "address", "/ip4/192.0.2.1/tcp/4001"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("no /p2p/<peer id>"), "{}", said(&refused));
}
