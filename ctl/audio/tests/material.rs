//! Sound as people have it, made by the programs that people make it with: joined, cut, damaged, through a pipe.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use p2pd_audio::{
    AudioError,
    codec::OpusDecoder,
    source::{self, Source},
};
use tempfile::TempDir;

/// A place to make files in; nothing where one of the programs is not installed.
fn place(programs: &[&str]) -> Option<TempDir> {
    for program in programs {
        if Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            let _ = writeln!(std::io::stderr(), "SKIP {program}: not installed");
            return None;
        }
    }
    Some(tempfile::tempdir().unwrap())
}

/// Runs a line of shell in the place.
fn sh(place: &TempDir, line: &str) {
    let output = Command::new("sh").args(["-ec", line]).current_dir(place.path()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tone of two seconds at half amplitude.
fn tone(place: &TempDir, name: &str, hertz: u32, rate: u32, channels: u32) -> PathBuf {
    sh(place, &format!("sox -n -r {rate} -c {channels} -b 16 {name} synth 2 sine {hertz} vol 0.5"));
    place.path().join(name)
}

/// What was heard: samples of each channel, and how it ended.
struct Heard {
    channels: u32,
    samples: Vec<f32>,
    damaged: u64,
    fault: Option<AudioError>,
}

impl Heard {
    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.channels) / 48_000.0
    }

    /// Frequency around a place, in seconds from the start; of the first channel.
    fn hertz(&self, at: f64) -> f64 {
        let from = (at * 48_000.0) as usize * self.channels as usize;
        let mono: Vec<f32> = self.samples[from..].iter().step_by(self.channels as usize).take(9_600).copied().collect();
        mono.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count() as f64 * 5.0
    }

    fn level(&self) -> f32 {
        (self.samples.iter().map(|s| s * s).sum::<f32>() / self.samples.len() as f32).sqrt()
    }

    /// Two tones of two seconds each, one after the other.
    fn is_both(&self, first: f64, second: f64) {
        assert!(self.fault.is_none(), "{:?}", self.fault);
        assert!((self.seconds() - 4.0).abs() < 0.15, "{} s", self.seconds());
        for (at, hertz) in [(0.3, first), (1.5, first), (2.5, second), (3.5, second)] {
            assert!((self.hertz(at) - hertz).abs() < 12.0, "{} Hz at {at} s, not {hertz}", self.hertz(at));
        }
    }
}

fn hear(source: Source) -> Heard {
    match source {
        Source::Samples(mut samples) => {
            let mut heard = Heard { channels: samples.channels, samples: Vec::new(), damaged: 0, fault: None };
            loop {
                let frame = samples.frame();
                heard.damaged = samples.damaged();
                match frame {
                    Ok(Some(frame)) => heard.samples.extend(frame),
                    Ok(None) => return heard,
                    Err(fault) => return Heard { fault: Some(fault), ..heard },
                }
            }
        }
        Source::Packets(mut packets) => {
            let mut decoder = OpusDecoder::new(packets.channels).unwrap();
            let mut heard = Heard { channels: packets.channels, samples: Vec::new(), damaged: 0, fault: None };
            loop {
                let packet = packets.next_packet();
                heard.damaged = packets.damaged();
                match packet {
                    Ok(Some(packet)) => heard.samples.extend(decoder.decode(&packet).unwrap()),
                    Ok(None) => return heard,
                    Err(fault) => return Heard { fault: Some(fault), ..heard },
                }
            }
        }
    }
}

fn file(path: &Path) -> Heard {
    hear(source::open(path).unwrap())
}

fn pipe(bytes: Vec<u8>) -> Heard {
    hear(source::pipe(Box::new(Cursor::new(bytes)), "standard input").unwrap())
}

const ALL: [&str; 10] =
    ["a.mp3", "a.aac", "a.m4a", "a.flac", "a.ogg", "a.opus", "a.wav", "ext24.wav", "rf64.wav", "float.wav"];

