//! Gossipsub: which topics are followed, how each message is judged, what goes out and when, and who is too slow for it.

pub(crate) mod flood_publish;
pub(crate) mod flow_control;
mod judge;
pub(crate) mod message_id;
mod publish;
mod receive;
pub(crate) mod resubscribe;
mod send_queue;
pub(crate) mod slow_peers;
mod topics;
mod validators;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use libp2p::{
    gossipsub::{IdentTopic, MessageId, TopicHash},
    request_response,
};
use p2pd_core::{clock::Judgement, contract::TopicSettings, group::Group, id::PeerId, time::MonoMs, topic};
use tokio::sync::{mpsc, oneshot};

use self::{
    flood_publish::FloodPublish,
    judge::Unproven,
    message_id::{Gossipsub, Settings},
    resubscribe::Resubscribe,
    send_queue::{Message, SendQueue},
    slow_peers::SlowPeers,
    topics::{Topics, followers},
};
pub use self::{
    topics::TopicRule,
    validators::{Ruling, ToJudge, ValidatorEvent},
};
use crate::{
    Config, Incoming, NetError,
    context::Context,
    fetch,
    handle::Commands,
    ids,
    peers::{Standing, Standings},
    queue,
};

/// Messages from the network that wait for the daemon.
const INCOMING: usize = 256;
const INCOMING_BYTES: usize = 8 << 20;
/// Least time between two looks for missing groups, in milliseconds; one is worth fetching for some 50.
const REPAIR_MS: u64 = 10;

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
    Subscribe { topic: String, rule: TopicRule, reply: oneshot::Sender<Result<(), NetError>> },
    Unsubscribe { topic: String },
    Publish { topic: String, data: Bytes, also_to: Vec<PeerId>, reply: oneshot::Sender<Result<Sent, NetError>> },
    PublishAhead { topic: String, data: Bytes, reply: oneshot::Sender<Result<Sent, NetError>> },
    PublishGroup { topic: String, group: Arc<Group>, reply: oneshot::Sender<Result<(), NetError>> },
    Topics { reply: oneshot::Sender<Vec<String>> },
    TopicPeers { topic: String, reply: oneshot::Sender<TopicPeers> },
    SetTopic { topic: String, settings: Option<TopicSettings> },
    Validate { topic: String, reply: oneshot::Sender<Option<mpsc::Receiver<ValidatorEvent>>> },
    Rule { topic: String, number: u64, ruling: Ruling },
    Clocks { reply: oneshot::Sender<Judgement> },
    Recent { topic: String, ms: u64, reply: oneshot::Sender<Vec<Arc<Group>>> },
}

/// The child behaviours of this driver.
pub(crate) struct Wire<'a> {
    pub(crate) gossipsub: &'a mut Resubscribe<Gossipsub>,
    pub(crate) flow: &'a mut flow_control::Behaviour,
    pub(crate) fetch: &'a mut request_response::Behaviour<fetch::Codec>,
}

/// A group that gossip brought, handed on already, whose signature is checked before the next event.
struct Proof {
    id: MessageId,
    source: libp2p::PeerId,
    group: Unproven,
}

pub(crate) struct PubSub {
    own: libp2p::PeerId,
    /// What every daemon of our network follows.
    directory: TopicHash,
    topics: Topics,
    incoming: queue::Writer<Incoming>,
    /// When missing groups were last looked for.
    repaired: MonoMs,
    unproven: Option<Proof>,
    held: SendQueue,
    flood: FloodPublish,
    slow: SlowPeers,
}

impl PubSub {
    pub(crate) fn new(config: &Config, settings: Settings, own: libp2p::PeerId) -> (Self, queue::Reader<Incoming>) {
        let (incoming, reader) = queue::bounded(INCOMING, INCOMING_BYTES);
        let pubsub = PubSub {
            own,
            directory: IdentTopic::new(topic::directory(&config.network)).hash(),
            topics: Topics::new(settings, config.repair, config.drop_groups_percent),
            incoming,
            repaired: MonoMs(0),
            unproven: None,
            held: SendQueue::default(),
            flood: FloodPublish::new(Instant::now()),
            slow: SlowPeers::default(),
        };
        (pubsub, reader)
    }

