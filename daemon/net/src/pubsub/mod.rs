//! Gossipsub: which topics are followed, how each message is judged, what goes out and when, and who is too slow for it.

pub(crate) mod flood_publish;
pub(crate) mod flow_control;
mod judge;
mod kept;
pub(crate) mod message_id;
mod publish;
mod receive;
pub(crate) mod resubscribe;
mod send_queue;
pub(crate) mod slow_peers;
mod topics;

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use bytes::Bytes;
use libp2p::gossipsub::{IdentTopic, TopicHash};
use p2pd_core::{
    id::PeerId,
    tally::{Published, Tally},
    topic_settings::TopicSettings,
};
use tokio::sync::oneshot;

pub use self::judge::{Class, Decision, Judge, Message, Ticket, Time, Verdict};
use self::{
    flood_publish::FloodPublish,
    kept::Kept,
    message_id::{Gossipsub, Settings},
    resubscribe::Resubscribe,
    send_queue::SendQueue,
    slow_peers::SlowPeers,
    topics::{Topics, followers},
};
use crate::{
    Config, NetError,
    clock::Clock,
    commands::Commands,
    context::Context,
    ids,
    standing::{Standing, Standings},
};

/// How a topic is followed.
pub struct Subscription {
    /// Name of its format: a topic is followed in one alone.
    pub kind: &'static str,
    /// What it carries.
    pub class: Class,
    /// Who judges its messages, and hands them to the subscriber.
    pub judge: Box<dyn Judge>,
}

/// Who of those connected follows a topic.
#[derive(Clone, Debug, Default)]
pub struct TopicPeers {
    /// All of them.
    pub followers: Vec<PeerId>,
    /// How many exchange whole messages with this peer; the others hear of them.
    pub mesh: usize,
}

/// A message that went out.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// What tells it apart from others.
    pub id: Bytes,
    /// How many connected peers follow its topic.
    pub followers: usize,
    /// How many of those are so much slower than others that they may miss it.
    pub behind: usize,
}

pub(crate) enum Command {
    Subscribe { topic: String, subscription: Subscription, reply: oneshot::Sender<Result<bool, NetError>> },
    Unsubscribe { topic: String },
    Publish { topic: String, data: Bytes, also_to: Vec<PeerId>, reply: oneshot::Sender<Result<Sent, NetError>> },
    PublishAhead { topic: String, data: Bytes, reply: oneshot::Sender<Result<Sent, NetError>> },
    Topics { reply: oneshot::Sender<Vec<String>> },
    TopicPeers { topic: String, reply: oneshot::Sender<TopicPeers> },
    SetTopic { topic: String, settings: Option<TopicSettings> },
    Decide { topic: String, decision: Decision },
    Tallies { reply: oneshot::Sender<HashMap<PeerId, Vec<Tally>>> },
}

/// The child behaviours of this driver.
pub(crate) struct Wire<'a> {
    pub(crate) gossipsub: &'a mut Resubscribe<Gossipsub>,
    pub(crate) flow: &'a mut flow_control::Behaviour,
}

pub(crate) struct PubSub {
    own: libp2p::PeerId,
    /// Peers of a topic that whole messages are exchanged with.
    mesh: usize,
    /// What every daemon of our network follows.
    of_all: TopicHash,
    topics: Topics,
    settings: Settings,
    held: SendQueue,
    flood: FloodPublish,
    slow: SlowPeers,
    kept: Kept,
    /// What programs here have published of late.
    published: Published,
}

impl PubSub {
    pub(crate) fn new(config: &Config, settings: Settings, own: libp2p::PeerId) -> Self {
        PubSub {
            own,
            mesh: config.network.mesh(),
            of_all: IdentTopic::new(&config.topic_of_all).hash(),
            topics: Topics::new(settings.clone()),
            settings,
            held: SendQueue::default(),
            flood: FloodPublish::new(Instant::now()),
            slow: SlowPeers::default(),
            kept: Kept::new(Instant::now()),
            published: Published::default(),
        }
    }

    pub(crate) fn on_command(&mut self, context: &mut Context, mut wire: Wire<'_>, command: Command) {
        let (wall, wire) = (context.wall(), &mut wire);
        match command {
            Command::Subscribe { topic, subscription, reply } => {
                let _ = reply.send(self.topics.subscribe(wire.gossipsub, &topic, subscription));
            }
            Command::Unsubscribe { topic } => self.topics.unsubscribe(wire.gossipsub, &topic),
            Command::Publish { topic, data, also_to, reply } => {
                let _ = reply.send(self.publish_also_to(wire, wall, &topic, &data, &also_to));
            }
            Command::PublishAhead { topic, data, reply } => {
                self.send_or_hold(wire, wall, topic, send_queue::Message::Own { data, reply });
            }
            Command::Topics { reply } => drop(reply.send(self.topics.names())),
            Command::TopicPeers { topic, reply } => drop(reply.send(topic_peers(wire.gossipsub, topic))),
            Command::SetTopic { topic, settings } => self.topics.set_topic(&topic, settings),
            Command::Tallies { reply } => drop(reply.send(self.published.turn())),
            Command::Decide { topic, decision } => {
                self.decide(context, wire, &IdentTopic::new(topic).hash(), decision);
            }
        }
    }

    /// When `on_due` has something next.
    pub(crate) fn due(&self, context: &Context) -> Option<Instant> {
        let judges = self.topics.due().and_then(|at| context.instant(at));
        judges.into_iter().chain(self.held.due()).min()
    }

