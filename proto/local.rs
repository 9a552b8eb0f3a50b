//! Local ends of tunnels: `HOST:PORT`, or `unix:PATH`.

use std::{fs, io, os::unix::fs::FileTypeExt, path::Path};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// A connection to a local address.
pub type LocalStream = Either<TcpStream, UnixStream>;

/// What listens on a local address.
#[derive(Debug)]
pub enum LocalListener {
    /// On `HOST:PORT`.
    Tcp(TcpListener),
    /// On `unix:PATH`.
    Unix(UnixListener),
}

/// Whether this looks like a local address; what would be right if not.
pub fn check(address: &str) -> Result<(), String> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    let fine = match address.strip_prefix("unix:") {
        Some(path) => !path.is_empty(),
        None => port.is_some_and(|port| port.parse::<u16>().is_ok()),
    };
    if fine { Ok(()) } else { Err(format!("`{address}` is no local address; takes HOST:PORT or unix:PATH")) }
}

impl LocalListener {
    /// Listens. A socket file that nobody answers on is left over, and replaced.
    pub async fn bind(address: &str) -> io::Result<Self> {
        match address.strip_prefix("unix:") {
            Some(path) => {
                if is_socket(Path::new(path)) && UnixStream::connect(path).await.is_err() {
                    fs::remove_file(path)?;
                }
                Ok(LocalListener::Unix(UnixListener::bind(path)?))
            }
            None => Ok(LocalListener::Tcp(TcpListener::bind(address).await?)),
        }
    }

    /// Where it listens.
    pub fn place(&self) -> io::Result<String> {
        Ok(match self {
            LocalListener::Tcp(listener) => listener.local_addr()?.to_string(),
            LocalListener::Unix(listener) => {
                listener.local_addr()?.as_pathname().unwrap_or(Path::new("?")).display().to_string()
            }
        })
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> io::Result<LocalStream> {
        Ok(match self {
            LocalListener::Tcp(listener) => Either::Left(listener.accept().await?.0),
            LocalListener::Unix(listener) => Either::Right(listener.accept().await?.0),
        })
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Ends a connection as one that broke, so that nobody takes what came for all there is. A Unix socket has no word for that.
pub fn reset(stream: LocalStream) {
    if let Either::Left(stream) = stream {
        // Then it ends as others do.
        let _ = stream.set_zero_linger();
    }
}

/// Connects to a local address.
pub async fn connect(address: &str) -> io::Result<LocalStream> {
    Ok(match address.strip_prefix("unix:") {
        Some(path) => Either::Right(UnixStream::connect(path).await?),
        None => Either::Left(TcpStream::connect(address).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_words() {
        for good in ["127.0.0.1:22", "localhost:0", "[::1]:8080", "unix:/run/x.sock"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", "22", ":22", "host", "host:port", "host:70000", "unix:"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
