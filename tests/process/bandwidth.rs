//! A narrow line: sound is in time though a tunnel or a topic would fill it.

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    self, Daemon, Namespace, Program, Start, heard_in_peace, id, in_peace, interrupt, pair, ready, said, until, within,
};

/// How much later than on an idle line, in milliseconds.
const LATER: u64 = 60;

/// Two daemons on a cable that carries 2 Mbit/s from the first, and whose router holds what comes faster for up to 400 ms; `None`, and
/// said so, where there is none. The kernel is not to make large packets of small ones, which such a router would drop.
fn narrow(place: &Path, ways: [&str; 2]) -> Option<([Namespace; 2], [Daemon; 2])> {
    let spaces = [Namespace::new("narrow")?, Namespace::new("far")?];
    if !spaces[0].join_at(&spaces[1], ["45.10.20.1", "45.10.20.2"]) {
        return None;
    }
    let enter = |words: &str| spaces[0].command().args(words.split(' ')).output().unwrap();
    let shaped = enter("tc qdisc add dev lan root tbf rate 2mbit burst 4kb latency 400ms");
    if !shaped.status.success() {
        support::skip("bandwidth: the kernel has no token bucket (tbf)");
        return None;
    }
    let daemon = |n: usize, name: &str| {
        let mut command = spaces[n].command();
        command.arg(support::p2pd());
        Daemon::launch(command, place, name, &["--listen", ways[n]])
    };
    let daemons = [daemon(0, "near"), daemon(1, "far")];
    Some((spaces, daemons))
}

/// What the far one says of what it hears for some seconds.
fn heard(near: &Daemon, far: &Daemon) -> serde_json::Value {
    let listen = |at: &Daemon| at.ctl(&["-o", "json", "listen", "tone", "--wait", "20s", "--duration", "6s"]).start();
    heard_in_peace(|| listen(near), || vec![listen(far)]).remove(0)
}

/// In milliseconds.
fn latency(heard: &serde_json::Value) -> u64 {
    heard["latency_ms"].as_u64().unwrap()
}

/// Writes without end to what reads, as long as that does.
fn fill(mut command: Command, line: Vec<u8>) -> Program {
    let mut program = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).start();
    let mut into = program.stdin.take().unwrap();
    thread::spawn(move || while into.write_all(&line).is_ok() {});
    program
}

/// Bytes of a file that is being written.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.len())
}

/// Sound from the first to the second: on the idle line, beside what would fill it and is held to a little less, and beside what fills it.
fn in_time(ways: [&str; 2], fill_it: impl Fn(&Daemon, &Daemon, &Path) -> [Program; 2]) {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let Some((_spaces, [near, far])) = narrow(place.path(), ways) else { return };
    // Set while both run: the far end is somewhere in the world.
    assert!(near.good(&["bandwidth", "wan_upload=1800kbit/s"]).contains("1800kbit/s"));
    far.good(&["peers", "connect", &near.address]);
    let mut publisher = near.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    far.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let idle = heard(&near, &far);
    let got = place.path().join("got");
    let mut programs = fill_it(&near, &far, &got);
    let more = |bytes: u64| {
        let before = size(&got);
        until("what fills the line", || (size(&got) > before + bytes).then_some(()));
    };
    more(100_000);
    let before = size(&got);
    let held = heard(&near, &far);
    let beside = size(&got) - before;
    near.good(&["bandwidth", "wan_upload=0"]);
    more(300_000);
    let filled = heard(&near, &far);
    println!("idle {idle}\nheld {held}, beside {beside} bytes\nfilled {filled}");
    for program in programs.iter_mut().chain([&mut publisher]) {
        interrupt(program);
        program.wait().unwrap();
    }
    assert_eq!((&held["lost_groups"], &held["concealed_frames"]), (&0.into(), &0.into()), "{held}");
    assert!(latency(&held) <= latency(&idle) + LATER, "{held}, and {idle} on an idle line");
    assert!(beside > 500_000, "the rest of the line is used: {beside} bytes");
    assert!(latency(&filled) > latency(&idle) + LATER, "it is not that line which is narrow: {filled}");
}

fn tunnel(near: &Daemon, far: &Daemon, got: &Path) -> [Program; 2] {
    let mut handle = far.ctl(&["handle", "/fill/1"]);
    handle.stdout(File::create(got).unwrap());
    let (handler, _) = ready(handle);
    [handler, fill(near.ctl(&["open", &id(far), "/fill/1"]), vec![0; 64 << 10])]
}