    /// What has become due: messages that were held back, and verdicts of judges.
    pub(crate) fn on_due(&mut self, context: &mut Context, mut wire: Wire<'_>) {
        if self.held.due().is_some_and(|at| at <= Instant::now()) {
            self.send_held(&mut wire, context.wall());
        }
        for (topic, class, decision) in self.topics.on_due(context.now()) {
            self.conclude(context, &mut wire, &topic, class, decision);
        }
    }

    /// A peer's queue has drained.
    pub(crate) fn on_drained(&mut self, context: &mut Context, mut wire: Wire<'_>) {
        self.send_held(&mut wire, context.wall());
    }

    pub(crate) fn on_gone(&mut self, peer: &libp2p::PeerId) {
        self.slow.gone(peer);
    }

    /// The connected peers that follow what every daemon of our network does.
    pub(crate) fn followers_of_all(&self, gossipsub: &Gossipsub) -> HashSet<libp2p::PeerId> {
        followers(gossipsub, &self.of_all).into_iter().collect()
    }

    /// Adds what pub/sub knows of each peer.
    pub(crate) fn add_standings(&self, gossipsub: &Gossipsub, standings: &mut Standings) {
        let ours: HashSet<&TopicHash> = gossipsub.topics().collect();
        for (peer, topics) in gossipsub.all_peers() {
            let standing: &mut Standing = standings.entry(*peer).or_default();
            let followed = topics.iter().filter(|topic| ours.contains(*topic)).count();
            standing.topics = u32::try_from(followed).unwrap_or(u32::MAX);
            standing.score = gossipsub.peer_score(peer).unwrap_or(0.0);
            standing.lost = self.slow.lost(peer);
        }
        for peer in ours.iter().flat_map(|topic| gossipsub.mesh_peers(topic)) {
            let standing = standings.entry(*peer).or_default();
            (standing.in_mesh, standing.topics) = (true, standing.topics.saturating_add(1));
        }
    }
}

fn topic_peers(gossipsub: &Gossipsub, topic: String) -> TopicPeers {
    let hash = IdentTopic::new(topic).hash();
    let followers = followers(gossipsub, &hash).iter().map(ids::from_libp2p).collect();
    TopicPeers { followers, mesh: gossipsub.mesh_peers(&hash).count() }
}

/// A message that was handed over.
pub struct Sending(oneshot::Receiver<Result<Sent, NetError>>);

impl Sending {
    /// What became of it, told once. Cancel-safe.
    pub async fn sent(&mut self) -> Result<Sent, NetError> {
        (&mut self.0).await.map_err(|_| NetError::Stopped)?
    }
}

/// Follows topics, and publishes on them.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: Commands<Command>,
    pub(crate) clock: Clock,
}

impl Handle {
    /// The clock of `Time::now`.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Follows a topic. False where it is followed in this format already: that changes nothing, and the judge is dropped.
    pub async fn subscribe(&self, topic: &str, subscription: Subscription) -> Result<bool, NetError> {
        self.commands.ask(|reply| Command::Subscribe { topic: topic.into(), subscription, reply }).await?
    }

    /// Follows a topic no more; its judge is dropped.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), NetError> {
        self.commands.say(Command::Unsubscribe { topic: topic.into() }).await
    }

    /// Sends a message to a topic's followers; what finds the connections to all of them full is refused.
    pub async fn publish(&self, topic: &str, data: Bytes) -> Result<Sent, NetError> {
        self.publish_also_to(topic, data, Vec::new()).await
    }

    /// The same, to these followers directly, whether or not they are in the topic's mesh.
    pub async fn publish_also_to(&self, topic: &str, data: Bytes, also_to: Vec<PeerId>) -> Result<Sent, NetError> {
        self.commands.ask(|reply| Command::Publish { topic: topic.into(), data, also_to, reply }).await?
    }

    /// Hands a message over, after those of its topic that were handed over before. It is held back while connections to
    /// followers are full, up to a second; what becomes of it is known later.
    pub async fn publish_ahead(&self, topic: &str, data: Bytes) -> Result<Sending, NetError> {
        let command = |reply| Command::PublishAhead { topic: topic.into(), data, reply };
        self.commands.ask_ahead(command).await.map(Sending)
    }

    /// The topics this peer follows.
    pub async fn topics(&self) -> Result<Vec<String>, NetError> {
        self.commands.ask(|reply| Command::Topics { reply }).await
    }

    /// The connected peers that follow a topic.
    pub async fn topic_peers(&self, topic: &str) -> Result<TopicPeers, NetError> {
        self.commands.ask(|reply| Command::TopicPeers { topic: topic.into(), reply }).await
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub async fn set_topic(&self, topic: &str, settings: Option<TopicSettings>) -> Result<(), NetError> {
        self.commands.say(Command::SetTopic { topic: topic.into(), settings }).await
    }

    /// What programs here published between the last call but one and the last, for each peer that may have missed some of it.
    pub async fn tallies(&self) -> Result<HashMap<PeerId, Vec<Tally>>, NetError> {
        self.commands.ask(|reply| Command::Tallies { reply }).await
    }

    /// Says what becomes of a message whose judge has put that off. Too late a word changes nothing.
    pub async fn decide(&self, topic: &str, decision: Decision) -> Result<(), NetError> {
        self.commands.say(Command::Decide { topic: topic.into(), decision }).await
    }
}
