//! Streams of bare rust-libp2p, in processes of their own: each is a request of so many bytes, whose answer is one byte.

use std::io;

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt},
    request_response::{self, Event, Message, ProtocolSupport},
    swarm::SwarmEvent,
};
use tokio::process::Child;

use crate::{
    bare::{listening, other_process, swarm},
    streams::{CHUNK, PROTOCOL},
};

#[derive(Clone)]
struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    /// How many bytes.
    type Request = u64;
    type Response = ();

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        count: u64,
    ) -> io::Result<()> {
        let chunk = [7; CHUNK];
        let mut left = count;
        while left > 0 {
            let part = left.min(CHUNK as u64);
            io.write_all(&chunk[..part as usize]).await?;
            left -= part;
        }
        io.close().await
    }

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<u64> {
        let (mut chunk, mut got) = ([0; CHUNK], 0);
        loop {
            match io.read(&mut chunk).await? {
                0 => return Ok(got),
                part => got += part as u64,
            }
        }
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        (): (),
    ) -> io::Result<()> {
        io.write_all(b".").await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()> {
        io.read_exact(&mut [0]).await
    }
}

type Behaviour = request_response::Behaviour<Codec>;

fn asking() -> Swarm<Behaviour> {
    let protocol = (StreamProtocol::new(PROTOCOL), ProtocolSupport::Full);
    let patient = request_response::Config::default().with_request_timeout(std::time::Duration::from_secs(60));
    swarm(|_| Behaviour::with_codec(Codec, [protocol], patient))
}

/// The process that reads: prints where it listens.
pub async fn serve() {
    let mut swarm = asking();
    println!("{}", listening(&mut swarm).await);
    loop {
        if let SwarmEvent::Behaviour(Event::Message { message: Message::Request { channel, .. }, .. }) =
            swarm.select_next_some().await
        {
            swarm.behaviour_mut().send_response(channel, ()).unwrap();
        }
    }
}

/// The one that writes.
pub struct Bare {
    swarm: Swarm<Behaviour>,
    peer: PeerId,
    _other: Child,
}

impl Bare {
    pub async fn start() -> Self {
        let (other, mut lines) = other_process("bare-stream", "");
        let address: Multiaddr = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        let mut swarm = asking();
        swarm.dial(address).unwrap();
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
                return Bare { swarm, peer: peer_id, _other: other };
            }
        }
    }

    pub async fn transfer(&mut self, count: usize) {
        self.swarm.behaviour_mut().send_request(&self.peer, count as u64);
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Message { message: Message::Response { .. }, .. }) => return,
                SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => panic!("{error}"),
                _ => {}
            }
        }
    }
}
