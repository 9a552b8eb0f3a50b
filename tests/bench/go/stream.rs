//! Streams between two Go p2pd.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::{
    Go,
    wire::{Frames, HANDLE, Handle, OPEN, Open, Request, StreamInfo},
};
use crate::streams::{CHUNK, PROTOCOL};

/// Two of them; a program at the first one opens streams to one at the other.
pub struct Streams {
    a: Go,
    b: Go,
    inbound: UnixListener,
}

/// Code 400, length and path.
fn unix_multiaddr(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).ok().filter(|length| *length < 128).expect("a short path");
    [&[0x90, 0x03, length], path.as_bytes()].concat()
}

impl Streams {
    pub async fn start() -> Option<Self> {
        let (a, b) = (Go::start().await?, Go::start().await?);
        a.connect(&b).await;
        let socket = b.place.path().join("streams.sock");
        let inbound = UnixListener::bind(&socket).unwrap();
        let address = unix_multiaddr(socket.to_str().unwrap());
        let handle = Some(Handle { address, protocols: vec![PROTOCOL.into()], shared: false });
        b.ask(Request { kind: HANDLE, handle, ..Request::default() }).await;
        Some(Streams { a, b, inbound })
    }

    /// Opens a stream and sends so many bytes, until the other side has given one back.
    pub async fn transfer(&mut self, count: usize) {
        let open = Some(Open { peer: self.b.identity.id.clone(), protocols: vec![PROTOCOL.into()] });
        let sending = async {
            let (_, answers, mut writer) = self.a.ask(Request { kind: OPEN, open, ..Request::default() }).await;
            let chunk = [7; CHUNK];
            let mut left = count;
            while left > 0 {
                let part = left.min(CHUNK);
                writer.write_all(&chunk[..part]).await.unwrap();
                left -= part;
            }
            answers.bytes().read_u8().await.unwrap();
        };
        let receiving = async {
            let (reader, mut writer) = self.inbound.accept().await.unwrap().0.into_split();
            let mut frames = Frames::<StreamInfo>::new(reader);
            frames.next().await;
            let (mut bytes, mut chunk, mut got) = (frames.bytes(), [0; CHUNK], 0);
            while got < count {
                got += bytes.read(&mut chunk).await.unwrap();
            }
            writer.write_u8(7).await.unwrap();
            // The Go p2pd loses what is under way when one side closes.
            (bytes, writer)
        };
        tokio::join!(sending, receiving);
    }
}
