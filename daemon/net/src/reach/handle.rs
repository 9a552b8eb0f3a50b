//! The way to this driver.

use std::time::Duration;

use libp2p::swarm::ConnectionId;
use p2pd_core::{id, multiaddr::Multiaddr as Address, reachability::Answer};
use tokio::time::timeout;

use super::{Command, Reached, Relay, hole_punching::Role};
use crate::{NetError, commands::Commands, ids};

/// Asks from where this daemon is reached.
#[derive(Clone)]
pub struct Handle(pub(crate) Commands<Command>);

impl Handle {
    /// Where others see this daemon.
    pub(super) async fn candidates(&self) -> Result<Vec<Address>, NetError> {
        self.0.ask(|reply| Command::Candidates { reply }).await
    }

    /// Dials a peer that does the same at this moment.
    pub(super) async fn punch(&self, peer: &id::PeerId, addresses: Vec<Address>, role: Role) -> Result<(), NetError> {
        self.0.say(Command::Punch { peer: peer.clone(), addresses, role }).await
    }

    /// From where this daemon is reached.
    pub async fn reached(&self) -> Result<Reached, NetError> {
        self.0.ask(|reply| Command::Own { reply }).await
    }

    /// An own address that is to be tested now, and the peers that did not reach it.
    pub(super) async fn due(&self) -> Result<Option<(Address, Vec<id::PeerId>)>, NetError> {
        self.0.ask(|reply| Command::Due { reply }).await
    }

    /// What came of the test of an own address; `None`: there was nobody to ask.
    pub(super) async fn tested(&self, address: Address, answer: Option<(id::PeerId, Answer)>) -> Result<(), NetError> {
        self.0.say(Command::Tested { address, answer }).await
    }

    /// Makes a new connection to a peer at this address; `None` where that cannot be reached.
    pub(super) async fn dial_back(
        &self,
        peer: &id::PeerId,
        address: Address,
    ) -> Result<Option<ConnectionId>, NetError> {
        let peer = ids::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        self.0.ask(|reply| Command::DialBack { peer, address, reply }).await
    }

    /// Whether a peer answers at this address, within this time: by a new connection, which is closed again.
    pub async fn is_answered(&self, peer: &id::PeerId, address: Address, within: Duration) -> Result<bool, NetError> {
        let Ok(dialled) = timeout(within, self.dial_back(peer, address.without_peer())).await else { return Ok(false) };
        let Some(connection) = dialled? else { return Ok(false) };
        self.hang_up(connection).await?;
        Ok(true)
    }

    /// Closes one connection.
    pub(super) async fn hang_up(&self, id: ConnectionId) -> Result<(), NetError> {
        self.0.say(Command::HangUp(id)).await
    }

    /// The relays that were asked.
    pub async fn relays(&self) -> Result<Vec<Relay>, NetError> {
        self.0.ask(|reply| Command::Relays { reply }).await
    }
}
