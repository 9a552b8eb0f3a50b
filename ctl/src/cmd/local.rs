//! Local ends of tunnels: TCP ports and Unix sockets.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A local listener: `unix:PATH`, or `HOST:PORT`.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) async fn bind(address: &str) -> anyhow::Result<Self> {
        let failed = || format!("cannot listen on {address}; takes HOST:PORT or unix:PATH");
        Ok(match address.strip_prefix("unix:") {
            Some(path) => {
                // A socket that nobody answers on is left over.
                if std::os::unix::net::UnixStream::connect(path).is_err() && is_socket(Path::new(path)) {
                    fs::remove_file(path)?;
                }
                Listener::Unix(UnixListener::bind(path).with_context(failed)?)
            }
            None => Listener::Tcp(TcpListener::bind(address).await.with_context(failed)?),
        })
    }

    pub(super) fn place(&self) -> anyhow::Result<String> {
        Ok(match self {
            Listener::Tcp(listener) => listener.local_addr()?.to_string(),
            Listener::Unix(listener) => {
                listener.local_addr()?.as_pathname().unwrap_or(Path::new("?")).display().to_string()
            }
        })
    }

    pub(super) async fn accept(&self) -> anyhow::Result<(Reader, Writer)> {
        Ok(match self {
            Listener::Tcp(listener) => split_tcp(listener.accept().await?.0),
            Listener::Unix(listener) => split_unix(listener.accept().await?.0),
        })
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Connects to a local address, as [`Listener`] takes them.
pub(super) async fn connect(address: &str) -> anyhow::Result<(Reader, Writer)> {
    let failed = || format!("cannot connect to {address}");
    Ok(match address.strip_prefix("unix:") {
        Some(path) => split_unix(UnixStream::connect(path).await.with_context(failed)?),
        None => split_tcp(TcpStream::connect(address).await.with_context(failed)?),
    })
}

fn split_tcp(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Box::new(reader), Box::new(writer))
}

fn split_unix(stream: UnixStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Box::new(reader), Box::new(writer))
}
