//! From a connection through a relay to a direct one, as <https://github.com/libp2p/specs/blob/master/relay/DCUtR.md> has it: whoever was
//! dialled through the relay opens a stream, both tell where others see them, and both dial at the same moment, so that each router takes the
//! other's packets for answers.
//!
//! Not the library's: it tells the addresses that were known when the connection through the relay began, none where identify
//! was slower; dials whatever the other side names, also this machine's own network; and keeps what it has tried for ever.

use std::{io, time::Duration};

use p2pd_core::{id::PeerId, multiaddr::Multiaddr as Address};
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::delimited;
use crate::{
    Handle, NetError,
    streams::{ByteStream, PeerStream, Reservation, StreamClass},
};

const PROTOCOL: &str = "/libp2p/dcutr";
/// Peers that are dialled at once, and how long the two may talk before.
const AT_ONCE: usize = 16;
const TALK: Duration = Duration::from_secs(10);
/// Largest message of the specification, and most addresses that are told or taken.
const MAX_MESSAGE: usize = 4096;
const MAX_ADDRESSES: usize = 8;
/// `HolePunch.Type`.
const CONNECT: i32 = 100;
const SYNC: i32 = 300;

/// Peers that wait to be asked.
pub(crate) const WAITING: usize = 64;

/// `HolePunch` of the specification.
#[derive(Clone, PartialEq, Message)]
struct HolePunch {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
}

/// Which side of the direct connection this is: who dials as the one that is dialled begins with what a listener says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dialler,
    Listener,
}

async fn write(stream: &mut ByteStream, kind: i32, addresses: &[Address]) -> io::Result<()> {
    let addresses =
        addresses.iter().take(MAX_ADDRESSES).map(|address| libp2p::Multiaddr::from(address.clone()).to_vec());
    delimited::write(stream, &HolePunch { kind, addresses: addresses.collect() }).await
}

/// Reads a message of this kind: the addresses in it.
async fn read(stream: &mut ByteStream, kind: i32) -> io::Result<Vec<Address>> {
    let message: HolePunch = delimited::read(stream, MAX_MESSAGE).await?;
    if message.kind != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of another kind"));
    }
    let read = message.addresses.into_iter().filter_map(|bytes| libp2p::Multiaddr::try_from(bytes).ok());
    let plain = read.map(Address::from).map(Address::without_peer).filter(Address::is_plain);
    Ok(plain.take(MAX_ADDRESSES).collect())
}

/// Agrees with a peer that dialled through a relay; returns when it is time to dial.
async fn ask(mut stream: ByteStream, own: &[Address]) -> io::Result<Vec<Address>> {
    let asked = Instant::now();
    write(&mut stream, CONNECT, own).await?;
    let addresses = read(&mut stream, CONNECT).await?;
    let there_and_back = asked.elapsed();
    write(&mut stream, SYNC, &[]).await?;
    // When the word has arrived.
    sleep(there_and_back / 2).await;
    Ok(addresses)
}

/// The other side of it.
async fn answer(mut stream: ByteStream, own: &[Address]) -> io::Result<Vec<Address>> {
    let addresses = read(&mut stream, CONNECT).await?;
    write(&mut stream, CONNECT, own).await?;
    read(&mut stream, SYNC).await?;
    Ok(addresses)
}

/// Agrees with peers on the moment to dial each other, those that have come through a relay and those that ask.
pub(crate) async fn run(net: Handle, mut came: mpsc::Receiver<PeerId>) {
    let reservation = Reservation { protocol: PROTOCOL, class: StreamClass::Messages, most: AT_ONCE, of_peer: 1 };
    let Ok(mut asks) = net.streams.reserve(reservation).await else { return };
    let mut talks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(peer) = came.recv() => {
                let net = net.clone();
                talks.spawn(async move { opened(&net, peer).await });
            }
            asked = asks.next() => {
                let Some(asked) = asked else { return };
                let net = net.clone();
                talks.spawn(async move { taken(&net, asked).await });
            }
            Some(_) = talks.join_next() => {}
        }
    }
}

async fn opened(net: &Handle, peer: PeerId) {
    let work = async {
        let own = net.reach.candidates().await?;
        let PeerStream { stream, .. } = net.streams.open(&peer, &[PROTOCOL.to_owned()]).await?;
        talked(net, &peer, ask(stream, &own).await, Role::Listener).await
    };
    if let Ok(Err(error)) = timeout(TALK, work).await {
        tracing::debug!(%peer, %error, "no direct connection was agreed on");
    }
}

async fn taken(net: &Handle, PeerStream { peer, stream, .. }: PeerStream) {
    let work = async {
        let own = net.reach.candidates().await?;
        talked(net, &peer, answer(stream, &own).await, Role::Dialler).await
    };
    if let Ok(Err(error)) = timeout(TALK, work).await {
        tracing::debug!(%peer, %error, "no direct connection was agreed on");
    }
}

async fn talked(net: &Handle, peer: &PeerId, told: io::Result<Vec<Address>>, role: Role) -> Result<(), NetError> {
    let fault = |error: io::Error| NetError::Unreachable { peer: peer.to_string(), fault: error.to_string() };
    let addresses = told.map_err(fault)?;
    net.reach.punch(peer, addresses, role).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn at(addresses: &[&str]) -> Vec<Address> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_hears_where_the_other_is() {
        let (one, other) = tokio::io::duplex(4096);
        let (here, there) =
            (at(&["/ip4/192.0.2.1/tcp/1"]), at(&["/ip4/192.0.2.2/udp/2/quic-v1", "/ip4/10.0.0.1/tcp/3"]));
        let (heard, answered) = tokio::join!(ask(Box::new(one), &here), answer(Box::new(other), &there));
        assert_eq!((heard.unwrap(), answered.unwrap()), (there, here));
    }

    #[tokio::test]
    async fn what_makes_no_sense_ends_the_talk() {
        for bytes in [&[0xff, 0xff, 0x7f][..], &[3, 8, 0xac, 2], &[2, 8, 100, 9, 9], &[4, 255, 255, 255, 255], &[5, 8]]
        {
            let (mut one, other) = tokio::io::duplex(4096);
            one.write_all(bytes).await.unwrap();
            one.shutdown().await.unwrap();
            assert!(answer(Box::new(other), &[]).await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn of_many_addresses_some_are_taken_and_of_bad_ones_none() {
        let many: Vec<_> =
            (0..50).map(|n| format!("/ip4/192.0.2.{n}/tcp/1").parse::<libp2p::Multiaddr>().unwrap()).collect();
        let made_up = libp2p::Multiaddr::empty().with(libp2p::multiaddr::Protocol::Dns4("a/ip4/127.0.0.1".into()));
        let addresses = [made_up].into_iter().chain(many).map(|a| a.to_vec()).chain([vec![255, 255]]).collect();
        let message = HolePunch { kind: CONNECT, addresses }.encode_length_delimited_to_vec();
        let (mut one, other) = tokio::io::duplex(8192);
        one.write_all(&message).await.unwrap();
        let mut other: ByteStream = Box::new(other);
        let read = read(&mut other, CONNECT).await.unwrap();
        assert_eq!((read.len(), read[0].to_string().as_str()), (MAX_ADDRESSES, "/ip4/192.0.2.0/tcp/1"));
    }
}
