//! What was heard is there, however `listen` ends, and plays.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hound::WavReader;
use p2pd_audio::ogg_opus::OpusFile;

use crate::support::{
    self, Daemon, Program, SmallDisk, Start, hertz, interrupt, pair, ready, said, samples, signal, until,
};

/// A daemon, and a tone on it.
fn tone() -> (tempfile::TempDir, Daemon, Program) {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let (publisher, _) = ready(a.ctl(&["publish-stream", "tone", "--tone", "440"]));
    (place, a, publisher)
}

fn partial(path: &Path) -> PathBuf {
    path.with_added_extension("partial")
}

/// Seconds of a recording, which must be a tone of 440 Hz if it is a WAV.
fn seconds(path: &Path) -> f64 {
    if path.to_str().unwrap().contains(".opus") {
        let mut file = OpusFile::open(fs::File::open(path).unwrap(), "x").unwrap();
        return std::iter::from_fn(|| file.next_packet().unwrap()).count() as f64 / 50.0;
    }
    let samples = samples(path);
    assert!((hertz(&samples[4_800..]) - 440.0).abs() < 1.0);
    samples.len() as f64 / 48_000.0
}

fn wait_for(path: &Path, bytes: u64) {
    until("the recording", || fs::metadata(path).is_ok_and(|meta| meta.len() > bytes).then_some(()));
}

#[test]
fn a_recording_replaces_only_regular_files() {
    let (place, a, mut publisher) = tone();
    let at = |name: &str| place.path().join(name);
    let listen = |path: &Path| a.run(&["listen", "tone", "-o", path.to_str().unwrap(), "--duration", "1s"]);
    nix::unistd::mkfifo(&at("fifo.wav"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(at("directory.wav")).unwrap();
    for name in ["fifo.wav", "directory.wav"] {
        let before = fs::metadata(at(name)).unwrap().file_type();
        let refused = listen(&at(name));
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains("is there and is no file; name another"), "{}", said(&refused));
        assert_eq!(fs::metadata(at(name)).unwrap().file_type(), before);
    }
    fs::write(at("target.wav"), "old").unwrap();
    std::os::unix::fs::symlink("target.wav", at("link.wav")).unwrap();
    assert!(listen(&at("link.wav")).status.success());
    assert!(fs::symlink_metadata(at("link.wav")).unwrap().is_symlink());
    assert_eq!(seconds(&at("target.wav")), 1.0);
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn what_was_heard_survives_every_end_of_its_listener() {
    let (place, a, mut publisher) = tone();
    for (end, name) in
        [("-KILL", "k.wav"), ("-KILL", "k.opus"), ("-HUP", "h.wav"), ("-HUP", "h.opus"), ("-TERM", "t.wav")]
    {
        let path = place.path().join(name);
        let mut listener = a.ctl(&["listen", "tone", "-o", path.to_str().unwrap()]).start();
        wait_for(&partial(&path), if name.ends_with("wav") { 200_000 } else { 16_000 });
        assert!(!path.exists(), "it has its name once it is whole");
        signal(&listener, end);
        let success = listener.wait().unwrap().success();
        let (kept, good) = if end == "-KILL" { (partial(&path), false) } else { (path.clone(), true) };
        assert_eq!(success, good, "{end}");
        assert!(seconds(&kept) > 0.9, "{end}: {} s of {name}", seconds(&kept));
        assert_eq!(partial(&path).exists(), !good);
    }
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn under_nohup_a_listener_stays_when_the_terminal_closes() {
    let (place, a, mut publisher) = tone();
    let path = place.path().join("night.wav");
    let listen = a.ctl(&["listen", "tone", "-o", path.to_str().unwrap()]);
    let mut nohup = Command::new("nohup");
    nohup.arg(listen.get_program()).args(listen.get_args()).stdout(Stdio::piped());
    let mut listener = nohup.stderr(Stdio::piped()).start();
    wait_for(&partial(&path), 100_000);
    signal(&listener, "-HUP");
    wait_for(&partial(&path), 300_000);
    interrupt(&listener);
    assert!(listener.wait().unwrap().success());
    assert!(seconds(&path) > 2.0);
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn an_older_recording_stays_until_there_is_a_better_one() {
    let (place, a, mut publisher) = tone();
    let path = place.path().join("day.wav");
    fs::write(&path, b"the old one").unwrap();
    fs::write(partial(&path), b"of one who was killed").unwrap();
    // Who hears nothing leaves it as it is.
    let (place_b, _, b) = pair();
    let silent = b.run(&["listen", "nothing", "--wait", "100ms", "-o", path.to_str().unwrap()]);
    assert_eq!(silent.status.code(), Some(5));
    assert_eq!(fs::read(&path).unwrap(), b"the old one");
    drop(place_b);
    let mut listener = a.ctl(&["listen", "tone", "-o", path.to_str().unwrap()]).start();
    wait_for(&place.path().join("day.wav.1.partial"), 100_000);
    assert_eq!(fs::read(&path).unwrap(), b"the old one");
    interrupt(&listener);
    assert!(listener.wait().unwrap().success());
    assert!(seconds(&path) > 0.9);
    assert_eq!(fs::read(partial(&path)).unwrap(), b"of one who was killed");
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn a_full_disk_ends_the_recording_and_keeps_it() {
    let (place, a, mut publisher) = tone();
    let Some(disk) = SmallDisk::mount(place.path().join("disk"), "256k") else {
        return support::skip("a full disk: only root can mount a small one");
    };
    for (name, least) in [("full.wav", 2.0), ("full.opus", 10.0)] {
        let path = disk.0.join(name);
        if name.ends_with("opus") {
            // A few seconds of Opus fill what is left.
            fs::write(disk.0.join("fill"), vec![0; 128 * 1024]).unwrap();
        }
        let heard = a.run(&["listen", "tone", "-o", path.to_str().unwrap(), "--duration", "60s"]);
        assert_eq!(heard.status.code(), Some(1), "{}", said(&heard));
        let (told, kept) = (said(&heard), partial(&path));
        assert!(told.contains("No space left") && told.contains(kept.to_str().unwrap()), "{told}");
        assert!(seconds(&kept) > least, "{} s of {name}", seconds(&kept));
        fs::remove_file(kept).unwrap();
    }
    interrupt(&publisher);
    publisher.wait().unwrap();
}

#[test]
fn two_recordings_joined_by_cat_play() {
    let (place, a, mut publisher) = tone();
    let record = |name: &str| {
        let path = place.path().join(name);
        a.good(&["listen", "tone", "-o", path.to_str().unwrap(), "--duration", "1s"]);
        fs::read(path).unwrap()
    };
    let (first, second) = (record("1.opus"), record("2.opus"));
    assert_ne!(first[14..18], second[14..18], "each has a serial number of its own");
    let both = place.path().join("both.opus");
    fs::write(&both, [first, second].concat()).unwrap();
    assert!((seconds(&both) - 2.0).abs() < 0.1, "{} s", seconds(&both));
    interrupt(&publisher);
    publisher.wait().unwrap();
    let wav = place.path().join("both.wav");
    let Ok(decoded) = Command::new("opusdec").arg("--quiet").args([&both, &wav]).status() else {
        return support::skip("recordings joined by cat: opusdec is not installed");
    };
    assert!(decoded.success());
    assert!((f64::from(WavReader::open(wav).unwrap().duration()) / 48_000.0 - 2.0).abs() < 0.1);
}
