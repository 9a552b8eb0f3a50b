//! Where sound comes from: files and pipes, encoded or as raw samples, and a tone. All give interleaved samples at 48 kHz,
//! or packets of Opus as they are.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::{
    AudioError,
    bytes::Bytes,
    decoding::{Container, Decoding},
    detect::Kind,
    input::Input,
    ogg_opus::OpusFile,
    samples::RATES,
};

pub use crate::{input::SampleFormat, samples::Samples};

/// What a source gives.
pub enum Source {
    /// Samples, to be encoded.
    Samples(Box<Samples>),
    /// Opus packets, passed through as they are.
    Packets(Box<OpusFile<Box<dyn Read + Send + Sync>>>),
}

impl Source {
    /// How many damaged places were left out so far.
    pub fn damaged(&self) -> u64 {
        match self {
            Source::Samples(samples) => samples.damaged(),
            Source::Packets(file) => file.damaged(),
        }
    }
}

/// Opens a file of any known format. Anything but a regular file is read as a pipe.
pub fn open(path: &Path) -> Result<Source, AudioError> {
    let name = path.display().to_string();
    let OpenFile { file, size } = file(path)?;
    let Some(size) = size else { return pipe(Box::new(file), &name) };
    let again = file.try_clone().map_err(AudioError::io(&name))?;
    let bytes = Bytes::new(Box::new(file), Some(size));
    if bytes.seek(&name)? == Kind::Mp4 {
        let mut file = again;
        io::Seek::rewind(&mut file).map_err(AudioError::io(&name))?;
        let decoding = Decoding::Container(Box::new(Container::mp4(file, &name)?));
        return Ok(Source::Samples(Box::new(Samples::new(Input::File(decoding), 1, &name)?)));
    }
    source(bytes, &name)
}

/// A file that has been opened.
pub struct OpenFile {
    /// The file, at its beginning.
    pub file: File,
    /// Its size in bytes, if it is a regular file.
    pub size: Option<u64>,
}

/// Opens a file. A directory is an error that says so.
pub fn file(path: &Path) -> Result<OpenFile, AudioError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(AudioError::io(&name))?;
    let meta = file.metadata().map_err(AudioError::io(&name))?;
    if meta.is_dir() {
        return Err(AudioError::Value(format!("{name} is a directory; name a file")));
    }
    Ok(OpenFile { file, size: meta.is_file().then_some(meta.len()) })
}

/// Reads an encoded stream from the next place where a decoder can start, as it may be joined in its middle. Waits for the
/// first bytes. `name` is for errors.
pub fn pipe(reader: Box<dyn Read + Send + Sync>, name: &str) -> Result<Source, AudioError> {
    source(Bytes::new(reader, None), name)
}

fn source(bytes: Bytes, name: &str) -> Result<Source, AudioError> {
    let kind = bytes.seek(name)?;
    if kind == Kind::Opus {
        let reader: Box<dyn Read + Send + Sync> = Box::new(bytes);
        return Ok(Source::Packets(Box::new(OpusFile::open(reader, name)?)));
    }
    let input = Input::File(Decoding::open(kind, bytes, name)?);
    Ok(Source::Samples(Box::new(Samples::new(input, 1, name)?)))
}

/// Raw interleaved samples from a pipe or a file.
pub fn raw(
    reader: Box<dyn Read + Send>,
    rate: u32,
    channels: u32,
    format: SampleFormat,
    name: &str,
) -> Result<Samples, AudioError> {
    if !(1..=2).contains(&channels) {
        return Err(AudioError::Value(format!("--channels {channels}: takes 1 or 2")));
    }
    if !RATES.contains(&rate) {
        return Err(AudioError::Value(format!("--rate {rate}: takes {} to {}", RATES.start(), RATES.end())));
    }
    Samples::new(Input::Raw { reader, rate, format, name: name.into() }, channels, name)
}

