//! Has peers test own addresses, one after the other.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use p2pd_core::{
    address_scope::Scope,
    id::PeerId,
    multiaddr::{Multiaddr as Address, Transport},
    reachability::Answer,
};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};

use super::wire::{
    self, DIAL_BACK, DIAL_REQUEST, DialBack, DialBackResponse, DialDataResponse, DialRequest, Kind, dial_status, status,
};
use crate::{
    Handle,
    peers::table::PeerInfo,
    reach::delimited,
    streams::{ByteStream, PeerStream, Reservation, StreamClass},
};

/// How often it is looked for something to test.
const LOOK: Duration = Duration::from_secs(1);
/// How long a test may take: the peer may wait, and dials.
const TEST: Duration = Duration::from_secs(40);
/// How long the word of having dialled and the dial may be apart.
const APART: Duration = Duration::from_secs(3);
/// How long whoever dials may take to say why.
const BACK: Duration = Duration::from_secs(5);
/// Most bytes that a peer may have sent to it, so that it is of no use to have it dial others (100,000 of the specification).
const MAX_DATA: u64 = 100_000;
/// Bytes of each message of those.
const DATA: usize = 4096;

/// What peers that dial have to say, and over what they have to come, while one is asked.
#[derive(Clone, Default)]
struct Expected {
    dial: Arc<Mutex<Option<(u64, Transport)>>>,
    came: Arc<Notify>,
}

impl Expected {
    fn set(&self, dial: Option<(u64, Transport)>) {
        *self.dial.lock().unwrap_or_else(PoisonError::into_inner) = dial;
    }

    fn is(&self, nonce: u64, transport: Transport) -> bool {
        *self.dial.lock().unwrap_or_else(PoisonError::into_inner) == Some((nonce, transport))
    }
}

