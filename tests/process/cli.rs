//! The real binaries, as a person or a script meets them.

use crate::support::{
    self, Daemon, P2PCTL, Start, hertz, id, in_peace, interrupt, pair, ready, said, samples, tone, until,
};
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn a_tone_is_received_whole_in_every_shape() {
    let _peace = in_peace();
    let (place, a, b) = pair();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440", "--name", "A tone"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let table = b.good(&["streams"]);
    assert!(table.contains("A tone") && table.contains("opus 64k mono"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&b.good(&["-o", "json", "streams"])).unwrap();
    assert_eq!(json["streams"][0]["stream_id"], "tone");

    let opus = place.path().join("heard.opus");
    let wav = place.path().join("heard.wav");
    let to = |path: &Path| b.run(&["-o", path.to_str().unwrap(), "listen", "tone", "--duration", "3s"]);
    let heard = to(&opus);
    assert!(
        heard.status.success() && said(&heard).contains("150 frames played, 0 concealed, 0 late"),
        "{}",
        said(&heard)
    );
    assert!(to(&wav).status.success());
    let samples = samples(&wav);
    assert_eq!(samples.len(), 144_000, "the exact number of samples");
    assert!((hertz(&samples[9600..]) - 440.0).abs() < 1.0, "{}", hertz(&samples[9600..]));
    let pipe = b.run(&["listen", "tone", "--duration", "1s"]);
    assert_eq!(pipe.stdout.len(), 96_000);

    match Command::new("opusinfo").arg(&opus).output() {
        Ok(info) => {
            let text = String::from_utf8_lossy(&info.stdout).into_owned();
            assert!(text.contains("Playback length: 0m:02.993s") && !text.contains("WARNING"), "{text}");
        }
        Err(_) => support::skip("opusinfo: not installed"),
    }
    interrupt(&publisher);
    assert_eq!(publisher.wait().unwrap().code(), Some(130));
    until("the entry's end", || (!b.good(&["streams"]).contains("tone")).then_some(()));
}

#[test]
fn an_opus_file_passes_through_bit_exact() {
    let (place, a, b) = pair();
    let file = place.path().join("show.opus");
    let mut encoder = p2pd_audio::codec::OpusEncoder::new(2, None).unwrap();
    let mut writer = p2pd_audio::ogg_opus::OpusWriter::new(Vec::new(), 2, encoder.pre_skip).unwrap();
    let packets: Vec<Vec<u8>> =
        (0..200).map(|n| encoder.encode(&[(n as f32 * 0.7).sin() * 0.3; 1920]).unwrap()).collect();
    packets.iter().for_each(|p| writer.packet(p.clone()).unwrap());
    fs::write(&file, writer.finish().unwrap()).unwrap();
    let heard = place.path().join("heard.opus");
    let listener = b.ctl(&["-o", heard.to_str().unwrap(), "listen", "show", "--wait", "20s"]).start();
    let sent = a.run(&["publish-stream", "show", file.to_str().unwrap()]);
    assert!(sent.status.success(), "{}", said(&sent));
    let listened = listener.wait_with_output().unwrap();
    assert!(listened.status.success(), "{}", said(&listened));
    let mut read = p2pd_audio::ogg_opus::OpusFile::open(fs::File::open(&heard).unwrap(), "heard").unwrap();
    let mut got = Vec::new();
    while let Some(packet) = read.next_packet().unwrap() {
        got.push(packet);
    }
    assert!(got.len() >= 150 && packets.ends_with(&got), "{} of {} packets", got.len(), packets.len());
}

/// A tone of three seconds, as a WAV and as an Ogg/Opus file whose packets play so long; `false` where none can be made.
fn opus_file(place: &Path, name: &str, milliseconds: &str) -> bool {
    tone(&place.join(format!("{name}.wav")), 144_000, |_| 440.0);
    let line = format!("opusenc --quiet --framesize {milliseconds} {name}.wav {name}.opus");
    support::make(place, &["opusenc"], &line)
}

#[test]
fn packets_of_every_duration_pass_through_in_time() {
    let _peace = in_peace();
    let (place, a, b) = pair();
    for milliseconds in ["2.5", "10", "40", "60"] {
        let file = place.path().join(format!("{milliseconds}.opus"));
        if !opus_file(place.path(), milliseconds, milliseconds) {
            return;
        }
        let id = format!("ms{milliseconds}");
        let listener = b.ctl(&["-o", "json", "listen", &id, "--wait", "20s"]).start();
        let sent = a.run(&["publish-stream", &id, file.to_str().unwrap()]);
        assert!(sent.status.success(), "{}", said(&sent));
        let listened = listener.wait_with_output().unwrap();
        let numbers: serde_json::Value = serde_json::from_slice(&listened.stdout).unwrap();
        assert_eq!(numbers["concealed_frames"], 0, "{milliseconds}: {numbers}");
        let seconds = numbers["seconds"].as_f64().unwrap();
        assert!((2.5..3.2).contains(&seconds), "{milliseconds}: {numbers}");
        assert!(numbers["latency_ms"].as_u64().unwrap() < 600, "{milliseconds}: {numbers}");
    }
}

#[test]
fn a_source_that_fails_in_the_middle_ends_the_stream_and_says_why() {
    let (place, a, b) = pair();
    let whole = place.path().join("whole.opus");
    if !opus_file(place.path(), "whole", "20") {
        return;
    }
    let bytes = fs::read(&whole).unwrap();
    let half = place.path().join("half.opus");
    fs::write(&half, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let cut = place.path().join("cut.wav");
    let wav = fs::read(whole.with_extension("wav")).unwrap();
    fs::write(&cut, &wav[..wav.len() / 2]).unwrap();
    for (id, file, words) in [("half", half, "it breaks off"), ("cut", cut, "it was cut off")] {
        let listener = b.ctl(&["-o", "json", "listen", id, "--wait", "20s"]).start();
        let sent = a.run(&["publish-stream", id, file.to_str().unwrap()]);
        assert_eq!(sent.status.code(), Some(1), "{id}: {}", said(&sent));
        assert!(said(&sent).contains(words) && said(&sent).contains(file.to_str().unwrap()), "{}", said(&sent));
        assert!(listener.wait_with_output().unwrap().status.success(), "listeners are told of the end");
        until("the entry's end", || (!a.good(&["streams"]).contains(id)).then_some(()));
    }
}

#[test]
fn an_encoded_stream_comes_through_a_pipe() {
    let (place, a, b) = pair();
    let wav = place.path().join("tone.wav");
    opus_file(place.path(), "tone", "20");
    for kind in ["wav", "flac", "ogg", "mp3", "opus"] {
        let file = place.path().join(format!("tone.{kind}"));
        if !file.exists() && !Command::new("sox").arg(&wav).arg(&file).status().is_ok_and(|made| made.success()) {
            support::skip(format_args!("{kind} through a pipe: sox cannot write it here"));
            continue;
        }
        let heard = place.path().join(format!("heard-{kind}.wav"));
        let id = format!("pipe-{kind}");
        let listener = b.ctl(&["-o", heard.to_str().unwrap(), "listen", &id, "--wait", "20s"]).start();
        let mut publisher = a.ctl(&["publish-stream", &id, "-"]).stdin(fs::File::open(&file).unwrap()).start();
        assert!(publisher.wait().unwrap().success(), "{kind}");
        let listened = listener.wait_with_output().unwrap();
        assert!(listened.status.success(), "{kind}: {}", said(&listened));
        let samples = samples(&heard);
        let middle = samples.get(24_000..96_000).unwrap_or_else(|| panic!("{kind}: {} samples", samples.len()));
        assert!((hertz(middle) - 440.0).abs() < 1.0, "{kind}: {}", hertz(middle));
    }
}

#[test]
fn mistakes_are_one_line_with_the_next_step() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let empty = place.path().join("empty.wav");
    let letter = place.path().join("letter.txt");
    fs::write(&empty, b"").unwrap();
    fs::write(&letter, b"Dear listeners,").unwrap();
    let own = support::id(&a);
    let cases: [(&[&str], i32, &str); 25] = [
        (&["publish-stream", "x", "/nonexistent.flac"], 1, "/nonexistent.flac"),
        (&["publish-stream", "x", empty.to_str().unwrap()], 1, "empty"),
        (&["publish-stream", "x", letter.to_str().unwrap()], 1, "takes WAV, FLAC"),
        (&["publish-stream", "a b", "--tone", "440"], 2, "open.stream_id"),
        (&["publish-stream", "x", "--tone", "99999"], 2, "takes 1 to 20000 Hz"),
        (&["publish-stream", "x", "--tone", "-5"], 2, "takes 1 to 20000 Hz"),
        (&["listen", "nothing", "--wait", "100ms"], 5, "p2pctl streams"),
        (&["stream", "listen", "nothing", "--wait", "100ms"], 5, "p2pctl streams"),
        (&["topic", "pub", "nobody", "hello"], 7, "nobody follows `nobody` yet"),
        (&["peers", "connect", "/ip4/127.0.0.1/tcp/1"], 2, "/p2p/"),
        (&["wait", "peers=9", "--timeout", "200ms"], 6, "peers=9"),
        (&["pub", "nobody", "hello"], 7, "nobody follows `nobody` yet; wait_ms (`p2pctl pub --wait 1m`)"),
        (&["sub", "log", "--resume", "/nonexistent/cursor"], 2, "/nonexistent/cursor"),
        (&["peers", "connect", &own], 2, "without a way to it"),
        (&["peers", "connect", &a.address], 2, "this daemon itself"),
        (
            &["peers", "connect", "/ip4/127.0.0.1/udp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"],
            2,
            "/quic-v1",
        ),
        (&["open", &own, "/chat/1"], 2, "this daemon itself"),
        (&["peers", "unrule", "9.9.9.9"], 5, "p2pctl peers rules"),
        (&["dht", "put", "home", "x", "--ttl", "100ms"], 2, "1s to 48h"),
        (&["forward", "127.0.0.1:0", "foo", "/x/1"], 2, "PEER `foo`"),
        (&["forward", "127.0.0.1:0", &own, "x"], 2, "PROTOCOL `x`"),
        (&["expose", "/x/1", "127.0.0.1:1", "--allow", "anyone"], 2, "--allow `anyone`"),
        (&["sub", "chat", "--after", "5"], 7, "`chat` has no log"),
        (&["events", "--after", "9999999"], 7, "cursor 9999999"),
        (&["listen", "nothing", "--wait", "1h"], 2, "wait_ms"),
    ];
    for (args, code, words) in cases {
        let output = a.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words) && said(&output).lines().count() == 1, "{args:?}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
    // The API does not tell whether it was provided, so the answer claims nothing.
    assert_eq!(a.good(&["dht", "stop", "never-provided"]), "this daemon does not provide never-provided now\n");
    assert_eq!(a.good(&["-o", "jsonl", "streams"]), "", "no phantom entry");
    let topics = a.good(&["-o", "jsonl", "topics"]);
    assert!(!topics.contains(r#""log""#), "a log began for nobody: {topics}");
}

/// What is wrong with a line of arguments is told with what would be right.
#[test]
fn wrong_usage_says_what_an_argument_takes_and_shows_an_example() {
    let cases: [(&[&str], &[&str]); 5] = [
        (&["dht", "stop"], &["<KEY>", "p2pctl dht stop town-archive"]),
        (&["events", "--after", "yesterday"], &["begins a line of `p2pctl events`", "--after 1234"]),
        (&["events", "--after", "-5"], &["begins a line of `p2pctl events`"]),
        (&["stream", "publish", "x", "--bitrate", "many"], &["takes a whole number from 6000 to 510000"]),
        (&["listen", "x", "--duration", "-5s"], &["a duration cannot be negative", "--duration 1h"]),
    ];
    for (args, words) in cases {
        let output = Command::new(P2PCTL).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
        assert!(words.iter().all(|word| said(&output).contains(word)), "{args:?}: {}", said(&output));
    }
}

#[test]
fn a_noun_with_a_verb_is_the_same_as_its_short_form() {
    let (_place, a, b) = pair();
    let own = id(&b);
    let (mut publisher, _) = ready(a.ctl(&["stream", "publish", "town", "--tone", "440"]));
    b.good(&["wait", "stream=town", "--timeout", "20s"]);
    b.good(&["topic", "set", "chat", "--closed"]);
    // What changes from call to call is not among what is compared: ages and round trips.
    let stable: [(&[&str], &[&str]); 6] = [
        (&["topics"], &["topic"]),
        (&["topics"], &["topic", "list"]),
        (&["topics", "show", "chat"], &["topic", "show", "chat"]),
        (&["peers", "pins"], &["peer", "pins"]),
        (&["open", &own, "/chat/1"], &["protocol", "open", &own, "/chat/1"]),
        (&["call", "foo", "/x/1"], &["protocol", "call", "foo", "/x/1"]),
    ];
    for (short, noun) in stable {
        let [short, noun] = [short, noun].map(|args| b.run(args));
        assert_eq!((short.status.code(), &short.stdout, said(&short)), (noun.status.code(), &noun.stdout, said(&noun)));
    }
    for (short, noun) in [("streams", "stream"), ("peers", "peer")] {
        let heads = |args: &[&str]| b.good(args).lines().next().map(str::to_owned);
        assert_eq!((heads(&[short]), heads(&[short])), (heads(&[noun]), heads(&[noun, "list"])));
    }
    let length = |args: &[&str]| b.run(&[args, &["town", "--duration", "500ms"]].concat()).stdout.len();
    assert_eq!((length(&["listen"]), length(&["stream", "listen"])), (48_000, 48_000));
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn the_three_ways_to_miss_the_daemon_say_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let at = |socket: &Path| Command::new(P2PCTL).arg("-s").arg(socket).arg("status").output().unwrap();
    let missing = at(&place.path().join("none.sock"));
    assert_eq!(missing.status.code(), Some(3));
    let has_systemd = Path::new("/run/systemd/system").exists();
    let words = if has_systemd { "systemctl start p2pd" } else { "Start it with `p2pd run`" };
    assert!(said(&missing).contains(words), "{}", said(&missing));
    let stale = place.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let stale = at(&stale);
    assert_eq!(stale.status.code(), Some(3));
    assert!(said(&stale).contains("the daemon has died. Start it again"), "{}", said(&stale));
    let none = at(place.path());
    assert!(said(&none).contains("it is no socket"), "{}", said(&none));
}

#[test]
fn an_ambiguous_stream_id_needs_its_publisher() {
    let (_place, a, b) = pair();
    let publish = |daemon: &Daemon| ready(daemon.ctl(&["publish-stream", "town", "--tone", "440"]));
    let publishers = [publish(&a), publish(&b)];
    let both = [&a, &b].map(|daemon| format!("town@{}", id(daemon)));
    for exact in &both {
        b.good(&["wait", &format!("stream={exact}"), "--timeout", "20s"]);
    }
    // One is there, which was asked for.
    b.good(&["wait", "stream=town", "--timeout", "10s"]);
    let unclear = b.run(&["listen", "town"]);
    assert_eq!(unclear.status.code(), Some(7), "{}", said(&unclear));
    let words = said(&unclear);
    assert!(both.iter().all(|exact| words.contains(exact)) && words.contains("STREAM_AMBIGUOUS"), "{words}");
    for exact in &both {
        let heard = b.run(&["listen", exact, "--duration", "200ms"]);
        assert!(heard.status.success() && said(&heard).contains(exact), "{}", said(&heard));
    }
    for (mut child, _) in publishers {
        interrupt(&child);
        child.wait().unwrap();
    }
}

#[test]
fn messages_go_from_a_pipe_to_a_pipe() {
    let (_place, a, b) = pair();
    let subscriber = b.ctl(&["sub", "chat", "-n", "2"]).start();
    until("a subscriber", || a.run(&["pub", "chat", "first"]).status.success().then_some(()));
    let mut publisher = a.ctl(&["pub", "chat"]).stdin(Stdio::piped()).start();
    publisher.stdin.take().unwrap().write_all(b"second\n").unwrap();
    assert!(publisher.wait().unwrap().success());
    let heard = subscriber.wait_with_output().unwrap();
    assert!(heard.status.success());
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "first\nsecond\n");
}

#[test]
fn of_many_lines_json_tells_which_were_not_sent() {
    let (_place, a, b) = pair();
    let mut subscriber = b.ctl(&["sub", "chat"]).start();
    until("a subscriber", || a.run(&["pub", "chat", "first"]).status.success().then_some(()));
    let mut publisher = a.ctl(&["-o", "jsonl", "pub", "chat"]).stdin(Stdio::piped()).start();
    let mut lines = publisher.stdin.take().unwrap();
    // Longer than any message may be.
    lines.write_all(&[&[b'x'; 3_000_000], &b"\nsecond\n"[..]].concat()).unwrap();
    drop(lines);
    let done = publisher.wait_with_output().unwrap();
    let told: Vec<serde_json::Value> =
        String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&told[0]["number"], &told[0]["reason"]), (&0.into(), &"FIELD_INVALID".into()), "{told:?}");
    assert_eq!((&told[1]["number"], &told[1]["peers"]), (&1.into(), &1.into()), "{told:?}");
    assert_eq!(done.status.code(), Some(2), "as of a message in the arguments");
    interrupt(&subscriber);
    subscriber.wait().unwrap();
}