    pub(crate) fn on_command(&mut self, context: &mut Context, mut wire: Wire<'_>, command: Command) {
        let (now, wall, wire) = (context.now(), context.wall(), &mut wire);
        match command {
            Command::Subscribe { topic, rule, reply } => {
                let _ = reply.send(self.topics.subscribe(wire.gossipsub, &topic, rule));
                self.burst(wire, &IdentTopic::new(topic).hash());
            }
            Command::Unsubscribe { topic } => self.topics.unsubscribe(wire.gossipsub, &topic),
            Command::Publish { topic, data, also_to, reply } => {
                let _ = reply.send(self.publish_also_to(wire, wall, &topic, &data, &also_to));
            }
            Command::PublishAhead { topic, data, reply } => {
                self.send_or_hold(wire, wall, topic, Message::Own { data, reply });
            }
            Command::PublishGroup { topic, group, reply } => {
                let sent = self.publish_also_to(wire, wall, &topic, &group.signed, &[]);
                self.topics.keep(&topic, group, now);
                let _ = reply.send(sent.map(|_| ()));
            }
            Command::Topics { reply } => drop(reply.send(self.topics.names())),
            Command::TopicPeers { topic, reply } => drop(reply.send(topic_peers(wire.gossipsub, topic))),
            Command::SetTopic { topic, settings } => self.topics.set_topic(&topic, settings),
            Command::Validate { topic, reply } => {
                let _ = reply.send(self.topics.validators.attach(IdentTopic::new(topic).hash()));
            }
            Command::Rule { topic, number, ruling } => {
                self.rule(context, wire, &IdentTopic::new(topic).hash(), number, ruling);
            }
            Command::Clocks { reply } => {
                let is_connected = |peer: &_| ids::to_libp2p(peer).is_some_and(|peer| wire.flow.is_connected(&peer));
                let _ = reply.send(self.topics.clocks.judge(now, wall, is_connected));
            }
            Command::Recent { topic, ms, reply } => drop(reply.send(self.topics.recent(&topic, ms, now))),
        }
    }

    /// When `on_due` has something next.
    pub(crate) fn due(&self, context: &Context) -> Option<Instant> {
        let next = self.topics.wake(context.now());
        let next = next.map(|at| MonoMs(at.0.max(self.repaired.0.saturating_add(REPAIR_MS))));
        next.and_then(|at| context.instant(at)).into_iter().chain(self.held.due()).min()
    }

    /// What has become due: messages that were held back, groups that are missing, and validators that have not said anything.
    pub(crate) fn on_due(&mut self, context: &mut Context, mut wire: Wire<'_>) {
        if self.held.due().is_some_and(|at| at <= Instant::now()) {
            self.send_held(&mut wire, context.wall());
        }
        let now = context.now();
        if self.topics.wake(now).is_some_and(|at| at <= now) && now.since(self.repaired) >= REPAIR_MS {
            self.repaired = now;
            let asks = self.topics.due(wire.gossipsub, now);
            ask_all(&mut wire, asks);
            for ruled in self.topics.validators.due(now) {
                self.conclude_ruled(context, &mut wire, ruled);
            }
        }
    }

    pub(crate) fn on_gone(&mut self, peer: &libp2p::PeerId) {
        self.slow.gone(peer);
    }

    /// The connected peers that follow what every daemon of our network does.
    pub(crate) fn followers_of_directory(&self, gossipsub: &Gossipsub) -> Vec<libp2p::PeerId> {
        followers(gossipsub, &self.directory)
    }

