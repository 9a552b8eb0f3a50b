//! What a daemon is for: `p2pd run --mode`.

use std::{fs, path::Path, process::Command};

use crate::support::{Daemon, Start, id, json, p2pd, said, until};

/// What some settings are set to: relay, AutoNAT, DHT, logs.
fn shown(arguments: &[&str], variables: &[(&str, &str)]) -> [String; 4] {
    shown_of(["relay", "autonat_server", "dht", "max_logs"], arguments, variables)
}

fn shown_of<const N: usize>(keys: [&str; N], arguments: &[&str], variables: &[(&str, &str)]) -> [String; N] {
    let mut show = Command::new(p2pd());
    show.args(["config", "show"]).args(arguments).envs(variables.iter().copied());
    let output = show.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).finish();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    keys.map(|key| {
        let begin = format!("{key} = ");
        text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap().trim_matches('"').to_owned()
    })
}

#[test]
fn a_mode_sets_defaults_and_nothing_that_an_operator_has_set() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("p2pd.toml");
    fs::write(&file, "[network]\ndht = \"client\"\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(shown(&["--config", file], &[]), ["off", "off", "client", "32"]);
    let bootnode = shown(&["--config", file, "--mode", "bootnode"], &[("P2PD_NETWORK_RELAY", "off")]);
    assert_eq!(bootnode, ["off", "on", "client", "0"]);
    assert_eq!(shown(&[], &[("P2PD_MODE", "bootnode")]), ["on", "on", "server", "0"]);
}

/// What is set for a line that is paid by the byte: connections, mesh, and the services to others.
#[test]
fn a_metered_line_has_few_peers_and_serves_none() {
    let keys = ["connections_high", "connections_low", "mesh", "dht", "relay", "autonat_server"];
    let metered = ("P2PD_NETWORK_PROFILE", "metered");
    let set = |variables: &[(&str, &str)], arguments: &[&str]| shown_of(keys, arguments, variables);
    assert_eq!(set(&[], &[]), ["192", "160", "6", "auto", "off", "off"]);
    assert_eq!(set(&[metered], &[]), ["24", "16", "3", "client", "off", "off"]);
    let bootnode = set(&[metered, ("P2PD_NETWORK_CONNECTIONS_HIGH", "30")], &["--mode", "bootnode"]);
    assert_eq!(bootnode, ["30", "16", "3", "client", "off", "off"], "what an operator has set goes before");
    let place = tempfile::tempdir().unwrap();
    let hub = Daemon::start_with(place.path(), "hub", &[], &[metered]);
    let others: Vec<Daemon> =
        (0..8).map(|n| Daemon::start(place.path(), &format!("other{n}"), &["--bootstrap", &hub.address])).collect();
    // The one in the middle reads on: who follows no more has nothing for those outside its mesh.
    let _reads_on = hub.ctl(&["sub", "news"]).start();
    let mut readers: Vec<_> = others.iter().map(|other| other.ctl(&["sub", "news", "-n", "20"]).start()).collect();
    until("the followers", || (hub.good(&["topics", "peers", "news"]).lines().count() == 8).then_some(()));
    let in_mesh = || json(&hub.good(&["-o", "json", "topics", "show", "news"]))["mesh_peers"].as_u64().unwrap();
    until("a small mesh", || (2..=6).contains(&in_mesh()).then_some(()));
    // All hear what one of them says, though the mesh between them is small.
    for n in 0..20 {
        others[0].good(&["pub", "news", &format!("number {n}")]);
    }
    readers.iter_mut().for_each(|reader| assert!(reader.wait().unwrap().success()));
}

#[test]
fn a_bootnode_serves_its_network_and_keeps_no_logs() {
    let place = tempfile::tempdir().unwrap();
    let node = Daemon::start(place.path(), "node", &["--mode", "bootnode"]);
    let peer = Daemon::start(place.path(), "peer", &["--bootstrap", &node.address]);
    peer.good(&["wait", "peers=1"]);
    let protocols = until("its protocols", || {
        let shown = json(&peer.good(&["-o", "json", "peers", "show", &id(&node)]))["protocols"].to_string();
        shown.contains("/kad/").then_some(shown)
    });
    for spoken in ["/libp2p/circuit/relay/0.2.0/hop", "/libp2p/autonat/2/dial-request"] {
        assert!(protocols.contains(spoken), "{protocols}");
    }
    let refused = node.run(&["sub", "news", "--durable"]);
    assert!(!refused.status.success() && said(&refused).contains("keeps no logs"), "{}", said(&refused));
    // It knows what is published, for whoever comes later.
    let _publishing = peer.ctl(&["publish-stream", "town", "--tone", "440"]).start();
    node.good(&["wait", "stream=town", "--timeout", "20s"]);
}

#[test]
fn the_unit_of_a_bootnode_is_the_usual_one_with_another_mode() {
    let unit = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name);
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (usual, bootnode) = (unit("p2pd.service"), unit("p2pd-bootnode.service"));
    let only =
        |one: &[String], other: &[String]| one.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>();
    assert_eq!(only(&usual, &bootnode), ["Description=libp2p system daemon", "ExecStart=/usr/bin/p2pd run"]);
    assert_eq!(
        only(&bootnode, &usual),
        [
            "Description=libp2p system daemon, as a bootnode",
            "# Both have the machine's identity, database and ports.",
            "Conflicts=p2pd.service",
            "ExecStart=/usr/bin/p2pd run --mode bootnode",
        ]
    );
}