/// An endless sine at half amplitude.
pub fn tone(hertz: f32) -> Result<Samples, AudioError> {
    if !(1.0..=20_000.0).contains(&hertz) {
        return Err(AudioError::Value(format!("--tone {hertz}: takes 1 to 20000 Hz")));
    }
    Samples::new(Input::Tone { hertz, at: 0 }, 1, "tone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FRAME;
    use std::io::Cursor;

    fn wav(path: &Path, rate: u32, seconds: u32) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        for n in 0..rate * seconds {
            let sample = (n as f32 * 1000.0 * std::f32::consts::TAU / rate as f32).sin() * 16_000.0;
            writer.write_sample(sample as i16).unwrap();
        }
        writer.finalize().unwrap();
    }

    fn all(mut samples: Samples) -> Vec<f32> {
        let mut out = Vec::new();
        while let Some(frame) = samples.frame().unwrap() {
            out.extend(frame);
        }
        out
    }

    #[test]
    fn files_of_any_rate_come_out_at_48_khz() {
        let directory = tempfile::tempdir().unwrap();
        for rate in [48_000, 44_100, 8_000] {
            let path = directory.path().join(format!("{rate}.wav"));
            wav(&path, rate, 2);
            let Source::Samples(samples) = open(&path).unwrap() else { panic!("samples") };
            let out = all(*samples);
            assert_eq!(out.len(), 96_000, "{rate}");
            let rises = out[4800..90_000].windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
            assert!(rises.abs_diff(1775) <= 2, "{rate}: {rises} periods of 1 kHz");
        }
    }

    #[test]
    fn a_pipe_that_never_becomes_sound_is_not_read_for_ever() {
        /// Empty tags, one behind the other.
        struct Tags;
        impl Read for Tags {
            fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
                const TAG: &[u8] = b"ID3\x04\0\0\0\0\x1e\0";
                const LENGTH: usize = TAG.len() + (0x1e << 7);
                let tag = [TAG, &[0; LENGTH - TAG.len()]].concat();
                room.chunks_exact_mut(LENGTH).for_each(|room| room.copy_from_slice(&tag));
                Ok(room.len() / LENGTH * LENGTH)
            }
        }
        let Err(fault) = pipe(Box::new(Tags), "standard input") else { panic!("no sound") };
        assert!(fault.to_string().contains("no encoded sound in 64 MiB"), "{fault}");
    }

    #[test]
    fn what_is_no_sound_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letter.txt");
        for bytes in [&b""[..], b"Dear listeners,", &[0u8; 4096], b"RIFF\xff\xff\xff\xffWAVEfmt "] {
            std::fs::write(&path, bytes).unwrap();
            let error = open(&path).err().expect("refused").to_string();
            assert!(error.contains("letter.txt"), "{error}");
        }
        assert!(open(&directory.path().join("missing.wav")).is_err());
        assert!(open(directory.path()).is_err());
    }

    #[test]
    fn a_wav_that_lies_about_its_size_is_played_as_far_as_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lie.wav");
        for (whole, data) in [(u32::MAX, 0x7fff_ff00), (0, 0), (u32::MAX, u32::MAX), (96_036, 0)] {
            wav(&path, 48_000, 1);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[4..8].copy_from_slice(&u32::to_le_bytes(whole));
            bytes[40..44].copy_from_slice(&u32::to_le_bytes(data));
            std::fs::write(&path, bytes).unwrap();
            let Source::Samples(samples) = open(&path).unwrap() else { panic!("samples") };
            assert_eq!(all(*samples).len(), 48_000);
        }
    }

    #[test]
    fn a_cut_wav_is_told_with_the_length_of_its_header() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut.wav");
        for there in [2_000, 100_000] {
            wav(&path, 48_000, 2);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..there]).unwrap();
            let Source::Samples(mut samples) = open(&path).unwrap() else { panic!("samples") };
            let error = loop {
                match samples.frame() {
                    Ok(frame) => assert!(frame.is_some(), "no word of what is missing"),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.contains(" s of 2.0 s"), "{error}");
        }
    }

    #[test]
    fn a_rate_that_cannot_be_carried_is_told_with_the_file_and_costs_no_sound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("odd.wav");
        wav(&path, 300_000, 1);
        let odd = std::fs::read(&path).unwrap();
        let refused = open(&path).err().unwrap();
        assert!(
            matches!(refused, AudioError::Unsupported { .. }) && refused.to_string().contains("odd.wav"),
            "{refused}"
        );
        wav(&path, 44_100, 1);
        std::fs::write(&path, [std::fs::read(&path).unwrap(), odd].concat()).unwrap();
        let (heard, fault) = until_fault(open(&path).unwrap());
        assert_eq!(heard, 48_000);
        assert!(fault.contains("odd.wav") && fault.contains("300000"), "{fault}");
    }

    /// Samples up to a fault, and its words.
    fn until_fault(source: Source) -> (usize, String) {
        let Source::Samples(mut samples) = source else { panic!("samples") };
        let mut heard = 0;
        loop {
            match samples.frame() {
                Ok(Some(frame)) => heard += frame.len(),
                Ok(None) => panic!("no fault"),
                Err(fault) => return (heard, fault.to_string()),
            }
        }
    }

    #[test]
    fn a_source_that_cannot_be_read_any_more_is_told() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wav");
        wav(&path, 48_000, 1);
        let bytes = std::fs::read(&path).unwrap();
        let broken = |there: usize| pipe(Box::new(Cursor::new(bytes[..there].to_vec()).chain(Broken)), "the disk");
        let (heard, fault) = until_fault(broken(bytes.len()).unwrap());
        assert_eq!((heard, fault.as_str()), (48_000, "the disk: the disk is gone"));
        let in_the_header = broken(40).err().unwrap().to_string();
        assert_eq!(in_the_header, "the disk: the disk is gone");
    }

    #[test]
    fn what_is_cut_off_is_played_and_then_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("half.wav");
        wav(&path, 48_000, 2);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let Source::Samples(mut samples) = open(&path).unwrap() else { panic!("samples") };
        let mut frames = 0;
        let error = loop {
            match samples.frame() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => panic!("no word of what is missing"),
                Err(error) => break error.to_string(),
            }
        };
        assert!((48..=50).contains(&frames), "{frames}");
        assert!(error.contains("half.wav") && error.contains("1.0 s of 2.0 s"), "{error}");
    }

    #[test]
    fn a_pipe_is_read_as_what_it_begins_like() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wav");
        wav(&path, 44_100, 1);
        let through = |bytes: Vec<u8>| pipe(Box::new(Cursor::new(bytes)), "a pipe");
        let Source::Samples(samples) = through(std::fs::read(&path).unwrap()).unwrap() else { panic!("samples") };
        assert_eq!(all(*samples).len(), 48_000);
        let mut encoder = crate::codec::OpusEncoder::new(1, None).unwrap();
        let mut writer = crate::ogg_opus::OpusWriter::new(Vec::new(), 1, encoder.pre_skip).unwrap();
        let packet = encoder.encode(&vec![0.1; FRAME]).unwrap();
        writer.packet(packet.clone()).unwrap();
        let Source::Packets(mut packets) = through(writer.finish().unwrap()).unwrap() else { panic!("packets") };
        assert_eq!(packets.next_packet().unwrap(), Some(packet));
        for bytes in [vec![1; 2_000], b"Dear listeners,".to_vec(), Vec::new()] {
            let refused = through(bytes).err().expect("refused").to_string();
            assert!(refused.starts_with("a pipe: "), "{refused}");
        }
    }

    #[test]
    fn raw_samples_are_read_to_the_last() {
        let bytes: Vec<u8> = (0..2000i16).flat_map(|n| n.to_le_bytes()).collect();
        let samples = raw(Box::new(Cursor::new(bytes)), 48_000, 1, SampleFormat::S16, "a pipe").unwrap();
        assert_eq!(all(samples).len(), 2000);
    }
}
