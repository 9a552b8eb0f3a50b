//! What a shell and those who write for it expect: signals, pipes that close, colours, completion.

use std::{fs, io::Read, path::Path, process::Command, time::Duration};

use crate::support::{
    self, Daemon, P2PCTL, Program, Start, in_peace, in_time, json, on_a_terminal, p2pd, pair, ready, said, terminate,
    until, within,
};
use p2pd_audio::ogg_opus::OpusFile;

/// A tone that is published, and listed at both daemons.
fn tone(a: &Daemon, b: &Daemon) -> Program {
    let (publisher, _) = ready(a.ctl(&["publish-stream", "tone", "--tone", "440"]));
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    publisher
}

#[test]
fn sigterm_leaves_listen_with_a_whole_file() {
    let (place, a, b) = pair();
    let mut publisher = tone(&a, &b);
    let (opus, wav) = (place.path().join("heard.opus"), place.path().join("heard.wav"));
    for file in [&opus, &wav] {
        let mut listener = b.ctl(&["-o", file.to_str().unwrap(), "listen", "tone", "--stats"]).start();
        listener.hears(2.0);
        terminate(&listener);
        let rest = listener.told().rest();
        assert_eq!(listener.wait().unwrap().code(), Some(0), "what was asked for is done: {rest:?}");
        assert_eq!(rest.last().map(String::as_str), Some("stopped"), "{rest:?}");
        assert!(rest.contains(&format!("written to {}", file.display())), "{rest:?}");
    }
    let mut file = OpusFile::open(fs::File::open(&opus).unwrap(), "heard").unwrap();
    let mut packets = 0;
    while file.next_packet().unwrap().is_some() {
        packets += 1;
    }
    assert!(packets >= 100, "{packets} packets of 20 ms");
    assert!(hound::WavReader::open(&wav).unwrap().duration() >= 96_000);
    let made = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let daemons = |name: &String| name.ends_with(".sock") || name.starts_with("p2pd-");
    let made: Vec<String> = made.filter(|name| !daemons(name)).collect();
    assert_eq!(made.len(), 2, "nothing else is left: {made:?}");
    terminate(&publisher);
    assert_eq!(publisher.wait().unwrap().code(), Some(130));
}

#[test]
fn sigterm_has_a_daemon_take_leave() {
    let (_place, mut a, b) = pair();
    let publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    let mut watch = b.ctl(&["-o", "jsonl", "streams", "--watch"]).start();
    let mut changes = watch.printed();
    assert!(changes.any(|line| line.contains("present") && line.contains("\"tone\"")));
    terminate(&a.child);
    let gone = json(&changes.with("gone"));
    assert_eq!((&gone["gone"]["stream_id"], &gone["gone"]["reason"]), (&"tone".into(), &"ended".into()), "{gone}");
    assert_eq!(until("its end", || a.child.try_wait().unwrap()).code(), Some(0));
    assert!(!a.socket.exists(), "nobody is led to a socket without a daemon");
    let told = publisher.wait_with_output().unwrap();
    assert_eq!(told.status.code(), Some(8), "{}", said(&told));
}

