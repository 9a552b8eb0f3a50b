//! What a caller hears for whom there is no place: HTTP/2's own frame for it, GOAWAY with a reason, which every gRPC client shows.

use std::{io::Write, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// An empty SETTINGS frame, with which a server has to begin.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Type of a GOAWAY frame; no flags, stream 0, no stream taken up, ENHANCE_YOUR_CALM.
const GOAWAY: [u8; 14] = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
/// How long a caller has to read it.
const HEARD: Duration = Duration::from_secs(1);

fn frames(why: &str) -> Vec<u8> {
    let why = why.get(..1024).unwrap_or(why).as_bytes();
    let length = u16::try_from(why.len().saturating_add(8)).unwrap_or(u16::MAX).to_be_bytes();
    [&SETTINGS[..], &[0], &length, &GOAWAY, why].concat()
}

/// Tells a caller why there is no place, and closes once that is read. Bytes of the caller's that nobody has read would make a reset of
/// the end, before the words are read.
pub(super) async fn turn_away(mut stream: UnixStream, why: &str) {
    let told = async {
        stream.write_all(&frames(why)).await?;
        stream.shutdown().await?;
        let mut said = [0; 1024];
        while stream.read(&mut said).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(HEARD, told).await;
}

/// The same at once, for whom nobody can wait.
pub(super) fn turn_away_now(stream: UnixStream, why: &str) {
    // Not blocking: a new connection has room for it.
    let _ = stream.into_std().and_then(|mut stream| stream.write(&frames(why)));
}