    /// Adds what pub/sub knows of each peer.
    pub(crate) fn add_standings(&self, gossipsub: &Gossipsub, standings: &mut Standings) {
        let ours: Vec<&TopicHash> = gossipsub.topics().collect();
        for (peer, topics) in gossipsub.all_peers() {
            let standing: &mut Standing = standings.entry(*peer).or_default();
            let followed = topics.iter().filter(|topic| ours.contains(topic)).count();
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

fn ask_all(wire: &mut Wire<'_>, asks: impl IntoIterator<Item = crate::stream::Ask>) {
    for crate::stream::Ask { peer, request } in asks {
        wire.fetch.send_request(&peer, request);
    }
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
pub struct Handle(pub(crate) Commands<Command>);

impl Handle {
    /// Follows a topic. Following it again in the same format changes nothing.
    pub async fn subscribe(&self, topic: &str, rule: TopicRule) -> Result<(), NetError> {
        self.0.ask(|reply| Command::Subscribe { topic: topic.into(), rule, reply }).await?
    }

    /// Follows a topic no more.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), NetError> {
        self.0.say(Command::Unsubscribe { topic: topic.into() }).await
    }

    /// Sends a message to a topic's followers; what finds the connections to all of them full is refused.
    pub async fn publish(&self, topic: &str, data: Bytes) -> Result<Sent, NetError> {
        self.publish_also_to(topic, data, Vec::new()).await
    }

    /// The same, to these followers directly, whether or not they are in the topic's mesh.
    pub async fn publish_also_to(&self, topic: &str, data: Bytes, also_to: Vec<PeerId>) -> Result<Sent, NetError> {
        self.0.ask(|reply| Command::Publish { topic: topic.into(), data, also_to, reply }).await?
    }

    /// Hands a message over, after those of its topic that were handed over before. It is held back while connections to
    /// followers are full, up to a second; what becomes of it is known later.
    pub async fn publish_ahead(&self, topic: &str, data: Bytes) -> Result<Sending, NetError> {
        self.0.ask_ahead(|reply| Command::PublishAhead { topic: topic.into(), data, reply }).await.map(Sending)
    }

    /// Sends a group of our own, and keeps it for those who ask later.
    pub async fn publish_group(&self, topic: &str, group: Arc<Group>) -> Result<(), NetError> {
        self.0.ask(|reply| Command::PublishGroup { topic: topic.into(), group, reply }).await?
    }

    /// The topics this peer follows.
    pub async fn topics(&self) -> Result<Vec<String>, NetError> {
        self.0.ask(|reply| Command::Topics { reply }).await
    }

    /// The connected peers that follow a topic.
    pub async fn topic_peers(&self, topic: &str) -> Result<TopicPeers, NetError> {
        self.0.ask(|reply| Command::TopicPeers { topic: topic.into(), reply }).await
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub async fn set_topic(&self, topic: &str, settings: Option<TopicSettings>) -> Result<(), NetError> {
        self.0.say(Command::SetTopic { topic: topic.into(), settings }).await
    }

    /// Takes every message of a topic for judgement, until what is returned is dropped; `None` when another program does.
    pub async fn validate(&self, topic: &str) -> Result<Option<mpsc::Receiver<ValidatorEvent>>, NetError> {
        self.0.ask(|reply| Command::Validate { topic: topic.into(), reply }).await
    }

    /// Answers a question of [`Handle::validate`]. Too late an answer changes nothing.
    pub async fn rule(&self, topic: &str, number: u64, ruling: Ruling) -> Result<(), NetError> {
        self.0.say(Command::Rule { topic: topic.into(), number, ruling }).await
    }

    /// Whether our clock is wrong, or those of others are, by what these say.
    pub async fn clocks(&self) -> Result<Judgement, NetError> {
        self.0.ask(|reply| Command::Clocks { reply }).await
    }

    /// The groups of a followed stream that came in the last `ms` milliseconds, oldest first.
    pub async fn recent(&self, topic: &str, ms: u64) -> Result<Vec<Arc<Group>>, NetError> {
        self.0.ask(|reply| Command::Recent { topic: topic.into(), ms, reply }).await
    }
}
