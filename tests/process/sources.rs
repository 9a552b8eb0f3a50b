//! Where people take sound from: pipes of every kind, and a daemon that is started anew meanwhile.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    self, Daemon, P2PCTL, Start, hertz, in_peace, interrupt, make, ready, said, samples, staircase, until,
};

/// Runs a line of shell in which `$ctl` is p2pctl for that daemon.
fn shell(daemon: &Daemon, place: &Path, line: &str) -> std::process::Output {
    let ctl = format!("{P2PCTL} -s {}", daemon.socket.display());
    // What a shell runs is `bash`, for `<(command)`.
    Command::new("bash").args(["-c", line]).env("ctl", ctl).current_dir(place).finish()
}

#[test]
fn what_is_no_sound_is_refused_and_not_broadcast() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let noise: Vec<u8> = (0..300_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(place.path().join("noise"), noise).unwrap();
    for (line, words) in [
        ("echo Dear listeners | $ctl publish-stream x -", "standard input: text"),
        ("cat noise | $ctl publish-stream x -", "standard input: no encoded sound"),
        ("cat noise | $ctl publish-stream x - --rate 8000 --channels 2", "standard input: no encoded sound"),
        ("gzip -c noise | $ctl publish-stream x /dev/stdin", "/dev/stdin: gzip"),
        ("$ctl publish-stream x noise", "noise: no encoded sound"),
        ("$ctl publish-stream x - --loop <noise", "no encoded sound"),
        ("cat noise | $ctl publish-stream x - --format s16 --loop", "cannot be read again"),
    ] {
        let refused = shell(&a, place.path(), line);
        let told = said(&refused);
        assert!(!refused.status.success() && told.contains(words), "{line}: {told}");
        assert!(!told.contains("publishing"), "{line}: {told}");
        assert!(words.contains("again") || told.contains("--format s16"), "{line}: {told}");
    }
    let asked = shell(&a, place.path(), "cat noise | $ctl publish-stream x - --format s16 --rate 192000");
    assert!(asked.status.success(), "{}", said(&asked));
}

#[test]
fn a_pipe_is_a_pipe_whatever_its_name() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let made = "sox -n -r 44100 -c 1 -b 16 a.wav synth 1.5 sine 440 vol 0.5 && lame --quiet -b 64 a.wav a.mp3";
    if !support::make(place.path(), &["sox", "lame"], made) {
        return;
    }
    for (n, line) in [
        "lame --quiet -b 64 a.wav - | $ctl publish-stream x$n -",
        "cat a.mp3 | $ctl publish-stream x$n /dev/stdin",
        "$ctl publish-stream x$n /dev/stdin <a.mp3",
        "$ctl publish-stream x$n <(cat a.wav)",
        "$ctl publish-stream x$n /dev/fd/5 5< <(tail -c +3000 a.mp3)",
        "mkfifo fifo; (cat a.mp3 >fifo &) ; $ctl publish-stream x$n fifo",
        "sox a.wav -t raw -e signed -b 16 - | $ctl publish-stream x$n /dev/stdin --format s16 --rate 44100",
        "sox a.wav -t raw -e signed -b 16 raw; $ctl publish-stream x$n raw --format s16 --rate 44100",
        "sox a.wav -t raw -e float -b 32 - | $ctl publish-stream x$n - --format f32 --rate 44100",
    ]
    .into_iter()
    .enumerate()
    {
        let heard = place.path().join(format!("{n}.wav"));
        let id = format!("x{n}");
        let listener = a.ctl(&["listen", &id, "--wait", "20s", "-o", heard.to_str().unwrap()]).start();
        let sent = shell(&a, place.path(), &format!("n={n}; {line}"));
        assert!(sent.status.success(), "{line}: {}", said(&sent));
        let listened = listener.wait_with_output().unwrap();
        assert!(listened.status.success(), "{line}: {}", said(&listened));
        let samples = samples(&heard);
        assert!(samples.len() > 40_000, "{line}: {} samples", samples.len());
        assert!(
            (hertz(&samples[12_000..36_000]) - 440.0).abs() < 2.0,
            "{line}: {} Hz",
            hertz(&samples[12_000..36_000])
        );
        assert!(samples.iter().all(|s| s.unsigned_abs() < 20_000), "{line}: it is not noise");
    }
}

/// The stair that is heard: 400 Hz and 40 more each half second.
fn stair(samples: &[i16]) -> f64 {
    (hertz(samples) - 400.0) / 40.0
}

