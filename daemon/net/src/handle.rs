//! The way into the swarm task: cloneable, one method per request.

use std::sync::Arc;

use bytes::Bytes;
use p2pd_core::{
    access::Rules, clock::Judgement, contract::TopicSettings, group::Group, id::PeerId, keep::Pins,
    multiaddr::Multiaddr,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    BootstrapFault, Closed, NetError, Ruling, Sent, TopicPeers, ValidatorEvent,
    command::{Command, HangUp},
    dial,
    dial::Ways,
    gossip::TopicRule,
    memory::Held,
    peers,
    peers::PeerInfo,
};

/// A message that was handed over.
pub struct Sending(oneshot::Receiver<Result<Sent, NetError>>);

impl Sending {
    /// What became of it, told once. Cancel-safe.
    pub async fn sent(&mut self) -> Result<Sent, NetError> {
        (&mut self.0).await.map_err(|_| NetError::Stopped)?
    }
}

/// Asks the swarm task. Waits while 64 commands are queued; put a deadline around it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) held: Held,
}

impl Handle {
    /// Bytes of programs' messages that the daemon holds on their way here, to be kept up to date by it.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        self.ask_or(command, || NetError::Stopped).await
    }

    /// Asks what may remain without an answer although the network runs.
    pub(crate) async fn ask_or<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
        unanswered: impl FnOnce() -> NetError,
    ) -> Result<T, NetError> {
        self.ask_ahead(command).await?.await.map_err(|_| unanswered())
    }

    /// Asks, and leaves the answer for later. Questions are taken up in the order in which this was awaited.
    async fn ask_ahead<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::Stopped)?;
        Ok(answer)
    }

    /// Dials a multiaddr that ends in `/p2p/<peer id>`, and no other. Answers when the connection stands or every way has failed.
    pub async fn connect(&self, address: &str) -> Result<PeerId, NetError> {
        let (peer, address) = dial::parse(address)?;
        self.ask(|reply| Command::Connect { peer, ways: Ways::Only(address), reply }).await?
    }

    /// Dials a peer at the addresses it is said to have.
    pub async fn connect_peer(&self, peer: &PeerId, addresses: Vec<Multiaddr>) -> Result<PeerId, NetError> {
        let id = peers::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        let ways = Ways::Any(addresses.into_iter().map(Into::into).collect());
        self.ask(|reply| Command::Connect { peer: id, ways, reply }).await?
    }

    /// Puts these rules of who may connect in place of those before, and closes the connections that they deny.
    pub async fn set_rules(&self, rules: Rules) -> Result<(), NetError> {
        self.commands.send(Command::SetRules { rules }).await.map_err(|_| NetError::Stopped)
    }

    /// Stays connected to these peers, in place of those before.
    pub async fn set_pins(&self, pins: Pins) -> Result<(), NetError> {
        self.commands.send(Command::SetPins { pins }).await.map_err(|_| NetError::Stopped)
    }

    /// Whether our clock is wrong, or those of others are, by what these say.
    pub async fn clocks(&self) -> Result<Judgement, NetError> {
        self.ask(|reply| Command::Clocks { reply }).await
    }

    /// Why addresses of bootstrap peers were not reached when they were last dialled.
    pub async fn bootstrap_faults(&self) -> Result<Vec<BootstrapFault>, NetError> {
        self.ask(|reply| Command::Faults { reply }).await
    }

    /// The connections that closed last, oldest first.
    pub async fn closed(&self) -> Result<Vec<Closed>, NetError> {
        self.ask(|reply| Command::Closed { reply }).await
    }

    /// Closes every connection to the peer, because a program asked for it.
    pub async fn disconnect(&self, peer: &PeerId) -> Result<(), NetError> {
        self.hang_up(peer, HangUp { why: "a program asked for it", for_good: true }).await
    }

    /// Closes every connection to a peer that does not answer, so that it is connected anew.
    pub async fn renew(&self, peer: &PeerId) -> Result<(), NetError> {
        let why = "it did not answer after this machine's addresses changed";
        self.hang_up(peer, HangUp { why, for_good: false }).await
    }

    async fn hang_up(&self, peer: &PeerId, why: HangUp) -> Result<(), NetError> {
        let id = peers::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        self.ask(|reply| Command::Disconnect { peer: id, why, reply }).await?
    }

    /// The connected peers.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetError> {
        self.ask(|reply| Command::Peers { reply }).await
    }

    /// Where this peer listens, each with `/p2p/<own id>` at its end.
    pub async fn addresses(&self) -> Result<Vec<Multiaddr>, NetError> {
        self.ask(|reply| Command::Addresses { reply }).await
    }

    /// Follows a topic. Following it again in the same format changes nothing.
    pub async fn subscribe(&self, topic: &str, rule: TopicRule) -> Result<(), NetError> {
        self.ask(|reply| Command::Subscribe { topic: topic.into(), rule, reply }).await?
    }

    /// Follows a topic no more.
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), NetError> {
        self.commands.send(Command::Unsubscribe { topic: topic.into() }).await.map_err(|_| NetError::Stopped)
    }

    /// Sends a message to a topic's followers; what finds the connections to all of them full is refused.
    pub async fn publish(&self, topic: &str, data: Bytes) -> Result<Sent, NetError> {
        self.publish_also_to(topic, data, Vec::new()).await
    }

    /// The same, to these followers directly, whether or not they are in the topic's mesh.
    pub async fn publish_also_to(&self, topic: &str, data: Bytes, also_to: Vec<PeerId>) -> Result<Sent, NetError> {
        self.ask(|reply| Command::Publish { topic: topic.into(), data, also_to, reply }).await?
    }

    /// Hands a message over, after those of its topic that were handed over before. It is held back while connections to
    /// followers are full, up to a second; what becomes of it is known later.
    pub async fn publish_ahead(&self, topic: &str, data: Bytes) -> Result<Sending, NetError> {
        self.ask_ahead(|reply| Command::PublishAhead { topic: topic.into(), data, reply }).await.map(Sending)
    }

    /// Sends a group of our own, and keeps it for those who ask later.
    pub async fn publish_group(&self, topic: &str, group: Arc<Group>) -> Result<(), NetError> {
        self.ask(|reply| Command::PublishGroup { topic: topic.into(), group, reply }).await?
    }

    /// The topics this peer follows.
    pub async fn topics(&self) -> Result<Vec<String>, NetError> {
        self.ask(|reply| Command::Topics { reply }).await
    }

    /// The connected peers that follow a topic.
    pub async fn topic_peers(&self, topic: &str) -> Result<TopicPeers, NetError> {
        self.ask(|reply| Command::TopicPeers { topic: topic.into(), reply }).await
    }

    /// Holds a topic of programs to these settings from now on; `None`: to the usual ones.
    pub async fn set_topic(&self, topic: &str, settings: Option<TopicSettings>) -> Result<(), NetError> {
        let command = Command::SetTopic { topic: topic.into(), settings };
        self.commands.send(command).await.map_err(|_| NetError::Stopped)
    }

    /// Takes every message of a topic for judgement, until what is returned is dropped; `None` when another program does.
    pub async fn validate(&self, topic: &str) -> Result<Option<mpsc::Receiver<ValidatorEvent>>, NetError> {
        self.ask(|reply| Command::Validate { topic: topic.into(), reply }).await
    }

    /// Answers a question of [`Handle::validate`]. Too late an answer changes nothing.
    pub async fn rule(&self, topic: &str, number: u64, ruling: Ruling) -> Result<(), NetError> {
        self.commands.send(Command::Rule { topic: topic.into(), number, ruling }).await.map_err(|_| NetError::Stopped)
    }

    /// The groups of a followed stream that came in the last `ms` milliseconds, oldest first.
    pub async fn recent(&self, topic: &str, ms: u64) -> Result<Vec<Arc<Group>>, NetError> {
        self.ask(|reply| Command::Recent { topic: topic.into(), ms, reply }).await
    }
}
