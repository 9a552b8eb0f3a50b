//! What is published is what is heard: known signals through real daemons, judged by what comes out.

use std::{
    f64::consts::TAU,
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    self, Daemon, Start, heard_in_peace, hertz, in_peace, interrupt, pair, said, samples, staircase, step,
};

/// Samples of one group, 100 ms at 48 kHz.
const GROUP: usize = 4_800;
/// The stairs that a recording holds, one for each 100 ms from the first edge on; `None` where there is no clear tone.
fn stairs(recording: &[i16]) -> Vec<Option<usize>> {
    // A listener begins anywhere within a stair: the edge is where the tone of a 20 ms frame first changes.
    let tone = |at: usize, length: usize| hertz(recording.get(at..at + length).unwrap_or_default());
    let edge = (480..recording.len()).step_by(96).find(|at| tone(*at, 960) > tone(480, 960) + 30.0).expect("an edge");
    let nearest = |hertz: f64| {
        let n = ((hertz - 400.0) / 40.0).round();
        (n >= 0.0 && (step(n as usize) - hertz).abs() < 12.0).then_some(n as usize)
    };
    (edge..recording.len() - GROUP).step_by(GROUP).map(|at| nearest(tone(at + 1_200, 2_400))).collect()
}

#[test]
fn a_staircase_is_climbed_by_every_listener_without_a_missing_stair() {
    let _peace = in_peace();
    let (place, a, b) = pair();
    let c = Daemon::start(place.path(), "c", &["--bootstrap", &b.address]);
    let source = place.path().join("stairs.wav");
    staircase(&source, 90, GROUP);
    let out = |name: &str| place.path().join(name);
    let mut listeners = Vec::new();
    for (daemon, name) in [(&a, "a.wav"), (&b, "b.wav"), (&c, "c.wav")] {
        let file = out(name);
        let listener = daemon.ctl(&["-o", file.to_str().unwrap(), "listen", "stairs", "--wait", "20s"]).start();
        listeners.push((listener, file));
    }
    let sent = a.run(&["publish-stream", "stairs", source.to_str().unwrap()]);
    assert!(sent.status.success(), "{}", said(&sent));
    for (listener, file) in listeners {
        let ended = listener.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", said(&ended));
        assert!(said(&ended).contains(" 0 concealed, 0 late, 0 skipped"), "{}", said(&ended));
        let heard = stairs(&samples(&file));
        assert!(heard.len() > 60, "{} stairs in {}", heard.len(), file.display());
        let first = heard[0].expect("a clear tone");
        let expected: Vec<Option<usize>> = (first..first + heard.len()).map(Some).collect();
        assert_eq!(heard, expected, "{}", file.display());
        assert!(first + heard.len() >= 88, "heard to the end: {}", first + heard.len());
    }
}

#[test]
fn our_decoding_is_that_of_opusdec() {
    let _peace = in_peace();
    let (place, a, b) = pair();
    let source = place.path().join("stairs.wav");
    staircase(&source, 60, GROUP);
    let opus = place.path().join("heard.opus");
    let listener = b.ctl(&["-o", opus.to_str().unwrap(), "listen", "stairs", "--wait", "20s"]).start();
    assert!(a.run(&["publish-stream", "stairs", source.to_str().unwrap()]).status.success());
    assert!(listener.wait_with_output().unwrap().status.success());

    let mut file = p2pd_audio::ogg_opus::OpusFile::open(fs::File::open(&opus).unwrap(), "heard").unwrap();
    let mut decoder = p2pd_audio::codec::OpusDecoder::new(1).unwrap();
    let mut ours = Vec::new();
    while let Some(packet) = file.next_packet().unwrap() {
        ours.extend(decoder.decode(&packet).unwrap().into_iter().map(p2pd_audio::codec::to_i16));
    }
    let ours = &ours[file.pre_skip as usize..];
    let reference = place.path().join("reference.wav");
    let run = Command::new("opusdec").args(["--quiet", "--no-dither"]).arg(&opus).arg(&reference).status();
    let Ok(status) = run else { return support::skip("opusdec: not installed") };
    assert!(status.success());
    let theirs = samples(&reference);
    assert_eq!(theirs.len(), ours.len(), "the file's length is exact");
    let power: f64 = theirs.iter().map(|s| f64::from(*s).powi(2)).sum();
    let noise: f64 = theirs.iter().zip(ours).map(|(t, o)| (f64::from(*t) - f64::from(*o)).powi(2)).sum();
    let ratio = 10.0 * (power / noise.max(1.0)).log10();
    println!("{ratio:.1} dB");
    assert!(ratio >= 60.0, "{ratio} dB");
}

#[test]
fn chirps_come_through_a_pipe_each_once_and_their_delay_is_told() {
    chirps(&["--format", "s16"], b"");
}

#[test]
fn chirps_come_from_arecord_as_soon() {
    let head = b"RIFF\x24\0\0\x80WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\xbb\0\0\0\x77\x01\0\x02\0\x10\0data\0\0\0\x80";
    chirps(&[], head);
}