#[test]
fn a_publisher_that_stays_goes_on_over_a_restart_of_its_daemon() {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let start = || Daemon::start(place.path(), "a", &["--data", data.to_str().unwrap()]);
    let mut a = start();
    let source = place.path().join("stairs.wav");
    staircase(&source, 40, 24_000);
    let publish = ["publish-stream", "stairs", source.to_str().unwrap(), "--stay", "--title", "A song"];
    let mut publisher = a.ctl(&publish).start();
    publisher.says("publishing stairs");
    let recordings = ["1.wav", "2.wav"].map(|name| place.path().join(name));
    let listen = |daemon: &Daemon, file: &Path| {
        let heard = daemon.run(&["listen", "stairs", "--duration", "2s", "-o", file.to_str().unwrap()]);
        assert!(heard.status.success(), "{}", said(&heard));
        said(&heard)
    };
    listen(&a, &recordings[0]);
    a.kill_9();
    publisher.says("waiting for it to come back");
    // If the file played on meanwhile, this would be eight stairs.
    thread::sleep(Duration::from_secs(4));
    let a = start();
    publisher.says("publishing stairs");
    let told = listen(&a, &recordings[1]);
    assert!(told.contains("title: A song"), "{told}");
    let [before, after] = recordings.map(|file| samples(&file));
    let last = stair(&before[before.len() - 4_800..]);
    let first = stair(&after[4_800..9_600]);
    println!("from stair {last} to {first}");
    assert!((-1.0..5.0).contains(&(first - last)), "the file waited: from stair {last} to {first}");
    interrupt(&publisher);
    assert_eq!(publisher.wait().unwrap().code(), Some(130));
}

#[test]
fn what_is_live_passes_while_the_daemon_is_away() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let start = || Daemon::start(place.path(), "a", &["--data", data.to_str().unwrap()]);
    let mut a = start();
    let mut publisher =
        a.ctl(&["publish-stream", "mic", "-", "--format", "s16", "--stay"]).stdin(Stdio::piped()).start();
    let mut microphone = publisher.stdin.take().unwrap();
    let speaking = thread::spawn(move || {
        let began = std::time::Instant::now();
        for frame in 0u32.. {
            thread::sleep(
                (began + Duration::from_millis(20) * frame).saturating_duration_since(std::time::Instant::now()),
            );
            if microphone.write_all(&[1; 1_920]).is_err() {
                return frame;
            }
        }
        0
    });
    publisher.says("publishing mic");
    a.good(&["listen", "mic", "--duration", "2s", "-o", "json"]);
    support::terminate(&a.child);
    a.child.wait().unwrap();
    publisher.says("waiting for it to come back");
    // Far more than the pipe holds: 200 frames.
    thread::sleep(Duration::from_secs(4));
    let a = start();
    publisher.says("publishing mic");
    until("the stream", || a.good(&["streams"]).contains("mic").then_some(()));
    interrupt(&publisher);
    let rest = publisher.told().rest();
    publisher.wait().unwrap();
    // Had anything waited, the one who speaks would have been held up, and be behind.
    let frames = speaking.join().unwrap();
    assert!(frames > 300, "{frames} frames were spoken; {rest:?}");
}

#[test]
fn a_terminal_that_closes_ends_a_publication_in_order() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let (mut publisher, _) = ready(a.ctl(&["publish-stream", "tone", "--tone", "440"]));
    let listener = a.ctl(&["listen", "tone", "-o", "json"]).start();
    until("a listener", || a.good(&["status"]).contains("1 local listener").then_some(()));
    support::signal(&publisher, "-HUP");
    assert_eq!(publisher.wait().unwrap().code(), Some(130));
    let heard = listener.wait_with_output().unwrap();
    assert!(heard.status.success() && said(&heard).contains("has ended the stream"), "{}", said(&heard));
}

#[test]
fn without_stay_it_ends_with_its_daemon() {
    let place = tempfile::tempdir().unwrap();
    let mut a = Daemon::start(place.path(), "a", &[]);
    let (mut publisher, _) = ready(a.ctl(&["publish-stream", "tone", "--tone", "440"]));
    a.kill_9();
    assert_eq!(publisher.wait().unwrap().code(), Some(8));
}

#[test]
fn damaged_places_are_counted_and_where_nothing_else_is_there_it_fails() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    if !make(place.path(), &["sox"], "sox -n -r 44100 -c 1 -b 16 a.flac synth 2 pinknoise") {
        return;
    }
    let path = place.path().join("a.flac");
    let mut bytes = fs::read(&path).unwrap();
    let (tenth, length) = (bytes.len() / 10, bytes.len());
    for from in [3 * tenth, 7 * tenth] {
        bytes[from..from + 40].fill(0x55);
    }
    fs::write(&path, &bytes).unwrap();
    let publish = |more: &[&str]| a.run(&[&["publish-stream", "x", path.to_str().unwrap()], more].concat());
    let sent = publish(&[]);
    assert!(sent.status.success() && said(&sent).contains("p2pctl: 2 damaged places were left out"), "{}", said(&sent));
    let twice = publish(&["--loop", "--duration", "3s"]);
    assert!(
        said(&twice).contains("p2pctl: 4 damaged places") || said(&twice).contains("3 damaged"),
        "{}",
        said(&twice)
    );
    // Only its headers are left.
    let sound = bytes.windows(2).position(|pair| pair == [0xff, 0xf8]).unwrap();
    bytes[sound..length].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    let nothing = publish(&[]);
    assert_eq!(nothing.status.code(), Some(1), "{}", said(&nothing));
    assert!(said(&nothing).contains("a.flac: no sound found"), "{}", said(&nothing));
}
