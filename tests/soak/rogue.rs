//! The hostile peer: one flood after the other, at the daemon in the middle and at the listener's, as fast as they take it.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use libp2p::futures::future::join_all;
use tokio::runtime::Runtime;

use crate::{
    Clock,
    raw_peer::{RawPeer, Rpc, Signer},
    rogue_words::{AT_ONCE, control, directory, heartbeats, invented_streams, questions},
    town::Town,
};

/// For each flood; and a moment without one after it.
const TURN: Duration = Duration::from_secs(8);
const REST: Duration = Duration::from_secs(2);
/// Peers that ask at the same time, and peers that come at the same time.
const ASKERS: usize = 12;
const NEWCOMERS: usize = 150;

#[derive(Clone, Copy, Debug)]
pub enum Flood {
    InventedStreams,
    Questions,
    Heartbeats,
    Control,
    Junk,
    HugeIdentities,
    SilentSockets,
    ManyAskers,
    Newcomers,
}

const FLOODS: [Flood; 9] = [
    Flood::InventedStreams,
    Flood::Questions,
    Flood::Heartbeats,
    Flood::Control,
    Flood::Junk,
    Flood::HugeIdentities,
    Flood::SilentSockets,
    Flood::ManyAskers,
    Flood::Newcomers,
];

/// Those of these names, such as `Control`; all where none is named.
pub fn floods_named(names: &[String]) -> Vec<Flood> {
    let named = |flood: &Flood| names.is_empty() || names.contains(&format!("{flood:?}"));
    FLOODS.into_iter().filter(named).collect()
}

/// One after the other until the end; none where that is empty.
pub fn flood(town: &Town, clock: &Clock, floods: &[Flood]) {
    let runtime = Runtime::new().unwrap();
    for (n, flood) in floods.iter().copied().cycle().enumerate() {
        if !clock.goes() {
            return;
        }
        let address = &town.daemons[1 + n % 2].inner.address;
        let until = Instant::now() + TURN;
        let goes = || clock.goes() && Instant::now() < until;
        match flood {
            Flood::SilentSockets => silence(address, clock),
            Flood::ManyAskers => {
                let askers = (0..ASKERS).map(|_| speak(Flood::Questions, address, &goes));
                runtime.block_on(join_all(askers));
            }
            Flood::Newcomers => {
                let newcomers = (0..NEWCOMERS).map(|_| join_and_stay(address, &goes));
                runtime.block_on(join_all(newcomers));
            }
            flood => runtime.block_on(speak(flood, address, &goes)),
        }
        clock.pause(REST);
    }
}

/// Says what belongs to a flood; connects anew when it is thrown out, as long as that is possible.
async fn speak(flood: Flood, address: &str, goes: impl Fn() -> bool) {
    let name = if matches!(flood, Flood::HugeIdentities) { "x".repeat(100_000) } else { "rogue".to_owned() };
    while goes() {
        let Some(rogue) = RawPeer::try_connect(address, &name).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        rogue.say(Rpc::follow(&[&directory(), "news"])).await;
        let mut round = 0;
        while goes() {
            round += 1;
            let heard = match flood {
                Flood::HugeIdentities => break,
                flood => say_all(&rogue, words(flood, round)).await,
            };
            if !heard {
                break;
            }
        }
    }
}

fn words(flood: Flood, round: u64) -> Vec<Rpc> {
    match flood {
        Flood::InventedStreams => invented_streams(AT_ONCE),
        Flood::Questions => vec![questions()],
        Flood::Heartbeats => vec![heartbeats()],
        Flood::Control => control(round),
        _ => junk(round),
    }
}

/// Forms that nobody can read, and a topic's messages as large as they may be.
fn junk(round: u64) -> Vec<Rpc> {
    let signer = Signer::invent();
    let mut forged = signer.sign("news", round, vec![7; 60_000]);
    forged.signature[0] ^= 1;
    let nested = signer.sign(&directory(), round, "{".repeat(4_000));
    let large = signer.sign("news", round, vec![7; 50_000]);
    vec![Rpc::publish(vec![forged]), Rpc::publish(vec![nested]), Rpc::publish(vec![large])]
}

async fn say_all(rogue: &RawPeer, words: Vec<Rpc>) -> bool {
    for word in words {
        // One that reads nothing any more holds it up no longer than this.
        let said = tokio::time::timeout(Duration::from_secs(2), rogue.say(word)).await;
        if said != Ok(true) {
            return false;
        }
    }
    true
}

/// One of a crowd that follows what the honest ones do and wants to be in their mesh.
async fn join_and_stay(address: &str, goes: impl Fn() -> bool) {
    let Some(newcomer) = RawPeer::try_connect(address, "newcomer").await else { return };
    let topics: &[&str] = &[&directory(), "news"];
    let mut welcome = newcomer.say(Rpc::follow(topics)).await;
    while goes() && welcome {
        welcome = newcomer.say(Rpc::graft(topics)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Sockets that say nothing, as many as are taken, and half a word on some.
fn silence(address: &str, clock: &Clock) {
    let parts: Vec<&str> = address.split('/').collect();
    let to = format!("{}:{}", parts[2], parts[4]);
    let mut held: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(&to).ok()).collect();
    held.iter_mut().step_by(2).for_each(|socket| drop(socket.write_all(b"\x13/multistream")));
    clock.pause(TURN);
}