/// Speaks bursts into a pipe, which begins with `head`, and measures when they are heard.
fn chirps(more: &[&str], head: &[u8]) {
    const CHIRPS: usize = 12;
    let _peace = in_peace();
    let (_place, a, b) = pair();
    let mut publisher = a.ctl(&[&["publish-stream", "chirps", "-"], more].concat()).stdin(Stdio::piped()).start();
    let mut microphone = publisher.stdin.take().unwrap();
    microphone.write_all(head).unwrap();
    if !head.is_empty() {
        // Nothing is announced before some sound has been decoded.
        microphone.write_all(&[0; 2 * 1_920]).unwrap();
    }
    b.good(&["wait", "stream=chirps", "--timeout", "20s"]);
    let mut listener = b.ctl(&["listen", "chirps"]).start();
    let mut sound = listener.stdout.take().unwrap();
    let hearing = thread::spawn(move || {
        let mut frame = [0u8; 1_920];
        let (mut heard, mut quiet) = (Vec::new(), true);
        while sound.read_exact(&mut frame).is_ok() {
            let loud = frame.chunks_exact(2).any(|s| i16::from_le_bytes([s[0], s[1]]).abs() > 4_000);
            if loud && quiet {
                heard.push(Instant::now());
            }
            quiet = !loud;
        }
        heard
    });
    // A second of silence first, so that the listener is there; then a burst of 40 ms each half second, in real time.
    let began = Instant::now();
    let mut spoken = Vec::new();
    for frame in 0..50 + 25 * CHIRPS as u32 {
        let due = began + Duration::from_millis(20) * frame;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let loud = frame >= 50 && frame % 25 < 2;
        if loud && frame % 25 == 0 {
            spoken.push(Instant::now());
        }
        let sample = |n: u32| if loud { ((f64::from(n) * TAU / 48.0).sin() * 12_000.0) as i16 } else { 0 };
        let bytes: Vec<u8> = (0..960).flat_map(|n| sample(n).to_le_bytes()).collect();
        microphone.write_all(&bytes).unwrap();
    }
    drop(microphone);
    assert!(publisher.wait().unwrap().success());
    assert!(listener.wait().unwrap().success());
    let heard = hearing.join().unwrap();
    assert_eq!(heard.len(), CHIRPS, "each chirp once");
    let mut delays: Vec<Duration> = heard.iter().zip(&spoken).map(|(h, s)| h.duration_since(*s)).collect();
    delays.sort();
    println!(
        "from the microphone to the ear: {:?} in the median, {:?} at most",
        delays[CHIRPS / 2],
        delays[CHIRPS - 1]
    );
    assert!(delays[CHIRPS / 2] < Duration::from_secs(1), "{delays:?}");
    assert!(delays[CHIRPS - 1] < Duration::from_secs(2), "{delays:?}");
}

/// Listens while so many of 100 groups are dropped on arrival; the numbers of the summary.
fn with_drops(percent: &str, repair: &str) -> serde_json::Value {
    let _peace = in_peace();
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let variables = [("P2PD_STREAMS_DROP_PERCENT", percent), ("P2PD_STREAMS_REPAIR", repair)];
    let b = Daemon::start_with(place.path(), "b", &["--bootstrap", &a.address], &variables);
    b.good(&["wait", "peers=1", "--timeout", "20s"]);
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let listen = |daemon: &Daemon| daemon.ctl(&["-o", "json", "listen", "tone", "--duration", "8s"]).start();
    let mut numbers = heard_in_peace(|| listen(&a), || vec![listen(&b)]);
    interrupt(&publisher);
    publisher.wait().unwrap();
    numbers.remove(0)
}

#[test]
fn dropped_groups_are_repaired_before_they_are_due() {
    for (percent, groups) in [("5", 4), ("20", 16)] {
        let numbers = with_drops(percent, "true");
        assert_eq!(numbers["concealed_frames"], 0, "{percent} %: {numbers}");
        assert_eq!(numbers["lost_groups"], 0, "{percent} %: {numbers}");
        let repaired = numbers["repaired_groups"].as_u64().unwrap();
        assert!(repaired.abs_diff(groups) <= 3, "{percent} %: {numbers}");
    }
}

#[test]
fn without_repair_exactly_the_dropped_are_concealed() {
    for (percent, groups) in [("5", 4), ("20", 16)] {
        let numbers = with_drops(percent, "false");
        let concealed = numbers["concealed_frames"].as_u64().unwrap();
        assert!(concealed.is_multiple_of(5) && (concealed / 5).abs_diff(groups) <= 2, "{percent} %: {numbers}");
        assert_eq!(numbers["played_frames"].as_u64().unwrap() + concealed, 400, "{numbers}");
        let lost = numbers["lost_groups"].as_u64().unwrap();
        assert!(lost.abs_diff(concealed / 5) <= 1 && numbers["repaired_groups"] == 0, "{percent} %: {numbers}");
    }
}

#[test]
fn the_title_is_that_of_its_file_whenever_it_changes() {
    let (place, a, b) = pair();
    let file = place.path().join("title.txt");
    let mut publisher =
        a.ctl(&["publish-stream", "tone", "--tone", "440", "--title-file", file.to_str().unwrap()]).start();
    let missing = publisher.says("title");
    assert!(missing.contains("title.txt: No such file"), "{missing}");
    fs::write(&file, "First song\n").unwrap();
    b.good(&["wait", "stream=tone", "--timeout", "20s"]);
    let mut listener = b.ctl(&["-o", "json", "listen", "tone", "--duration", "60s"]).start();
    let mut next_title = || listener.told().until(Duration::from_secs(60), |line| line.starts_with("title: "));
    assert_eq!(next_title().as_deref(), Some("title: First song"));
    fs::write(&file, "  Second song \nby somebody\n").unwrap();
    assert_eq!(next_title().as_deref(), Some("title: Second song"));
    // Who joins now is told the title that is.
    let late = b.run(&["-o", "json", "listen", "tone", "--duration", "2s"]);
    let late: Vec<String> = said(&late).lines().filter(|line| line.starts_with("title: ")).map(Into::into).collect();
    assert_eq!(late, ["title: Second song"]);
    interrupt(&publisher);
    publisher.wait().unwrap();
    assert_eq!(next_title(), None, "each is told once");
    assert!(listener.wait().unwrap().success());
}
