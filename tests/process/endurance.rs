//! What a daemon lives through that is left alone for weeks: a log that nobody takes, terminals that close, a poor
//! environment.

use std::{
    fs::{self, OpenOptions},
    os::unix::{net::UnixListener, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use nix::unistd::Uid;

use crate::support::{Daemon, P2PCTL, Start, p2pd, said, signal, skip, terminate, until};

/// A daemon whose log goes there.
fn logging_to(place: &Path, log: Stdio) -> Daemon {
    let socket = place.join("a.sock");
    let mut command = Command::new(p2pd());
    command.args(["run", "--dev", "--socket"]).arg(&socket).env("P2PD_LOG_FILTER", "trace").stderr(log);
    Daemon::spawn_logging(command, socket)
}

#[test]
fn a_log_that_nobody_takes_costs_nothing_else() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (reader, log) in [("none", Stdio::piped()), ("gone", Stdio::piped()), ("a full disk", full().into())] {
        let place = tempfile::tempdir().unwrap();
        let mut daemon = logging_to(place.path(), log);
        if reader == "gone" {
            drop(daemon.child.stderr.take());
        }
        // More than any pipe holds.
        for _ in 0..100 {
            daemon.good(&["status"]);
        }
        terminate(&daemon.child);
        assert!(daemon.child.wait().unwrap().success(), "{reader}");
        assert!(!daemon.socket.exists(), "{reader}: it ends in order");
    }
}

#[test]
fn sighup_is_noted_and_a_terminal_that_closes_ends_it_in_order() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let mut daemon = logging_to(place.path(), fs::File::create(&log).unwrap().into());
    signal(&daemon.child, "-HUP");
    until("the note", || fs::read_to_string(&log).unwrap().contains("SIGHUP changes nothing").then_some(()));
    daemon.good(&["status"]);
    terminate(&daemon.child);
    assert!(daemon.child.wait().unwrap().success());

    // A terminal of its own, which closes when `script` is killed; it leaves its directory as an orderly end does.
    let socket = place.path().join("b.sock");
    let run = format!("{} run --dev --socket {}", p2pd().display(), socket.display());
    for (line, lives_on) in [(run.clone(), false), (format!("echo $$ >pid; exec nohup {run}"), true)] {
        let mut terminal = Command::new("script");
        terminal
            .args(["-q", "-c", &line, "/dev/null"])
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut terminal = terminal.start();
        until("the socket", || socket.exists().then_some(()));
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let ctl = || Command::new(P2PCTL).arg("-s").arg(&socket).arg("status").output().unwrap();
        if lives_on {
            let failed = (0..20).map(|_| ctl()).find(|output| !output.status.success());
            let pid = fs::read_to_string(place.path().join("pid")).unwrap();
            let ended = Command::new("kill").arg(pid.trim()).status().unwrap().success();
            assert!(ended && failed.is_none(), "nohup: {:?}", failed.as_ref().map(said));
        }
        until("its end in order", || (!socket.exists()).then_some(()));
    }
}

#[test]
fn with_all_places_named_it_starts_without_a_home() {
    if !Uid::effective().is_root() {
        return skip("a user without a home: to become one takes root");
    }
    let place = tempfile::tempdir().unwrap();
    nix::unistd::chown(place.path(), Some(Uid::from_raw(4_000_000)), None).unwrap();
    // Where it was built, only its owner may look.
    let program = place.path().join("p2pd");
    fs::copy(p2pd(), &program).unwrap();
    let bare = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .arg("run")
            .args(args)
            .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
            .env_clear()
            .uid(4_000_000)
            .gid(4_000_000);
        command
    };
    let refused = bare(&[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert!(said(&refused).contains("no home directory is known; set HOME, or name --data"), "{}", said(&refused));
    let (data, socket) = (place.path().join("data"), place.path().join("a.sock"));
    let named = bare(&["--data", data.to_str().unwrap(), "--socket", socket.to_str().unwrap()]);
    let mut daemon = Daemon::spawn(named, socket);
    terminate(&daemon.child);
    assert!(daemon.child.wait().unwrap().success());
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let place = tempfile::tempdir().unwrap();
    let names = [
        "P2PD_CONFIG",
        "P2PD_DATA",
        "P2PD_NETWORK_NAME",
        "P2PD_NETWORK_LISTEN",
        "P2PD_NETWORK_BOOTSTRAP",
        "P2PD_NETWORK_MDNS",
        "P2PD_NETWORK_MAX_CONNECTIONS",
        "P2PD_LOG_FILTER",
        "P2PD_LOG_FORMAT",
    ];
    let daemon = Daemon::start_with(place.path(), "a", &[], &names.map(|name| (name, "")));
    assert!(daemon.good(&["status"]).contains("network      argus-defense"));
    let shown = |empty: bool| {
        let mut command = Command::new(p2pd());
        command.args(["config", "show"]).envs(names.map(|name| (name, "")).into_iter().filter(|_| empty));
        command.output().unwrap().stdout
    };
    assert_eq!(String::from_utf8(shown(true)), String::from_utf8(shown(false)));
}

#[test]
fn settings_of_old_names_hold_are_told_and_yield_to_the_environment() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("p2pd.toml");
    fs::write(&file, "[network]\nmemory_mib = 128\nconnections_grace_s = 7\n").unwrap();
    let show = |variables: &[(&str, &str)]| {
        let mut command = Command::new(p2pd());
        command.args(["config", "show", "--config"]).arg(&file).envs(variables.iter().copied());
        command.output().unwrap()
    };
    for (variables, memory, told) in [
        (&[][..], "128MiB", "network.memory_mib is an old name; write memory = \"128MiB\""),
        (&[("P2PD_NETWORK_MEMORY", "1GiB")], "1GiB", "network.connections_grace_s is an old name"),
        (
            &[("P2PD_NETWORK_MEMORY_MIB", "96")],
            "96MiB",
            "P2PD_NETWORK_MEMORY_MIB is an old name; write P2PD_NETWORK_MEMORY=96MiB",
        ),
    ] {
        let shown = show(variables);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(
            text.contains(&format!("memory = \"{memory}\"")) && text.contains("connections_grace = \"7s\""),
            "{text}"
        );
        assert!(said(&shown).contains(told), "{}", said(&shown));
    }
    let both = show(&[("P2PD_NETWORK_MEMORY", "1GiB"), ("P2PD_NETWORK_MEMORY_MIB", "96")]);
    assert_eq!(both.status.code(), Some(78));
    assert!(said(&both).contains("both set"), "{}", said(&both));
}

#[test]
fn what_is_no_socket_is_left_where_a_socket_is_wanted() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = place.path().join(name);
        fs::write(&path, "letters").unwrap();
        path
    };
    let start = |socket: &Path| {
        let mut command = Command::new("timeout");
        command.arg("20").arg(p2pd()).args(["run", "--dev", "--socket"]).arg(socket).output().unwrap()
    };
    let letters = file("letters");
    // The name under which a socket is made before it gets its own.
    let beside = file("b.new");
    for (socket, named) in [(&letters, &letters), (&place.path().join("b.sock"), &beside)] {
        let refused = start(socket);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let words = format!("{} is there and is no socket", named.display());
        assert!(said(&refused).contains(&words), "{}", said(&refused));
        assert_eq!(fs::read(named).unwrap(), b"letters");
    }
    // One that a daemon left when it was killed is in nobody's way.
    let stale = place.path().join("c.sock");
    drop(UnixListener::bind(&stale).unwrap());
    Daemon::start(place.path(), "c", &[]).good(&["status"]);
}