/// One tone of 440 Hz, in stereo, in every format.
fn formats() -> Option<TempDir> {
    let place = place(&["sox", "lame", "ffmpeg", "opusenc"])?;
    tone(&place, "a.wav", 440, 44_100, 2);
    sh(
        &place,
        "ff() { ffmpeg -v error -i a.wav \"$@\"; }
        lame --quiet -b 64 a.wav a.mp3; ff -c:a aac a.aac; ff -c:a aac -movflags +faststart a.m4a; ff a.flac
        sox a.wav a.ogg; opusenc --quiet a.wav a.opus; ff -c:a pcm_s24le ext24.wav; ff -rf64 always rf64.wav
        ff -c:a pcm_f32le float.wav",
    );
    Some(place)
}

#[test]
fn every_format_is_heard_from_a_file_and_from_a_pipe() {
    let Some(place) = formats() else { return };
    for name in ALL {
        let path = place.path().join(name);
        for heard in [file(&path), pipe(fs::read(&path).unwrap())] {
            assert!(heard.fault.is_none() && heard.damaged == 0, "{name}: {:?}, {}", heard.fault, heard.damaged);
            assert!((heard.seconds() - 2.0).abs() < 0.08, "{name}: {} s", heard.seconds());
            assert!((heard.hertz(1.0) - 440.0).abs() < 6.0, "{name}: {} Hz", heard.hertz(1.0));
            assert!((heard.level() - 0.35).abs() < 0.02, "{name}: {}", heard.level());
        }
    }
}

#[test]
fn what_may_be_joined_in_its_middle_is_heard_from_there() {
    let Some(place) = formats() else { return };
    for name in ["a.mp3", "a.aac"] {
        let bytes = fs::read(place.path().join(name)).unwrap();
        let heard = pipe(bytes[bytes.len() / 2 + 77..].to_vec());
        assert_eq!(heard.damaged, 0, "{name}");
        assert!((heard.seconds() - 1.0).abs() < 0.2 && (heard.hertz(0.5) - 440.0).abs() < 6.0, "{name}");
    }
    // Ogg at the next link of its chain.
    for name in ["a.ogg", "a.opus"] {
        let bytes = fs::read(place.path().join(name)).unwrap();
        let heard = pipe([&bytes[bytes.len() / 2..], &bytes].concat());
        assert_eq!(heard.damaged, 0, "{name}");
        assert!((heard.seconds() - 2.0).abs() < 0.1 && (heard.hertz(0.5) - 440.0).abs() < 6.0, "{name}");
    }
}

#[test]
fn what_is_joined_of_other_rates_and_channels_goes_on() {
    let Some(place) = place(&["sox", "lame", "ffmpeg", "opusenc"]) else { return };
    tone(&place, "a.wav", 400, 48_000, 1);
    tone(&place, "b.wav", 800, 44_100, 2);
    sh(
        &place,
        "for n in a b; do
            lame --quiet $n.wav $n.mp3; ffmpeg -v error -i $n.wav -c:a aac $n.aac; sox $n.wav $n.flac; sox $n.wav $n.ogg
            opusenc --quiet $n.wav $n.opus; sox $n.wav -b 24 $n-24.wav
            ffmpeg -v error -i $n.wav -c:a libmp3lame -id3v2_version 3 -metadata title=x $n-tagged.mp3
        done",
    );
    for name in [".mp3", "-tagged.mp3", ".aac", ".flac", ".ogg", ".opus", ".wav", "-24.wav"] {
        let bytes = |n: &str| fs::read(place.path().join(format!("{n}{name}"))).unwrap();
        for (first, second, channels) in [("a", "b", 1), ("b", "a", 2)] {
            let joined = [bytes(first), bytes(second)].concat();
            let path = place.path().join(format!("joined{name}"));
            fs::write(&path, &joined).unwrap();
            for heard in [file(&path), pipe(joined)] {
                println!("{first}{name}, then {second}: {} s", heard.seconds());
                assert_eq!((heard.channels, heard.damaged), (channels, 0));
                if first == "a" { heard.is_both(400.0, 800.0) } else { heard.is_both(800.0, 400.0) }
            }
        }
    }
}

