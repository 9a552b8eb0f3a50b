//! A file that is being recorded. It is NAME.partial from the start and plays at any time; once finished it is renamed to
//! NAME, and only then replaces an older file.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use crate::error::{Exit, fail};

/// How often it is synced to disk, so that a loss of power costs little.
const SYNC: Duration = Duration::from_secs(5);
/// Most partial files of that name, left by listeners that were killed, before it gives up.
const OTHERS: u32 = 1_000;

pub(super) struct Recording {
    file: Arc<File>,
    /// Where it is, and where it is to be.
    partial: PathBuf,
    path: PathBuf,
    /// Whether any sound was written.
    pub(super) heard: bool,
    /// Dropped to end the thread that syncs it to disk.
    _syncing: Sender<()>,
}

impl Recording {
    /// Creates a recording for this path, or for the target of a link.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(fail(Exit::Usage, format!("-o {}: it is there and is no file; name another", path.display())));
        }
        let (file, partial) = beside(path)?;
        let file = Arc::new(file);
        let (_syncing, ended) = mpsc::channel::<()>();
        let (synced, directory) = (file.clone(), directory(path).to_owned());
        // A slow disk must not hold up the listener.
        thread::spawn(move || {
            sync_directory(&directory);
            while ended.recv_timeout(SYNC) == Err(RecvTimeoutError::Timeout) {
                let _ = synced.sync_data();
            }
        });
        Ok(Recording { file, partial, path: path.to_owned(), heard: false, _syncing })
    }

    /// Appends all bytes, or none.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = self.stream_position()?;
        self.write_all(bytes).inspect_err(|_| {
            let _ = self.file.set_len(length);
            let _ = self.seek(SeekFrom::Start(length));
        })
    }

    /// Ends it. `failed` says that the call failed: the file then keeps its partial name. Returns its path. If nothing was
    /// heard and the call failed or an older file exists, removes it and returns an empty string.
    pub(super) fn finish(self, failed: bool, ended: io::Result<()>) -> anyhow::Result<String> {
        if !self.heard && (failed || self.path.exists()) {
            std::fs::remove_file(&self.partial)?;
            return Ok(String::new());
        }
        let ended = ended.and(self.file.sync_all());
        if failed {
            return Ok(self.partial.display().to_string());
        }
        ended.and_then(|()| std::fs::rename(&self.partial, &self.path)).map_err(|error| self.fault(&error))?;
        sync_directory(directory(&self.path));
        Ok(self.path.display().to_string())
    }

    /// The error of a failed write, in words.
    pub(super) fn fault(&self, error: &io::Error) -> anyhow::Error {
        fail(
            Exit::Failed,
            format!("cannot write {}: {error}; what came before is in {}", self.path.display(), self.partial.display()),
        )
    }
}

impl Write for Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.file).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recording {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self.file).seek(to)
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new name survives a loss of power only once its directory is synced.
fn sync_directory(directory: &Path) {
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

/// Creates the partial file beside the final one.
fn beside(path: &Path) -> anyhow::Result<(File, PathBuf)> {
    let names = (0..OTHERS).map(|n| if n == 0 { "partial".into() } else { format!("{n}.partial") });
    for name in names {
        let partial = path.with_added_extension(name);
        match File::create_new(&partial) {
            Ok(file) => return Ok((file, partial)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(fail(
                    Exit::Failed,
                    format!("cannot write in {}: {}", directory(path).display(), error.kind()),
                ));
            }
        }
    }
    let left = path.with_added_extension("partial");
    Err(fail(
        Exit::Failed,
        format!("cannot write {}: it and {OTHERS} others are there already; remove them", left.display()),
    ))
}
