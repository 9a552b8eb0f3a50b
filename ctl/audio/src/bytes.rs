//! Reads a source: finds where a decoder can start, then feeds it up to the end of the current file. Other files may
//! follow in the same bytes.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    AudioError,
    detect::{self, Found, Kind},
    wav::BEFORE,
};

/// Where bytes come from.
pub(crate) type Reader = Box<dyn Read + Send + Sync>;

/// How far to look for the next link of an Ogg stream joined in its middle. Stations begin a link with each song.
const JOIN: u64 = 4 << 20;
/// The first bytes of a FLAC file; the number is the length of its stream information.
const FLAC: [&[u8]; 2] = [b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22"];
const FLAC_HEAD: usize = 8;

/// Where the current file ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// At the end of the bytes.
    End,
    /// After so many more bytes.
    Bytes(u64),
    /// Where another FLAC file begins.
    Flac,
}

struct Inner {
    reader: Reader,
    /// Bytes of the file, where it is one.
    size: Option<u64>,
    read: u64,
    /// Read, but not given out.
    pending: Vec<u8>,
    ended: bool,
    until: Until,
}

/// The bytes of a source. Clones share one position.
#[derive(Clone)]
pub(crate) struct Bytes(Arc<Mutex<Inner>>);

impl Bytes {
    pub(crate) fn new(reader: Reader, size: Option<u64>) -> Self {
        let (pending, until) = (Vec::new(), Until::End);
        Bytes(Arc::new(Mutex::new(Inner { reader, size, read: 0, pending, ended: false, until })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes are left of a file.
    pub(crate) fn left(&self) -> Option<u64> {
        let inner = self.lock();
        Some(inner.size?.saturating_sub(inner.read - inner.pending.len() as u64))
    }

    /// Sets where readers see the end.
    pub(crate) fn limit(&self, until: Until) {
        self.lock().until = until;
    }

    /// How many bytes are missing of those that the header promised.
    pub(crate) fn missing(&self) -> u64 {
        match self.lock().until {
            Until::Bytes(left) => left,
            _ => 0,
        }
    }

    /// Goes to the next place where a decoder can begin; says which. `name` is for errors.
    pub(crate) fn seek(&self, name: &str) -> Result<Kind, AudioError> {
        let mut inner = self.lock();
        inner.until = Until::End;
        let end = inner.read.saturating_add(BEFORE);
        loop {
            if inner.read > end {
                return Err(AudioError::Unknown { path: name.into(), what: "no encoded sound in 64 MiB" });
            }
            let step = match detect::detect(&inner.pending, inner.ended) {
                Found::At(kind, at) => {
                    inner.pending.drain(..at);
                    return Ok(kind);
                }
                Found::Tag(length) => inner.leave_out(length.min(BEFORE as usize)),
                Found::More => inner.more(),
                Found::MiddleOfOgg => return inner.next_page(name),
                Found::Nothing(what) => {
                    let what = if inner.pending.is_empty() { "it is empty" } else { what };
                    return Err(AudioError::Unknown { path: name.into(), what });
                }
            };
            step.map_err(AudioError::io(name))?;
        }
    }
}

impl Inner {
    /// Reads what comes next.
    fn more(&mut self) -> io::Result<()> {
        let mut slice = [0; 16 * 1024];
        let got = loop {
            match self.reader.read(&mut slice) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        self.ended = got == 0;
        self.read += got as u64;
        self.pending.extend_from_slice(slice.get(..got).unwrap_or_default());
        Ok(())
    }

    fn leave_out(&mut self, count: usize) -> io::Result<()> {
        let here = count.min(self.pending.len());
        self.pending.drain(..here);
        self.read += io::copy(&mut self.reader.by_ref().take((count - here) as u64), &mut io::sink())?;
        Ok(())
    }

    /// Looks for the page that begins another link.
    fn next_page(&mut self, name: &str) -> Result<Kind, AudioError> {
        let end = self.read + JOIN;
        loop {
            let found = (0..self.pending.len()).find_map(|at| Some((at, detect::first_page(self.pending.get(at..)?)?)));
            if let Some((at, kind)) = found {
                self.pending.drain(..at);
                return Ok(kind);
            }
            if self.ended || self.read > end {
                let fault = "an Ogg stream that sent no header since it was joined".into();
                return Err(AudioError::Unsupported { path: name.into(), fault });
            }
            // The last bytes may be the start of a header.
            self.pending.drain(..self.pending.len().saturating_sub(64));
            self.more().map_err(AudioError::io(name))?;
        }
    }

    /// How many of the bytes that wait may be given out.
    fn given(&mut self) -> io::Result<usize> {
        match self.until {
            Until::End | Until::Bytes(1..) if self.pending.is_empty() => self.more()?,
            Until::Flac => {
                while !self.ended && self.pending.len() < 2 * FLAC_HEAD {
                    self.more()?;
                }
            }
            _ => {}
        }
        let all = self.pending.len();
        Ok(match self.until {
            Until::End => all,
            Until::Bytes(left) => all.min(usize::try_from(left).unwrap_or(usize::MAX)),
            Until::Flac => {
                let another = |bytes: &[u8]| FLAC.contains(&bytes);
                match self.pending.windows(FLAC_HEAD).position(another) {
                    Some(at) => at,
                    None if self.ended => all,
                    None => all + 1 - FLAC_HEAD,
                }
            }
        })
    }
}

impl Read for Bytes {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        let count = inner.given()?.min(room.len());
        let given = inner.pending.drain(..count);
        room.iter_mut().zip(given).for_each(|(room, byte)| *room = byte);
        if let Until::Bytes(left) = &mut inner.until {
            *left -= count as u64;
        }
        Ok(count)
    }
}