#[test]
fn forty_bad_bytes_cost_their_own_sound() {
    let Some(place) = formats() else { return };
    sh(&place, "ffmpeg -v error -stream_loop 4 -i a.wav long.wav");
    for name in ALL {
        let long = place.path().join(format!("long-{name}"));
        let more = match name {
            "rf64.wav" => "-rf64 always",
            "ext24.wav" => "-c:a pcm_s24le",
            "a.opus" => "-c:a libopus",
            "a.ogg" => "-c:a libvorbis",
            "a.m4a" => "-movflags +faststart",
            _ => "",
        };
        sh(&place, &format!("ffmpeg -v error -i long.wav {more} {}", long.display()));
        let mut bytes = fs::read(&long).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 40].fill(0x55);
        fs::write(&long, &bytes).unwrap();
        for heard in [file(&long), pipe(bytes)] {
            assert!(heard.fault.is_none(), "{name}: {:?}", heard.fault);
            assert!(heard.seconds() > 8.4, "{name}: {} s of 10", heard.seconds());
            // In samples without a code nothing is known of it; MP3 and AAC decode most of what is put in.
            let expected = match name {
                "a.flac" | "a.ogg" | "a.opus" => 1..=1,
                "a.mp3" | "a.aac" | "a.m4a" => 0..=2,
                _ => 0..=0,
            };
            assert!(expected.contains(&heard.damaged), "{name}: {} damaged places", heard.damaged);
            assert!((heard.hertz(heard.seconds() - 0.5) - 440.0).abs() < 6.0, "{name}");
        }
    }
}

#[test]
fn a_frame_without_its_header_is_one_damaged_place() {
    let Some(place) = formats() else { return };
    for name in ["a.mp3", "a.aac"] {
        let mut bytes = fs::read(place.path().join(name)).unwrap();
        // All headers have these bits in common.
        let common = |bytes: &[u8]| [bytes[0], bytes[1], bytes[2] & 0xfc];
        let first = common(&bytes);
        let header = [bytes.len() / 4, bytes.len() / 2]
            .map(|from| from + bytes[from..].windows(3).position(|bytes| common(bytes) == first).unwrap());
        header.iter().for_each(|at| bytes[*at] = 0);
        assert_eq!(pipe(bytes).damaged, 2, "{name}");
    }
}

#[test]
fn a_hole_in_a_flac_is_not_its_end() {
    let Some(place) = formats() else { return };
    sh(&place, "ffmpeg -v error -stream_loop 4 -i a.wav long.flac");
    let mut bytes = fs::read(place.path().join("long.flac")).unwrap();
    let (from, to) = (bytes.len() * 4 / 10, bytes.len() * 5 / 10);
    bytes[from..to].fill(0x55);
    let heard = pipe(bytes);
    assert!(heard.fault.is_none(), "{:?}", heard.fault);
    assert!((8.3..9.2).contains(&heard.seconds()), "{} s", heard.seconds());
    assert_eq!(heard.damaged, 1);
}

#[test]
fn an_m4a_with_its_index_at_the_end_is_read_from_a_file_alone() {
    let Some(place) = formats() else { return };
    sh(&place, "ffmpeg -v error -i a.m4a -c copy late.m4a");
    let path = place.path().join("late.m4a");
    assert!((file(&path).seconds() - 2.0).abs() < 0.08);
    let refused = source::pipe(Box::new(fs::File::open(path).unwrap()), "x").err().expect("refused").to_string();
    assert!(refused.contains("faststart"), "{refused}");
}

#[test]
fn a_file_that_was_cut_off_says_so() {
    let Some(place) = formats() else { return };
    // Some pages of it.
    sh(&place, "sox -n -r 48000 noise.wav synth 8 pinknoise; sox noise.wav a.ogg");
    for name in ["a.mp3", "a.flac", "a.wav", "rf64.wav", "a.ogg", "a.opus"] {
        let path = place.path().join(name);
        let whole = file(&path).seconds();
        let bytes = fs::read(&path).unwrap();
        let cut = bytes[..bytes.len() * 3 / 4].to_vec();
        fs::write(&path, &cut).unwrap();
        for heard in [file(&path), pipe(cut)] {
            let told = heard.fault.as_ref().map(ToString::to_string).unwrap_or_default();
            assert!(told.contains("it was cut off"), "{name}: {told}");
            assert!((0.45..0.9).contains(&(heard.seconds() / whole)), "{name}: {} s of {whole}", heard.seconds());
        }
    }
}