#[test]
fn peers_are_watched_and_shown() {
    let (_place, a, b) = pair();
    let mut watch = b.ctl(&["peers", "watch"]).start();
    let mut lines = watch.printed();
    let present = lines.next().unwrap();
    assert!(present.starts_with("present") && present.contains(&id(&a)), "{present}");
    drop(a);
    let gone = lines.find(|line| line.starts_with("gone")).unwrap();
    assert!(gone.ends_with(present.split_whitespace().nth(1).unwrap()), "{gone}");
    interrupt(&watch);
    watch.wait().unwrap();
}

#[test]
fn the_units_hold_up() {
    let units = Path::new("../systemd");
    let place = tempfile::tempdir().unwrap();
    let analyze = |args: &[&str], unit: &Path| {
        let report = Command::new("systemd-analyze").args(args).arg(unit).env("XDG_RUNTIME_DIR", place.path()).output();
        let Ok(report) = report else { return support::skip("systemd-analyze: not installed") };
        let said = [report.stdout, report.stderr].concat();
        assert!(report.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    analyze(&["security", "--offline=true", "--threshold=15"], &units.join("p2pd.service"));
    // What it starts is not installed here, so it is looked for where it was built.
    for (unit, scope) in [("p2pd.service", "--system"), ("user/p2pd.service", "--user")] {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        let built = place.path().join("p2pd.service");
        fs::write(&built, text.replace("/usr/bin/p2pd", support::p2pd().to_str().unwrap())).unwrap();
        analyze(&["verify", "--man=no", scope], &built);
    }
}

#[test]
fn a_validator_whose_commands_never_end_goes_on_judging() {
    let (_place, a, b) = pair();
    b.good(&["topics", "set", "judged", "--closed", "--judging", "1s"]);
    let command = r#"m=$(cat); [ "$m" = hang ] && exec sleep 1000; exit 0"#;
    let (mut validator, _) = ready(b.ctl(&["validate", "judged", "sh", "-c", command]));
    let mut reader = b.ctl(&["sub", "judged", "-n", "1"]).spawn().unwrap();
    let mut publisher = a.ctl(&["pub", "judged", "--wait", "10s"]).stdin(Stdio::piped()).spawn().unwrap();
    publisher.stdin.take().unwrap().write_all("hang\n".repeat(20).as_bytes()).unwrap();
    assert!(publisher.wait().unwrap().success());
    until("a verdict on the next message", || {
        a.good(&["pub", "judged", "good"]);
        reader.try_wait().unwrap()
    });
    assert_eq!(reader.wait_with_output().unwrap().stdout, b"good\n");
    interrupt(&validator);
    validator.wait().unwrap();
}

#[test]
fn a_quiet_pipe_holds_up_no_publisher_whose_daemon_has_ended() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let mut publisher = a.ctl(&["pub", "chat"]).stdin(Stdio::piped()).start();
    let mut lines = publisher.stdin.take().unwrap();
    lines.write_all(b"good day\n").unwrap();
    publisher.says("nobody follows");
    support::terminate(&a.child);
    let ended = until("its end", || publisher.try_wait().unwrap());
    assert_eq!(ended.code(), Some(8));
    drop(lines);
}

#[test]
fn whoever_watches_is_told_that_the_daemon_has_ended() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let watchers: Vec<_> = [&["peers", "watch"][..], &["topics", "watch", "chat"], &["events", "--from-oldest"]]
        .into_iter()
        .map(|args| {
            let mut watcher = a.ctl(args).start();
            watcher.printed().next().expect("a first line");
            (args, watcher)
        })
        .collect();
    support::terminate(&a.child);
    for (args, mut watcher) in watchers {
        let ended = until(&format!("the end of {args:?}"), || watcher.try_wait().unwrap());
        assert_eq!(ended.code(), Some(8), "{args:?}: {}", said(&watcher.wait_with_output().unwrap()));
    }
}
