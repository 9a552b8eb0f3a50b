//! Where p2pctl has no sound card of its own: the machine's programs play and record in its place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Daemon, Start, hertz, pair, said, skip};

/// A card for ALSA's programs that plays into a file.
fn card(place: &Path) -> PathBuf {
    let config = place.join("alsa.conf");
    let out = place.join("played.raw");
    let text =
        format!("pcm.!default {{ type file file \"{}\" format raw slave.pcm {{ type null }} }}\n", out.display());
    fs::write(&config, text).unwrap();
    config
}

/// A command that finds these programs alone, and this card.
fn with(daemon: &Daemon, path: &Path, card: &Path, args: &[&str]) -> Command {
    let mut command = daemon.ctl(args);
    command.env("PATH", path).env("ALSA_CONFIG_PATH", card);
    command
}

#[test]
fn a_program_of_the_machine_plays_in_place_of_a_card() {
    let (place, a, b) = pair();
    let (path, config) = (place.path().join("bin"), card(place.path()));
    fs::create_dir(&path).unwrap();
    let listen = |args: &[&str]| with(&b, &path, &config, args).output().unwrap();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).start();

    let nothing = listen(&["-o", "card", "listen", "tone", "--wait", "20s", "--duration", "1s"]);
    assert_eq!(nothing.status.code(), Some(1));
    for words in ["none of pw-play, paplay, aplay, ffplay, mpv is installed", "`p2pctl listen STREAM -o FILE.opus`"] {
        assert!(said(&nothing).contains(words), "{}", said(&nothing));
    }

    let aplay = Command::new("sh").args(["-c", "command -v aplay"]).output().unwrap();
    if !aplay.status.success() {
        publisher.kill().unwrap();
        publisher.wait().unwrap();
        return skip("playing through aplay: alsa-utils is not installed");
    }
    let aplay = String::from_utf8(aplay.stdout).unwrap();
    std::os::unix::fs::symlink(aplay.trim(), path.join("aplay")).unwrap();
    // One that finds no sound server is passed over.
    std::os::unix::fs::symlink("/bin/false", path.join("paplay")).unwrap();
    let heard = listen(&["-o", "card", "listen", "tone", "--duration", "2s"]);
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    assert!(heard.status.success() && said(&heard).contains("playing through aplay"), "{}", said(&heard));
    let played = fs::read(place.path().join("played.raw")).unwrap();
    let samples: Vec<i16> = played.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]])).collect();
    assert!(samples.len() >= 96_000 - 1024, "{} samples", samples.len());
    assert!((hertz(&samples[24_000..90_000]) - 440.0).abs() < 1.0, "{}", hertz(&samples[24_000..90_000]));
}

/// Listens for so long, with a program named aplay that this script is.
fn listen_through(script: &str, duration: &str) -> std::process::Output {
    let (place, a, b) = pair();
    let (path, config) = (place.path().join("bin"), card(place.path()));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("aplay"), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path.join("aplay"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut publisher = a.ctl(&["publish-stream", "tone", "--tone", "440"]).spawn().unwrap();
    let args = ["-o", "card", "listen", "tone", "--wait", "20s", "--duration", duration];
    let heard = with(&b, &path, &config, &args).output().unwrap();
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    heard
}

#[test]
fn a_player_that_fails_at_its_end_fails_the_listener() {
    let heard = listen_through("/bin/cat >/dev/null; exit 1", "1s");
    assert_eq!(heard.status.code(), Some(1), "{}", said(&heard));
    assert!(said(&heard).contains("the program that was to play has failed"), "{}", said(&heard));
    assert!(said(&heard).contains("received 1.0 s"), "{}", said(&heard));
}

#[test]
fn a_player_that_ends_before_the_sound_fails_the_listener() {
    // It takes the first of three seconds.
    let heard = listen_through("/bin/head -c 96000 >/dev/null", "3s");
    assert_eq!(heard.status.code(), Some(1), "{}", said(&heard));
}

#[test]
fn what_a_player_is_too_slow_for_is_told() {
    let heard = listen_through("exec /bin/sleep 60", "5s");
    assert!(said(&heard).contains(" s of sound were left out: the program that plays is too slow"), "{}", said(&heard));
}