#[test]
fn what_programs_write_into_a_pipe_is_whole() {
    let Some(place) = formats() else { return };
    for line in [
        "lame --quiet a.wav -",
        "lame --quiet - - <a.wav",
        "ffmpeg -v error -i a.wav -f mp3 -",
        "ffmpeg -v error -i a.wav -f wav -",
        "ffmpeg -v error -i a.wav -f flac -",
        "ffmpeg -v error -i a.wav -f adts -",
        "ffmpeg -v error -i a.wav -c:a libvorbis -f ogg -",
        "ffmpeg -v error -i a.wav -c:a aac -movflags frag_keyframe+empty_moov -f mp4 -",
        "opusenc --quiet a.wav -",
        "sox a.wav -t wav -",
        "sox a.wav -t flac -",
        "sox a.wav -t mp3 -",
    ] {
        let told = Command::new("sh").args(["-c", line]).current_dir(place.path()).output().unwrap();
        let heard = pipe(told.stdout);
        assert!(heard.fault.is_none(), "{line}: {:?}", heard.fault);
        assert!((heard.seconds() - 2.0).abs() < 0.1, "{line}: {} s", heard.seconds());
    }
}

#[test]
fn the_gain_of_an_opus_header_is_applied() {
    let Some(place) = formats() else { return };
    let whole = fs::read(place.path().join("a.opus")).unwrap();
    let plain = pipe(whole.clone());
    let with_gain = |decibel: i16| {
        let mut bytes = whole.clone();
        let head = bytes.windows(8).position(|bytes| bytes == b"OpusHead").unwrap();
        bytes[head + 16..head + 18].copy_from_slice(&(decibel * 256).to_le_bytes());
        set_checksum(&mut bytes);
        bytes
    };
    for decibel in [-6, -20, 3] {
        let heard = pipe(with_gain(decibel));
        let ratio = 20.0 * (heard.level() / plain.level()).log10();
        assert!((ratio - f32::from(decibel)).abs() < 0.3, "{ratio} dB");
        assert!((heard.seconds() - plain.seconds()).abs() < 0.02);
    }
    // A later link has its own.
    let heard = pipe([whole.clone(), with_gain(-20)].concat());
    let (loud, soft) = heard.samples.split_at(heard.samples.len() / 2);
    let level = |samples: &[f32]| samples.iter().map(|s| s.abs()).sum::<f32>();
    assert!(level(soft) < level(loud) * 0.13);
}

#[test]
fn other_channel_mappings_are_refused() {
    let Some(place) = place(&["sox", "opusenc"]) else { return };
    tone(&place, "six.wav", 440, 48_000, 6);
    sh(&place, "opusenc --quiet six.wav six.opus; sox six.wav -c 2 two.wav; opusenc --quiet two.wav two.opus");
    let refused = source::open(&place.path().join("six.opus")).err().expect("refused").to_string();
    assert!(refused.contains("6 channels"), "{refused}");
    let mut bytes = fs::read(place.path().join("two.opus")).unwrap();
    let head = bytes.windows(8).position(|bytes| bytes == b"OpusHead").unwrap();
    bytes[head + 18] = 255;
    set_checksum(&mut bytes);
    let refused = source::pipe(Box::new(Cursor::new(bytes)), "x").err().expect("refused").to_string();
    assert!(refused.contains("mapping family 255"), "{refused}");
}

/// Puts the checksum of the first page right.
fn set_checksum(bytes: &mut [u8]) {
    let segments = usize::from(bytes[26]);
    let length = 27 + segments + bytes[27..27 + segments].iter().map(|n| usize::from(*n)).sum::<usize>();
    bytes[22..26].fill(0);
    let sum = bytes[..length].iter().fold(0u32, |mut sum, byte| {
        sum ^= u32::from(*byte) << 24;
        (0..8).for_each(|_| sum = sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 });
        sum
    });
    bytes[22..26].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_tag_as_large_as_a_cover_does_not_hide_the_sound() {
    let Some(place) = formats() else { return };
    sh(
        &place,
        "ffmpeg -v error -f lavfi -i color=s=900x900,noise=alls=100:allf=t -frames:v 1 cover.png
        ffmpeg -v error -i a.mp3 -i cover.png -map 0 -map 1 -c copy -id3v2_version 3 covered.mp3",
    );
    let path = place.path().join("covered.mp3");
    let covered = fs::read(&path).unwrap();
    let mp3 = fs::read(place.path().join("a.mp3")).unwrap();
    // Bytes in a tag that look like frames are none.
    let filled = [b"ID3\x03\0\0\0\x60\0\0".as_slice(), &mp3.repeat(200)[..0x60 << 14], &mp3].concat();
    for bytes in [covered, filled] {
        assert!(bytes.len() > 1 << 20);
        fs::write(&path, &bytes).unwrap();
        for heard in [file(&path), pipe(bytes)] {
            assert!((heard.seconds() - 2.0).abs() < 0.08, "{} s", heard.seconds());
        }
    }
}

