//! Requests and answers over protocol streams: one stream a call. Each message is its length as an unsigned varint, then
//! its bytes, as libp2p's other protocols have it. The caller keeps its side open; closing it before the answer cancels.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use p2pd_core::{id::PeerId, multiaddr::Multiaddr};
use p2pd_net::{ByteStream, PeerStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{Claim, Handler, Streams, StreamsError};
use crate::lock;

/// Largest request or answer, in bytes.
pub const MAX_CALL: usize = 1_000_000;
/// Calls that one program answers at once; what comes beyond is reset.
const MAX_CALLS: usize = 256;
/// How long a peer may take to send its request, and to take the answer.
const TRANSFER: Duration = Duration::from_secs(10);

async fn write(stream: &mut ByteStream, message: &[u8]) -> io::Result<()> {
    let mut length = Vec::new();
    prost::encoding::encode_varint(message.len() as u64, &mut length);
    stream.write_all(&length).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

async fn read(stream: &mut ByteStream) -> io::Result<Bytes> {
    let mut head = Vec::new();
    while head.last().is_none_or(|byte| byte & 0x80 != 0) {
        head.push(stream.read_u8().await?);
        if head.len() > 4 {
            break;
        }
    }
    let length = prost::encoding::decode_varint(&mut head.as_slice()).map_err(io::Error::other)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_CALL);
    let length = length.ok_or_else(|| io::Error::other(format!("a message of more than {MAX_CALL} bytes")))?;
    // Grows with what comes, not with what was announced.
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message).await?;
    if message.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(message.into()) }
}

/// A peer's answer, the protocol that it came on, and the peer's address.
pub struct Answered {
    /// What it answered.
    pub data: Bytes,
    /// On which protocol.
    pub protocol: String,
    /// Where it is.
    pub address: Multiaddr,
}

impl Streams {
    /// Asks a peer, on the first of these protocols that it speaks. Dropping this cancels.
    pub async fn call(&self, peer: &PeerId, protocols: &[String], request: &[u8]) -> Result<Answered, StreamsError> {
        if request.len() > MAX_CALL {
            return Err(StreamsError::Field { field: "data", fault: format!("takes at most {MAX_CALL} bytes") });
        }
        let PeerStream { mut stream, protocol, address, .. } = self.open_stream(peer, protocols).await?;
        write(&mut stream, request).await.map_err(StreamsError::Reset)?;
        let data = read(&mut stream).await.map_err(StreamsError::Reset)?;
        let _ = stream.shutdown().await;
        Ok(Answered { data, protocol, address })
    }

    /// Answers what peers ask on a protocol.
    pub async fn serve(&self, claim: Claim) -> Result<Serving, StreamsError> {
        let handler = self.handle_protocol(claim).await?;
        let (told, events) = mpsc::channel(MAX_CALLS);
        Ok(Serving { owner: self.clone(), handler, open: Arc::default(), told, events, calls: JoinSet::new() })
    }
}

/// What a program that serves is told.
#[derive(Debug)]
pub enum Served {
    /// A peer asks.
    Call {
        /// By which it is answered.
        number: u64,
        /// Who asks.
        peer: PeerId,
        /// From where.
        address: Multiaddr,
        /// What.
        data: Bytes,
    },
    /// Nobody waits for this answer any more.
    Cancelled(u64),
}

type Open = Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>;

/// A protocol whose calls a program answers, until dropped; calls without an answer are then reset.
pub struct Serving {
    owner: Streams,
    handler: Handler,
    open: Open,
    told: mpsc::Sender<Served>,
    events: mpsc::Receiver<Served>,
    calls: JoinSet<()>,
}

impl Serving {
    /// What comes next; `None` when the network has stopped.
    pub async fn next(&mut self) -> Option<Served> {
        loop {
            tokio::select! {
                arrived = self.handler.next() => {
                    let number = arrived?.number;
                    if let Ok(waiting) = self.owner.take_stream(number)
                        && self.calls.len() < MAX_CALLS
                    {
                        self.calls.spawn(answer(number, waiting, self.open.clone(), self.told.clone()));
                    }
                }
                Some(event) = self.events.recv() => return Some(event),
                Some(_) = self.calls.join_next() => {}
            }
        }
    }

    /// Answers a call. One that is over meanwhile needs none.
    pub fn answer(&self, number: u64, data: Bytes) {
        if let Some(call) = lock(&self.open).remove(&number) {
            let _ = call.send(data);
        }
    }

    /// Resets a call.
    pub fn refuse(&self, number: u64) {
        lock(&self.open).remove(&number);
    }
}

/// Carries one call.
async fn answer(number: u64, waiting: PeerStream, open: Open, told: mpsc::Sender<Served>) {
    let PeerStream { peer, address, mut stream, .. } = waiting;
    let Ok(Ok(data)) = timeout(TRANSFER, read(&mut stream)).await else { return };
    let (sender, answer) = oneshot::channel();
    lock(&open).insert(number, sender);
    if told.send(Served::Call { number, peer, address, data }).await.is_err() {
        return;
    }
    tokio::select! {
        data = answer => {
            if let Ok(data) = data {
                let sent = async {
                    write(&mut stream, &data).await?;
                    stream.shutdown().await?;
                    // Until the caller has closed, too, a reset would overtake the answer.
                    stream.read(&mut [0]).await
                };
                let _ = timeout(TRANSFER, sent).await;
            }
        }
        // The caller has nothing more to say but that it is gone.
        _ = stream.read_u8() => {
            lock(&open).remove(&number);
            let _ = told.send(Served::Cancelled(number)).await;
        }
    }
}
