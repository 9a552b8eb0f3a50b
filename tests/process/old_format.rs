//! Streams in the old JSON format: joined late, decoded, kept as they come.

use std::{fs, io::Read, path::Path, process::Stdio};

use crate::support::{self, Start, hertz, in_time, interrupt, pair, said, samples};

/// Until a listener who was there from the start has this many Ogg pages.
fn pages(mut sound: impl Read, count: usize) {
    let (mut heard, mut slice) = (Vec::new(), [0; 4096]);
    while heard.windows(4).filter(|bytes| bytes == b"OggS").count() < count {
        let got = sound.read(&mut slice).unwrap();
        assert!(got > 0, "the stream ended");
        heard.extend_from_slice(&slice[..got]);
    }
}

#[test]
fn who_comes_late_hears_the_sound_and_its_title() {
    let (place, a, b) = pair();
    let title = place.path().join("title");
    fs::write(&title, "First song\n").unwrap();
    let publish = ["publish-stream", "old", "--tone", "440", "--wire", "json", "--title-file", title.to_str().unwrap()];
    let mut publisher = a.ctl(&publish).stderr(Stdio::null()).start();
    b.good(&["wait", "stream=old", "--timeout", "20s"]);
    let mut early = b.ctl(&["listen", "old", "--raw"]).start();
    let sound = early.stdout.take().unwrap();
    in_time("four pages", move || pages(sound, 4));
    drop(early);

    let (wav, opus) = (place.path().join("late.wav"), place.path().join("late.opus"));
    let late = |file: &Path| b.ctl(&["listen", "old", "-o", file.to_str().unwrap(), "--duration", "3s"]).start();
    let (to_wav, to_opus) = (late(&wav), late(&opus));
    fs::write(&title, "Second song\n").unwrap();
    for listener in [to_wav, to_opus] {
        let heard = listener.wait_with_output().unwrap();
        assert!(heard.status.success(), "{}", said(&heard));
        let said = said(&heard);
        assert!(said.contains("(json)") && said.contains("title: Second song"), "{said}");
    }
    interrupt(&publisher);
    publisher.wait().unwrap();

    let sound = samples(&wav);
    assert!(sound.len().abs_diff(3 * 48_000) <= 960, "{} samples", sound.len());
    assert!((hertz(&sound[4_800..]) - 440.0).abs() < 1.0);
    let mut kept = p2pd_audio::ogg_opus::OpusFile::open(fs::File::open(&opus).unwrap(), "late").unwrap();
    let packets = std::iter::from_fn(|| kept.next_packet().unwrap()).count();
    assert!(packets.abs_diff(150) <= 1, "{packets} packets");
}

/// Layer III, 128 kbit/s, 44.1 kHz, one channel; what says nothing of its samples is silence.
fn silent_mp3(frames: usize) -> Vec<u8> {
    let mut frame = vec![0; 417];
    frame[..4].copy_from_slice(&[0xff, 0xfb, 0x90, 0xc0]);
    frame.repeat(frames)
}

#[test]
fn an_mp3_goes_out_as_it_is_and_is_decoded_or_kept() {
    const FRAMES: usize = 300;
    let (place, a, b) = pair();
    let source = place.path().join("show.mp3");
    fs::write(&source, silent_mp3(FRAMES)).unwrap();
    let listen = |more: &[&str]| b.ctl(&[&["listen", "show", "--wait", "20s"], more].concat()).start();
    let (kept, heard) = (place.path().join("kept.mp3"), place.path().join("heard.wav"));
    let listeners = [listen(&["-o", kept.to_str().unwrap()]), listen(&["-o", heard.to_str().unwrap()])];
    let refused = listen(&["-o", place.path().join("not.opus").to_str().unwrap()]);
    let published = a.run(&["publish-stream", "show", source.to_str().unwrap(), "--wire", "json"]);
    assert!(published.status.success(), "{}", said(&published));
    for listener in listeners {
        let output = listener.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(fs::read(kept).unwrap(), silent_mp3(FRAMES));
    let sound = samples(&heard);
    // 1152 samples a frame; the first fills the decoder.
    let expected = FRAMES * 1152 * 480 / 441;
    assert!(sound.len().abs_diff(expected) < 5_000 && sound.iter().all(|s| *s == 0), "{} for {expected}", sound.len());
    let refused = refused.wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("not Opus"), "{}", said(&refused));
}

#[test]
fn a_stream_that_ends_in_the_middle_of_its_file_is_heard_in_peace() {
    let (place, a, b) = pair();
    let source = place.path().join("show.mp3");
    let made = "sox -n -r 44100 -c 1 -b 16 show.wav synth 20 sine 440 vol 0.5 && lame --quiet -b 64 show.wav show.mp3";
    if !support::make(place.path(), &["sox", "lame"], made) {
        return;
    }
    let heard = place.path().join("heard.wav");
    let listener = b.ctl(&["listen", "show", "--wait", "20s", "-o", heard.to_str().unwrap()]).start();
    let publish = ["publish-stream", "show", source.to_str().unwrap(), "--wire", "json", "--duration", "6s"];
    assert!(a.run(&publish).status.success());
    let listened = listener.wait_with_output().unwrap();
    assert!(listened.status.success(), "{}", said(&listened));
    let sound = samples(&heard);
    assert!(sound.len() > 3 * 48_000 && sound.len() < 15 * 48_000, "{} samples", sound.len());
    assert!((hertz(&sound[48_000..96_000]) - 440.0).abs() < 1.0);
}

#[test]
fn an_ogg_stream_without_a_header_leaves_no_file() {
    let (place, a, b) = pair();
    let kept = place.path().join("kept.ogg");
    let path = kept.to_str().unwrap();
    let publish = ["publish-stream", "old", "--tone", "440", "--wire", "json", "--duration", "4s"];
    let publisher = a.ctl(&publish).spawn().unwrap();
    // The second header comes after five seconds.
    let mut early = b.ctl(&["listen", "old", "--raw", "--wait", "20s"]).spawn().unwrap();
    pages(early.stdout.as_mut().unwrap(), 3);
    early.kill().unwrap();
    early.wait().unwrap();
    let late = b.run(&["listen", "old", "--raw", "-o", path]);
    publisher.wait_with_output().unwrap();
    assert_eq!(late.status.code(), Some(1), "{}", said(&late));
    let told = said(&late);
    assert!(told.contains("nothing was written: no header") && !told.contains("written to"), "{told}");
    assert!(!kept.exists() && !kept.with_added_extension("partial").exists());
}