#[test]
fn a_wav_whose_riff_size_is_off_is_whole() {
    let Some(place) = formats() else { return };
    let path = place.path().join("a.wav");
    for off in [-8i64, -4, 4, 4_000] {
        let mut bytes = fs::read(&path).unwrap();
        let size = u32::try_from(bytes.len() as i64 - 8 + off).unwrap();
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        for heard in [file(&path), pipe(bytes)] {
            assert!(heard.fault.is_none() && (heard.seconds() - 2.0).abs() < 0.001, "{off}: {} s", heard.seconds());
        }
    }
}

#[test]
fn a_recording_of_five_gibibytes_is_known_to_others() {
    let Some(place) = place(&["ffmpeg"]) else { return };
    let path = place.path().join("day.wav");
    // A hole of a file: what is skipped takes no room.
    struct Hole(fs::File);
    impl Write for Hole {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match bytes.len() {
                0..100 => self.0.write_all(bytes)?,
                more => drop(std::io::Seek::seek(&mut self.0, std::io::SeekFrom::Current(more as i64))?),
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl std::io::Seek for Hole {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let mut writer = p2pd_audio::wav::WavWriter::new(Hole(fs::File::create(&path).unwrap()), 2, 48_000).unwrap();
    let second = vec![0; 96_000];
    (0..28_000).for_each(|_| writer.write(&second).unwrap());
    writer.refresh().unwrap();
    let Hole(file) = writer.into_inner();
    file.set_len(80 + 28_000 * 192_000).unwrap();
    let line = "ffprobe -v error -show_entries format=duration -of csv=p=0 day.wav";
    let told = Command::new("sh").args(["-c", line]).current_dir(place.path()).output().unwrap();
    let seconds: f64 = String::from_utf8_lossy(&told.stdout).trim().parse().unwrap();
    assert!((seconds - 28_000.0).abs() < 1.0, "{seconds} s");
}

#[test]
fn no_damage_stops_the_reader() {
    let Some(place) = formats() else { return };
    let mut state = 12_345u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for name in ALL {
        let whole = fs::read(place.path().join(name)).unwrap();
        for round in 0..20 {
            let mut bytes = whole.clone();
            // Anywhere, or in the headers.
            let reach = if round % 2 == 0 { bytes.len() } else { 200 };
            for _ in 0..12 {
                let (at, length) = (next() % reach, 1 + next() % 40);
                bytes[at..].iter_mut().take(length).for_each(|byte| *byte = next() as u8);
            }
            let path = place.path().join(name).with_extension("damaged");
            fs::write(&path, &bytes).unwrap();
            for source in [source::open(&path), source::pipe(Box::new(Cursor::new(bytes)), "x")].into_iter().flatten() {
                assert!(hear(source).seconds() < 60.0, "{name}");
            }
        }
    }
}

#[test]
fn numbers_that_are_no_sound_are_silent() {
    let bytes: Vec<u8> = (0..48_000).flat_map(|n| [f32::NAN, f32::INFINITY, 1e30, 0.1][n % 4].to_le_bytes()).collect();
    let samples = source::raw(Box::new(Cursor::new(bytes)), 44_100, 1, source::SampleFormat::F32, "x").unwrap();
    let heard = hear(Source::Samples(Box::new(samples)));
    assert!(heard.samples.iter().all(|sample| sample.is_finite()) && (heard.seconds() - 48.0 / 44.1).abs() < 0.01);
}