/// Has own addresses tested, until the network has stopped.
pub(crate) async fn run(net: Handle) {
    let reservation = Reservation { protocol: DIAL_BACK, class: StreamClass::Bulk, most: 8, of_peer: 2 };
    let Ok(dials) = net.streams.reserve(reservation).await else { return };
    let expected = Expected::default();
    let hear = dials.serve(|dialled| {
        let expected = expected.clone();
        async move { drop(timeout(BACK, hear_dial(dialled, &expected)).await) }
    });
    let test = async {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Ok(due) = net.reach.due().await else { return };
            let Some((address, refused_by)) = due else { continue };
            let Ok(peers) = net.peers.list().await else { return };
            let tester = choose(&peers, &refused_by);
            let answer = match &tester {
                Some(tester) => Some(ask(&net, tester, &address, &expected).await),
                None => None,
            };
            tracing::debug!(%address, tester = tester.as_ref().map(ToString::to_string), ?answer, "an own address was tested");
            if net.reach.tested(address, tester.zip(answer)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = test => {}
    }
}

/// A peer to ask, out in the world, since one of the own network dials from behind the router, and one that was dialled, since whoever
/// comes here to lie may have many names; one that has not said that the address is not reached, if there is any.
fn choose(peers: &[PeerInfo], refused_by: &[PeerId]) -> Option<PeerId> {
    let may = |info: &&PeerInfo| {
        info.protocols.iter().any(|protocol| protocol == DIAL_REQUEST)
            && info
                .connections
                .iter()
                .any(|one| !one.inbound && !one.address.is_circuit() && one.address.reach() == Scope::World)
    };
    let (refused, others): (Vec<_>, Vec<_>) =
        peers.iter().filter(may).partition(|info| refused_by.contains(&info.peer));
    let among = if others.is_empty() { refused } else { others };
    let count = u64::try_from(among.len()).ok().filter(|count| *count > 0)?;
    let chosen = usize::try_from(random() % count).ok()?;
    among.get(chosen).map(|info| info.peer.clone())
}

/// The standard library makes the keys of its hashers at random.
fn random() -> u64 {
    RandomState::new().hash_one(()).max(1)
}

async fn ask(net: &Handle, tester: &PeerId, address: &Address, expected: &Expected) -> Answer {
    let nonce = random();
    expected.set(Some((nonce, address.transport())));
    let work = async {
        let opened = net.streams.open(tester, &[DIAL_REQUEST.to_owned()]).await;
        let PeerStream { stream, .. } = opened.map_err(io::Error::other)?;
        let answer = request(stream, address, nonce).await?;
        // Whatever it says, it has dialled where its number came.
        io::Result::Ok(match answer {
            Answer::NotReached => Answer::NotReached,
            Answer::Reached | Answer::Nothing if timeout(APART, expected.came.notified()).await.is_ok() => {
                Answer::Reached
            }
            Answer::Reached | Answer::Nothing => Answer::Nothing,
        })
    };
    let answer = timeout(TEST, work).await.map_err(io::Error::from).flatten();
    expected.set(None);
    // A dial that came too late is not one of the next test.
    let _ = futures::FutureExt::now_or_never(expected.came.notified());
    answer.unwrap_or_else(|error| {
        tracing::debug!(peer = %tester, %error, "an own address could not be tested");
        Answer::Nothing
    })
}

/// Has a peer dial an address, as far as it says.
async fn request(mut stream: ByteStream, address: &Address, nonce: u64) -> io::Result<Answer> {
    let addresses = vec![libp2p::Multiaddr::from(address.clone()).to_vec()];
    wire::send(&mut stream, Kind::Request(DialRequest { addresses, nonce })).await?;
    let mut paid = false;
    loop {
        match wire::receive(&mut stream).await? {
            Kind::DataRequest(asked) if !paid && asked.bytes <= MAX_DATA && asked.address == 0 => {
                paid = true;
                let mut left = usize::try_from(asked.bytes).unwrap_or_default();
                while left > 0 {
                    let data = vec![0; left.min(DATA)];
                    left = left.saturating_sub(data.len());
                    wire::send(&mut stream, Kind::DataResponse(DialDataResponse { data })).await?;
                }
            }
            Kind::Response(answer) => {
                return Ok(match (answer.status, answer.dial_status) {
                    (status::OK, dial_status::OK) => Answer::Reached,
                    (status::OK, dial_status::DIAL_ERROR) => Answer::NotReached,
                    _ => Answer::Nothing,
                });
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a message out of turn")),
        }
    }
}

/// Hears why a peer has dialled. What comes from this network, through a relay, over another transport, or on a connection that was dialled
/// here, proves nothing.
async fn hear_dial(
    PeerStream { address, has_dialled, mut stream, .. }: PeerStream,
    expected: &Expected,
) -> io::Result<()> {
    let DialBack { nonce } = delimited::read(&mut stream, wire::MAX_MESSAGE).await?;
    let proves = has_dialled && !address.is_circuit() && address.reach() == Scope::World;
    if proves && expected.is(nonce, address.transport()) {
        expected.came.notify_one();
    }
    delimited::write(&mut stream, &DialBackResponse { status: 0 }).await
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;
    use crate::reach::autonat::wire::{DialDataRequest, DialResponse};

    const AT: &str = "/ip4/192.0.2.1/tcp/4001";

    /// What is made of a peer that wants so many bytes, if any, and then answers so.
    async fn told(wants: Option<u64>, status: i32, dial_status: i32) -> io::Result<Answer> {
        let (one, other) = duplex(1 << 17);
        let answer = async {
            let mut other: ByteStream = Box::new(other);
            let Kind::Request(asked) = wire::receive(&mut other).await.unwrap() else { panic!("a request") };
            assert_eq!((asked.addresses.len(), asked.nonce), (1, 7));
            if let Some(bytes) = wants {
                wire::send(&mut other, Kind::DataRequest(DialDataRequest { address: 0, bytes })).await?;
                let mut got = 0;
                while got < bytes {
                    let Kind::DataResponse(DialDataResponse { data }) = wire::receive(&mut other).await? else {
                        panic!("data")
                    };
                    got += data.len() as u64;
                }
                assert_eq!(got, bytes);
            }
            let answer = DialResponse { status, address: 0, dial_status };
            wire::send(&mut other, Kind::Response(answer)).await
        };
        let address = AT.parse().unwrap();
        let (said, _) = tokio::join!(request(Box::new(one), &address, 7), answer);
        said
    }

    #[tokio::test]
    async fn what_a_tester_says_is_told_apart() {
        for (status, dial_status, answer) in [
            (status::OK, dial_status::OK, Answer::Reached),
            (status::OK, dial_status::DIAL_ERROR, Answer::NotReached),
            (status::OK, dial_status::DIAL_BACK_ERROR, Answer::Nothing),
            (status::DIAL_REFUSED, 0, Answer::Nothing),
            (status::REQUEST_REJECTED, dial_status::DIAL_ERROR, Answer::Nothing),
            (status::INTERNAL_ERROR, dial_status::OK, Answer::Nothing),
        ] {
            assert_eq!(told(None, status, dial_status).await.unwrap(), answer, "{status} {dial_status}");
        }
        assert_eq!(told(Some(MAX_DATA), status::OK, dial_status::OK).await.unwrap(), Answer::Reached, "it is paid");
        assert!(told(Some(MAX_DATA + 1), status::OK, dial_status::OK).await.is_err(), "that is too dear");
    }

    #[tokio::test]
    async fn only_a_dial_from_the_world_with_the_right_number_proves_something() {
        let from = |address: &str| (address.parse::<Address>().unwrap(), true, 7);
        let relayed = format!("/ip4/192.0.2.9/tcp/1/p2p/{}/p2p-circuit", libp2p::PeerId::random());
        for ((address, has_dialled, nonce), proves) in [
            (from(AT), true),
            (from("/ip4/10.0.0.1/tcp/1"), false),
            (from("/ip4/127.0.0.1/tcp/1"), false),
            (from(&relayed), false),
            (from("/ip4/192.0.2.1/udp/4001/quic-v1"), false),
            ((AT.parse().unwrap(), false, 7), false),
            ((AT.parse().unwrap(), true, 8), false),
            ((AT.parse().unwrap(), true, 0), false),
        ] {
            let expected = Expected::default();
            expected.set((nonce != 0).then_some((7, Transport::Tcp)));
            let (one, other) = duplex(1024);
            let mut other: ByteStream = Box::new(other);
            delimited::write(&mut other, &DialBack { nonce }).await.unwrap();
            let peer = PeerId::from_ed25519(&[1; 32]);
            let what = format!("{address} {has_dialled} {nonce}");
            let stream = PeerStream { peer, address, has_dialled, protocol: DIAL_BACK.into(), stream: Box::new(one) };
            hear_dial(stream, &expected).await.unwrap();
            let came = timeout(Duration::ZERO, expected.came.notified()).await.is_ok();
            assert_eq!(came, proves, "{what}");
        }
    }
}
