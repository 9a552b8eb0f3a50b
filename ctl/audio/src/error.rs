//! The one error of this crate.

/// Why sound could not be read, encoded or written.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The file cannot be read at all.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It can be read but holds no sound that we know.
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
    pub(crate) fn io(path: &str) -> impl FnOnce(std::io::Error) -> AudioError + '_ {
        move |source| AudioError::Io { path: path.to_owned(), source }
    }
}
