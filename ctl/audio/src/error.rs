//! The one error of this crate.

/// Why sound could not be read, encoded or written.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The file cannot be read at all.
    #[error("{path}: {fault}")]
    Io {
        /// Which file.
        path: String,
        /// What the system says.
        fault: std::io::Error,
    },
    /// It ends before its header says. All sound present was decoded.
    #[error("{path}: it ends after {there:.1} s of {said:.1} s; it was cut off, get it whole")]
    Truncated {
        /// Which file.
        path: String,
        /// Seconds of sound in it.
        there: f64,
        /// Seconds that its header says.
        said: f64,
    },
    /// It breaks off. All sound present was decoded.
    #[error("{path}: it breaks off after {there:.1} s; it was cut off, get it whole")]
    Cut {
        /// Which file.
        path: String,
        /// Seconds of sound in it.
        there: f64,
    },
    /// Its format is not known.
    #[error("{path}: {what}; takes WAV, FLAC, MP3, Vorbis, AAC/M4A and Ogg/Opus")]
    Unknown {
        /// Which file.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Its format is known, but its content is not supported.
    #[error("{path}: {fault}; takes WAV, FLAC, MP3, Vorbis, AAC/M4A and Ogg/Opus")]
    Unsupported {
        /// Which file.
        path: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A value is out of its range.
    #[error("{0}")]
    Value(String),
    /// The codec's own words.
    #[error("codec: {0}")]
    Codec(String),
}

impl AudioError {
    /// True if all sound present was decoded and only the end is missing. Listeners ignore it: a live stream may end
    /// anywhere.
    pub fn is_early_end(&self) -> bool {
        matches!(self, AudioError::Truncated { .. } | AudioError::Cut { .. })
    }

    pub(crate) fn io(path: &str) -> impl FnOnce(std::io::Error) -> AudioError + '_ {
        move |fault| AudioError::Io { path: path.to_owned(), fault }
    }
}
