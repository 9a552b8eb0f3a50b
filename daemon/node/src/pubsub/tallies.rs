//! Tells followers of what programs here publish how many messages there were, where they may have missed some, and hears the same of others:
//! one message a stream, held open until it has been acted on. Who missed something cannot say so itself, since it does not know.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use p2pd_core::{id::PeerId, ring::Cause, tally::Tally};
use p2pd_net::{Handle, Inbound, PeerStream, Reservation, StreamClass};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{PubSub, PubSubError};
use crate::lock;

const RESERVATION: Reservation =
    Reservation { protocol: "/p2pd/tally/1", class: StreamClass::Bulk, most: 64, of_peer: 1 };
/// How long messages are counted together.
const INTERVAL: Duration = Duration::from_secs(4);
/// How long a follower waits before it counts what came: gossipsub offers a message for three seconds, and hands it out for five.
const LATE: Duration = Duration::from_secs(4);
/// How long a publisher waits for a follower to act on it, who may have to wait for its turn, and for one that is gone to come back.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a follower waits for the whole message.
const READ: Duration = Duration::from_secs(5);
/// Most tallies of one message; of more, the oldest are not told.
const MAX_TALLIES: usize = 64;
const MAX_BYTES: u64 = 32 << 10;

/// `Tallies` of docs/wire.md.
#[derive(Clone, PartialEq, Message)]
struct Tallies {
    #[prost(message, repeated, tag = "1")]
    tallies: Vec<Told>,
}

#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(uint64, tag = "2")]
    first: u64,
    #[prost(uint64, tag = "3")]
    last: u64,
    #[prost(uint64, tag = "4")]
    count: u64,
}

/// Counts of what this daemon's programs publish, for those who may have missed some.
pub struct Counts(Inbound);

impl PubSub {
    /// Begins to hear what peers count; for [`PubSub::run`].
    pub async fn reserve_protocol(&self) -> Result<Counts, PubSubError> {
        Ok(Counts(self.0.with.net.streams.reserve(RESERVATION).await?))
    }

    /// Tells and hears what was published, for as long as it is polled.
    pub(super) async fn tally(&self, counts: Counts) {
        tokio::select! {
            () = tell(&self.0.with.net) => {}
            () = counts.0.serve(|stream| self.clone().hear_tally(stream)) => {}
        }
    }

    async fn hear_tally(self, PeerStream { peer, mut stream, .. }: PeerStream) {
        let read = async {
            let mut bytes = Vec::new();
            (&mut stream).take(MAX_BYTES).read_to_end(&mut bytes).await?;
            Tallies::decode(bytes.as_slice()).map_err(io::Error::other)
        };
        let tallies = match timeout(READ, read).await.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            Ok(Tallies { tallies }) => tallies,
            Err(error) => {
                return tracing::debug!(%peer, %error, "a tally of what it published could not be read");
            }
        };
        // The stream stays open meanwhile, and each peer has one: that bounds how often it may tell.
        sleep(LATE).await;
        let now = self.0.with.net.pubsub.clock().now();
        for Told { topic, first, last, count } in tallies.into_iter().take(MAX_TALLIES) {
            let arrived = lock(&self.0.topics).get(&topic).map(|topic| topic.arrived.clone());
            let Some(arrived) = arrived else { continue };
            let tally = Tally { topic, first, last, count };
            let lost = lock(&arrived).lost(now, &peer, &tally);
            if lost > 0 {
                tracing::debug!(%peer, topic = tally.topic, lost, "messages of this peer never came");
                self.lost_messages(&tally.topic, lost, Cause::NotReceived);
            }
        }
    }
}

/// Tells peers what they may have missed; who cannot be told now, with the next.
async fn tell(net: &Handle) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due: HashMap<PeerId, Due> = HashMap::new();
    let mut busy: HashSet<PeerId> = HashSet::new();
    let mut telling = JoinSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let (Ok(new), Ok(speaking)) = (net.pubsub.tallies().await, net.peers.speaking(RESERVATION.protocol).await)
                else { return };
                due.retain(|peer, due| speaking.contains(peer) || due.since.elapsed() < PATIENCE);
                for (peer, new) in new.into_iter().filter(|(peer, _)| speaking.contains(peer)) {
                    due.entry(peer).or_default().add(new);
                }
                let free = due.extract_if(|peer, _| speaking.contains(peer) && !busy.contains(peer)).collect::<Vec<_>>();
                for (peer, due) in free {
                    busy.insert(peer.clone());
                    let net = net.clone();
                    telling.spawn(async move { tell_peer(&net, peer, due).await });
                }
            }
            Some(done) = telling.join_next() => {
                let Ok((peer, untold)) = done else { continue };
                busy.remove(&peer);
                if let Some(mut untold) = untold {
                    untold.add(due.remove(&peer).unwrap_or_default().tallies);
                    due.insert(peer, untold);
                }
            }
        }
    }
}

/// What a peer is to be told, and since when.
struct Due {
    since: Instant,
    tallies: Vec<Tally>,
}

impl Default for Due {
    fn default() -> Self {
        Due { since: Instant::now(), tallies: Vec::new() }
    }
}

impl Due {
    fn add(&mut self, new: Vec<Tally>) {
        self.tallies.extend(new);
        self.tallies.drain(..self.tallies.len().saturating_sub(MAX_TALLIES));
    }
}

/// Tells a peer, which acts on it before it closes the stream. Returns what it was to be told where it does not.
async fn tell_peer(net: &Handle, peer: PeerId, due: Due) -> (PeerId, Option<Due>) {
    let told = |Tally { topic, first, last, count }: &Tally| Told {
        topic: topic.clone(),
        first: *first,
        last: *last,
        count: *count,
    };
    let message = Tallies { tallies: due.tallies.iter().map(told).collect() };
    let work = async {
        let opened = net.streams.open(&peer, &[RESERVATION.protocol.to_owned()]).await;
        let PeerStream { mut stream, .. } = opened.map_err(io::Error::other)?;
        stream.write_all(&message.encode_to_vec()).await?;
        stream.shutdown().await?;
        stream.read(&mut [0]).await
    };
    let heard = matches!(timeout(PATIENCE, work).await, Ok(Ok(_)));
    (peer, (!heard).then_some(due))
}