fn topic(near: &Daemon, far: &Daemon, got: &Path) -> [Program; 2] {
    let follower = far.ctl(&["sub", "fill"]).stdout(File::create(got).unwrap()).start();
    until("the follower", || (near.good(&["topics", "peers", "fill"]).lines().count() == 1).then_some(()));
    let mut line = vec![b'x'; 900];
    line.push(b'\n');
    [follower, fill(near.ctl(&["pub", "fill", "--wait", "20s"]), line)]
}

#[test]
fn sound_is_in_time_beside_a_tunnel_over_tcp() {
    in_time(["/ip4/45.10.20.1/tcp/0", "/ip4/45.10.20.2/tcp/0"], tunnel);
}

#[test]
fn sound_is_in_time_beside_a_tunnel_over_quic() {
    in_time(["/ip4/45.10.20.1/udp/0/quic-v1", "/ip4/45.10.20.2/udp/0/quic-v1"], tunnel);
}

#[test]
fn sound_is_in_time_beside_a_topic_that_would_fill_the_line() {
    in_time(["/ip4/45.10.20.1/tcp/0", "/ip4/45.10.20.2/tcp/0"], topic);
}

#[test]
fn streams_that_share_a_line_each_have_a_part_of_it() {
    let (place, near, far) = pair();
    near.good(&["bandwidth", "bulk_upload=2Mbit/s"]);
    let got: Vec<_> = (0..3).map(|n| place.path().join(format!("got{n}"))).collect();
    let _programs: Vec<_> = got
        .iter()
        .enumerate()
        .map(|(n, got)| {
            let protocol = format!("/fill/{n}");
            let mut handle = far.ctl(&["handle", &protocol]);
            handle.stdout(File::create(got).unwrap());
            let (handler, _) = ready(handle);
            (handler, fill(near.ctl(&["open", &id(&far), &protocol]), vec![0; 64 << 10]))
        })
        .collect();
    let sizes = || got.iter().map(|got| size(got)).collect::<Vec<_>>();
    // Some seconds of the line.
    let sizes = within(Duration::from_secs(60), "a megabyte", || {
        Some(sizes()).filter(|sizes| sizes.iter().sum::<u64>() > 1_000_000)
    });
    assert!(sizes.iter().all(|size| *size > 200_000), "{sizes:?}");
}

#[test]
fn a_topic_that_does_not_fit_is_refused_in_plain_words_and_told_by_the_doctor() {
    let (_place, near, far) = pair();
    near.good(&["bandwidth", "messages_upload=64kbit/s"]);
    let _follower = far.ctl(&["sub", "fill"]).stdout(Stdio::null()).start();
    until("the follower", || (near.good(&["topics", "peers", "fill"]).lines().count() == 1).then_some(()));
    // Seven seconds of the line at once.
    near.good(&["pub", "fill", &"x".repeat(50_000)]);
    let refused = near.run(&["pub", "fill", "one more"]);
    assert!(
        said(&refused).contains("bandwidth that messages may have is used up; `p2pctl bandwidth`"),
        "{}",
        said(&refused)
    );
    assert!(near.good(&["doctor"]).contains("bandwidth: messages of topics found no room"));
    assert!(near.good(&["status"]).contains("`p2pctl bandwidth` raises"), "{}", near.good(&["status"]));
    near.good(&["bandwidth", "messages_upload=0"]);
    near.good(&["pub", "fill", "one more"]);
}

#[test]
fn rates_are_set_by_name_and_what_is_wrong_is_named() {
    let place = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_with(place.path(), "a", &[], &[("P2PD_BANDWIDTH_UPLOAD", "2Mbit/s")]);
    assert!(daemon.good(&["bandwidth"]).contains("2Mbit/s"), "as the configuration has it");
    daemon.good(&["bandwidth", "upload=0", "peer_download=500KiB/s"]);
    let shown: serde_json::Value = serde_json::from_str(&daemon.good(&["-o", "json", "bandwidth"])).unwrap();
    assert_eq!((&shown["upload"], &shown["peer_download"]), (&0.into(), &512_000.into()), "{shown}");
    for (wrong, code, words) in [
        ("uplaod=1Mbit/s", 2, "there are upload, download"),
        ("upload=1", 2, "upload=2Mbit/s"),
        ("upload=1kbit/s", 2, "64kbit/s to 100Gbit/s"),
    ] {
        let refused = daemon.ctl(&["bandwidth", wrong]).output().unwrap();
        assert_eq!(refused.status.code(), Some(code), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}