#[test]
fn a_reader_who_has_seen_enough_ends_the_writer_in_silence() {
    let (_place, a, b) = pair();
    let mut publisher = tone(&a, &b);
    let commands: [&[&str]; 5] = [
        &["completion", "bash"],
        &["--help"],
        &["events", "--from-oldest"],
        &["listen", "tone"],
        &["listen", "tone", "--stay"],
    ];
    for args in commands {
        let mut writer = b.ctl(args).start();
        let mut pipe = writer.stdout.take().unwrap();
        in_time("its first byte", move || pipe.read_exact(&mut [0]).unwrap());
        let code = until(&format!("the end of {args:?}"), || writer.try_wait().unwrap());
        let mut words = String::new();
        writer.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(code.code(), Some(0), "{args:?}: {words}");
        assert!(!words.contains("panicked") && !words.contains("roken pipe"), "{args:?}: {words}");
    }
    terminate(&publisher);
    publisher.wait().unwrap();
    // They wait for what never comes.
    for args in [&["sub", "quiet"][..], &["-o", "jsonl", "streams", "--watch"], &["peers", "watch"], &["events"]] {
        let mut writer = b.ctl(args).start();
        drop(writer.stdout.take());
        let code = until(&format!("the end of {args:?}"), || writer.try_wait().unwrap());
        assert_eq!(code.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_reader_who_stops_ends_the_listener_with_a_word_and_disturbs_no_other() {
    let _peace = in_peace();
    let (_place, a, b) = pair();
    let mut publisher = tone(&a, &b);
    let mut stuck = b.ctl(&["listen", "tone"]).start();
    let other = b.ctl(&["-o", "json", "listen", "tone", "--duration", "30s"]).start();
    let ended = within(Duration::from_secs(90), "its end", || stuck.try_wait().unwrap());
    let mut words = String::new();
    stuck.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(ended.code(), Some(1), "{words}");
    assert!(words.ends_with("p2pctl: nobody has read standard output for 30 s\n"), "{words}");
    let heard = other.wait_with_output().unwrap();
    let numbers: serde_json::Value = serde_json::from_slice(&heard.stdout).unwrap();
    assert_eq!((&numbers["concealed_frames"], &numbers["lost_groups"]), (&0.into(), &0.into()), "{numbers}");
    terminate(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let socket = place.path().join("a.sock");
    let mut daemon = Command::new("sh");
    daemon.arg("-c").arg("exec \"$0\" \"$@\" 2>\"$LOG\"").arg(p2pd()).args(["run", "--dev", "--socket"]).arg(&socket);
    daemon.env("LOG", &log).env_remove("NO_COLOR");
    let daemon = Daemon::spawn_logging(daemon, socket);
    for args in
        [&["--help"][..], &["status"], &["peers"], &["streams"], &["listen", "x", "--wait", "0s"], &["nonsense"]]
    {
        let mut command = daemon.ctl(args);
        let output = command.env_remove("NO_COLOR").finish();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}: {}", said(&output));
    }
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains(" INFO ") && !log.contains('\u{1b}'), "{log}");

    for command in [format!("{P2PCTL} --help"), format!("timeout 2 {} run --dev", p2pd().display())] {
        let Some(plain) = on_a_terminal(&command, &[("NO_COLOR", "1")]) else { return };
        assert!(!plain.contains('\u{1b}'), "{plain}");
        let coloured = on_a_terminal(&command, &[]).unwrap();
        assert!(coloured.contains('\u{1b}'), "that was a terminal: {coloured}");
    }
}

#[test]
fn shells_take_the_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let made = Command::new(P2PCTL).args(["completion", shell]).finish();
        assert!(made.status.success() && made.stderr.is_empty(), "{shell}: {}", said(&made));
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join(shell);
        fs::write(&file, made.stdout).unwrap();
        if let Err(why) = accepts(shell, &file) {
            support::skip(format_args!("{shell}: {why}"));
        }
    }
}

/// The shell reads the script without running it; and bash offers a command for the beginning of one.
fn accepts(shell: &str, file: &Path) -> std::io::Result<()> {
    let read = Command::new(shell).arg("-n").arg(file).output()?;
    assert!(read.status.success() && read.stderr.is_empty(), "{shell}: {}", said(&read));
    if shell == "bash" {
        let ask = "source \"$0\"; COMP_WORDS=(p2pctl publ); COMP_CWORD=1; _p2pctl p2pctl publ p2pctl; echo \"${COMPREPLY[@]}\"";
        let offered = Command::new(shell).args(["-c", ask]).arg(file).output()?;
        assert_eq!(String::from_utf8_lossy(&offered.stdout), "publish-stream\n", "{}", said(&offered));
    }
    Ok(())
}

#[test]
fn every_name_of_a_command_has_a_page_of_the_manual() {
    let place = tempfile::tempdir().unwrap();
    let made = Command::new(P2PCTL).arg("manual").arg(place.path()).finish();
    assert!(made.status.success(), "{}", said(&made));
    let page = |name: &str| fs::read_to_string(place.path().join(format!("p2pctl-{name}.1"))).unwrap_or_default();
    for name in ["stream-publish", "publish-stream", "topic-sub", "sub", "protocol-call", "call", "peer-pin", "dht-get"]
    {
        assert!(page(name).contains("Examples:"), "{name}");
    }
    for (name, noun) in [("peers", "peer"), ("topics", "topic")] {
        assert_eq!(page(name), format!(".so man1/p2pctl-{noun}.1\n"));
    }
}

#[test]
fn a_reader_of_raw_bytes_who_stops_holds_up_nothing_else() {
    let (place, a, b) = pair();
    let title = place.path().join("title");
    let entitle = |n: u32| fs::write(&title, format!("Song {n}\n")).unwrap();
    entitle(0);
    let publish = ["publish-stream", "old", "--tone", "440", "--wire", "json", "--bitrate", "510000", "--title-file"];
    let (mut publisher, _) = ready(a.ctl(&[&publish[..], &[title.to_str().unwrap()]].concat()));
    let mut listener = b.ctl(&["listen", "old", "--raw", "--wait", "20s"]).start();
    // Several times as much as a pipe holds, which nobody reads.
    for n in 1..8 {
        entitle(n);
        listener.says(&format!("title: Song {n}"));
    }
    terminate(&listener);
    assert_eq!(listener.wait().unwrap().code(), Some(0));
    assert_eq!(listener.told().last().as_deref(), Some("stopped"));
    terminate(&publisher);
    publisher.wait().unwrap();
}
