//! Who is connected: what each peer said of itself, why its connections end, who has to go when there are too many, and which
//! connections only look alive.

pub(crate) mod connection_gater;
pub(crate) mod dial_filter;
pub(crate) mod incompatible;
pub(crate) mod memory_limit;
mod prune;
mod silent_peers;
pub(crate) mod table;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, ping,
    swarm::{ConnectionError, ConnectionId, DialError},
};
use p2pd_core::{connection_rules::Rules, id, time::MonoMs};
use tokio::sync::oneshot;

use self::{
    connection_gater::Gater,
    incompatible::{Incompatibilities, Unshared},
    memory_limit::{Governor, Held},
    prune::WaterMarks,
    silent_peers::SilentPeers,
    table::{Closed, PeerInfo, Table},
};
use crate::{
    Event, NetError, Network,
    commands::{Commands, Reply},
    context::{Context, Effect, HangUp},
    error::innermost,
    ids,
    reach::{Replaced, circuit_limit::CircuitLimit},
    standing::Standings,
    swarm::{
        bandwidth::{Meter, Meters},
        far_end::far_end,
    },
};

pub(crate) enum Command {
    Disconnect { peer: PeerId, why: HangUp, reply: Reply<()> },
    List { reply: oneshot::Sender<Vec<PeerInfo>> },
    Get { peer: PeerId, reply: oneshot::Sender<Option<PeerInfo>> },
    Connected { reply: oneshot::Sender<Vec<id::PeerId>> },
    IsConnected { peer: PeerId, reply: oneshot::Sender<bool> },
    Speaking { protocol: String, reply: oneshot::Sender<Vec<id::PeerId>> },
    Closed { reply: oneshot::Sender<Vec<Closed>> },
    SetRules { rules: Rules, reply: oneshot::Sender<()> },
}

pub(crate) struct Peers {
    table: Table,
    meters: Meters,
    protocol_version: String,
    mplex: bool,
    water_marks: WaterMarks,
    governor: Governor,
    /// Peers that ought to have told their subscriptions.
    silent: SilentPeers,
    /// Peers whose gossip has ended.
    mute: SilentPeers,
    /// Connections that we close, and why.
    closing: HashMap<ConnectionId, HangUp>,
    incompatible: Incompatibilities,
}

impl Peers {
    pub(crate) fn new(network: &Network, meters: Meters, held: Held) -> Self {
        Peers {
            table: Table::default(),
            meters,
            protocol_version: network.protocol_version(),
            mplex: network.mplex,
            water_marks: WaterMarks::of(network),
            governor: Governor::new(network.memory_budget(), held),
            silent: SilentPeers::default(),
            mute: SilentPeers::lasting(),
            closing: HashMap::new(),
            incompatible: Incompatibilities::default(),
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn on_command(
        &mut self,
        context: &mut Context,
        gater: &mut Gater,
        command: Command,
        standings: impl FnOnce() -> Standings,
    ) {
        match command {
            Command::Disconnect { peer, why, reply } => {
                let known = self.table.contains(&peer);
                let _ = reply.send(known.then_some(()).ok_or_else(|| NetError::NotConnected(peer.to_string())));
                self.hang_up(context, peer, why);
            }
            Command::List { reply } => drop(reply.send(self.table.list(&standings()))),
            Command::Get { peer, reply } => drop(reply.send(self.table.get(&peer, &standings()))),
            Command::IsConnected { peer, reply } => drop(reply.send(self.table.contains(&peer))),
            Command::Speaking { protocol, reply } => drop(reply.send(self.table.speaking(&protocol))),
            Command::Connected { reply } => {
                let _ = reply.send(self.table.ids().map(ids::from_libp2p).collect());
            }
            Command::Closed { reply } => drop(reply.send(self.table.closed_ones())),
            Command::SetRules { rules, reply } => {
                self.set_rules(context, gater, rules);
                let _ = reply.send(());
            }
        }
    }

    /// Notes a connection. Its meter, where there is one.
    pub(crate) fn on_connected(
        &mut self,
        context: &mut Context,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) -> Option<std::sync::Arc<Meter>> {
        let address = far_end(endpoint);
        let meter = self.meters.claim(&peer, &address);
        context.is_back(&ids::from_libp2p(&peer));
        let at = (self.table.with_relay(address.into()).without_peer(), endpoint.is_listener());
        if self.table.opened(peer, id, at, meter.clone(), context.wall()) {
            context.tell(Event::Connected(ids::from_libp2p(&peer)));
        }
        meter
    }

    /// Notes the end of a connection; `limit` is how much a relay passes on. Why it ended.
    pub(crate) fn on_closed(
        &mut self,
        context: &mut Context,
        peer: PeerId,
        id: ConnectionId,
        cause: Option<&ConnectionError>,
        limit: impl FnOnce(&id::PeerId) -> Option<CircuitLimit>,
    ) -> String {
        let hung_up = self.closing.remove(&id);
        // Because we let go of the peer, or as the transport has it.
        let lack = cause.and_then(|error| Unshared::muxer(error, self.mplex));
        let cut = || self.table.relay(&peer, id).and_then(|(relay, carried)| limit(&relay)?.cut(carried));
        let why = match (hung_up, cause) {
            (Some(hung_up), _) => hung_up.why.to_owned(),
            (None, _) if let Some(cut) = cut() => cut,
            (None, Some(_)) if let Some(lack) = lack => lack.to_string(),
            (None, None) => "closed by either side in good order".to_owned(),
            (None, Some(error)) => innermost(error),
        };
        if let Some(lack) = lack {
            self.incompatible.tell(context, peer.to_string(), lack);
        }
        if self.table.closed(&peer, id, why.clone(), context.wall()) {
            let for_good = hung_up.is_some_and(|hung_up| hung_up.for_good);
            context.tell(Event::Disconnected { peer: ids::from_libp2p(&peer), for_good });
        }
        why
    }

    /// A peer has dialled that cannot be connected for what it lacks.
    pub(crate) fn on_refused(&mut self, context: &mut Context, address: &Multiaddr, lack: Unshared) {
        let peer = self.meters.refused(address);
        self.on_incompatible(context, peer, address.clone(), true, lack);
    }

    pub(crate) fn on_dial_failed(&mut self, context: &mut Context, peer: Option<PeerId>, error: &DialError) {
        let DialError::Transport(faults) = error else { return };
        // Only where every address has failed for something that is not shared.
        let lacks = faults.iter().map_while(|(address, fault)| Some((address, Unshared::of_transport(fault)?)));
        let lacks: Vec<_> = lacks.collect();
        if let (Some((address, lack)), true) = (lacks.first(), lacks.len() == faults.len()) {
            self.on_incompatible(context, peer, (*address).clone(), false, *lack);
        }
    }

    fn on_incompatible(
        &mut self,
        context: &mut Context,
        peer: Option<PeerId>,
        address: Multiaddr,
        inbound: bool,
        lack: Unshared,
    ) {
        // Whoever has no id comes from another port each time.
        let who = match peer {
            Some(peer) => peer.to_string(),
            None => address.iter().take(1).collect::<Multiaddr>().to_string(),
        };
        if self.incompatible.tell(context, who, lack) {
            let peer = peer.as_ref().map(ids::from_libp2p);
            self.table.failed(peer, address, inbound, lack.to_string(), context.wall());
        }
    }

    /// Closes a connection that only looks alive: the peer is frozen or out of reach, and its place may be dialled elsewhere.
    pub(crate) fn on_ping(&mut self, context: &mut Context, ping::Event { peer, connection, result }: ping::Event) {
        let rtt = match result {
            Ok(rtt) => Some(rtt),
            Err(ping::Failure::Timeout) => None,
            // It has refused the stream, and lives.
            Err(_) => return,
        };
        if !self.table.pinged(&peer, connection, rtt) {
            tracing::info!(%peer, "it answers no ping; closing the connection");
            self.close(context, connection, HangUp { why: "it did not answer pings", for_good: false });
        }
    }

    pub(crate) fn on_identify(&mut self, context: &mut Context, peer: &PeerId, info: &identify::Info) {
        self.table.identified(peer, info, info.protocol_version == self.protocol_version);
        context.tell(Event::Identified(ids::from_libp2p(peer)));
    }

    /// Closes all connections to a peer, and remembers why until they are gone.
    pub(crate) fn hang_up(&mut self, context: &mut Context, peer: PeerId, why: HangUp) {
        for id in self.table.connections(&peer).collect::<Vec<_>>() {
            self.close(context, id, why);
        }
    }

    /// Has gossip leave a connection through a relay beside which a direct one stands, and closes it when it is of no use any more: when
    /// nothing of gossip has come on it for a second, or that takes too long, and no stream of it is one for which the peer is kept.
    pub(crate) fn replace(&mut self, context: &mut Context, replaced: Replaced) {
        let Replaced { peer, id, leaves, may_go, must_go } = replaced;
        if self.closing.contains_key(&id) || !leaves {
            return;
        }
        let is_quiet = self.table.leave(&peer, id);
        if (must_go || (may_go && is_quiet)) && !self.table.carries(&peer, id) {
            self.close(context, id, HangUp { why: "a direct connection stands in its place", for_good: false });
        }
    }

    fn close(&mut self, context: &mut Context, id: ConnectionId, why: HangUp) {
        self.closing.insert(id, why);
        context.want(Effect::Close(id));
    }

    fn set_rules(&mut self, context: &mut Context, gater: &mut Gater, rules: Rules) {
        let more = gater.set(rules);
        // What was dialled by name is dialled anew, where it may.
        let ends = |peer: &_, address: &_| gater.denies(peer, address) || (more && gater.doubts(peer, address));
        for (peer, id, address) in self.table.connections_where(ends) {
            let for_good = gater.denies(&peer, &address);
            let why = if for_good { "a rule denies it" } else { "a rule may deny where its name leads" };
            self.close(context, id, HangUp { why, for_good });
        }
    }

    /// Sees to what changes by itself. `followers` of the topic that every daemon of our network follows.
    pub(crate) fn on_tick(
        &mut self,
        context: &mut Context,
        followers: &HashSet<PeerId>,
        standings: impl Fn() -> Standings,
    ) {
        let now = context.now();
        self.hang_up_silent(context, followers, now);
        self.hang_up_mute(context, now);
        let marks = self.water_marks;
        self.prune(context, marks, &standings, "more peers than wanted, and of little use");
        if let Some(room) = self.governor.room(now, self.table.len()) {
            let marks = WaterMarks { high: room, low: room, grace: Duration::ZERO };
            self.prune(context, marks, &standings, "more memory than network.memory, and of little use");
        }
    }

    /// Hangs up on peers that ought to follow the topic of all and have not said so.
    fn hang_up_silent(&mut self, context: &mut Context, followers: &HashSet<PeerId>, now: MonoMs) {
        let silent = self.table.ours().filter(|peer| !followers.contains(peer)).collect();
        for peer in self.silent.overdue(now, silent, |peer| self.table.contains(peer)) {
            tracing::info!(%peer, "its subscriptions were not heard; connecting anew");
            self.hang_up(context, peer, HangUp { why: "its subscriptions were not heard", for_good: false });
        }
    }

    /// Connects anew to peers with which a stream of gossipsub has ended. The library opens it again a few times and then never:
    /// such a peer looks connected and hears nothing.
    fn hang_up_mute(&mut self, context: &mut Context, now: MonoMs) {
        // Who talks to it over the same connection comes first.
        let mute = self.table.mute().into_iter().filter(|peer| !self.table.is_busy(peer)).collect();
        for peer in self.mute.overdue(now, mute, |peer| self.table.contains(peer)) {
            tracing::warn!(%peer, "its gossip stream has ended; connecting anew");
            context.tell(Event::GossipEnded(ids::from_libp2p(&peer)));
            self.hang_up(context, peer, HangUp { why: "its gossip stream had ended", for_good: false });
        }
    }

    /// Hangs up on the least useful peers when there are too many.
    fn prune(
        &mut self,
        context: &mut Context,
        marks: WaterMarks,
        standings: &impl Fn() -> Standings,
        why: &'static str,
    ) {
        if self.table.len() <= marks.high {
            return;
        }
        for peer in prune::surplus_of(&self.table, &standings(), marks) {
            tracing::debug!(%peer, "let go of: {why}");
            self.hang_up(context, peer, HangUp { why, for_good: true });
        }
    }
}

/// Asks who is connected, and says who may be.
#[derive(Clone)]
pub struct Handle {
    pub(crate) commands: Commands<Command>,
    pub(crate) held: Held,
}

impl Handle {
    /// Bytes of programs' messages that the daemon holds on their way here, to be kept up to date by it.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The connected peers.
    pub async fn list(&self) -> Result<Vec<PeerInfo>, NetError> {
        self.commands.ask(|reply| Command::List { reply }).await
    }

    /// One of them, if it is connected.
    pub async fn get(&self, peer: &id::PeerId) -> Result<Option<PeerInfo>, NetError> {
        let Some(peer) = ids::to_libp2p(peer) else { return Ok(None) };
        self.commands.ask(|reply| Command::Get { peer, reply }).await
    }

    /// Whether a peer is connected.
    pub async fn is_connected(&self, peer: &id::PeerId) -> Result<bool, NetError> {
        let Some(peer) = ids::to_libp2p(peer) else { return Ok(false) };
        self.commands.ask(|reply| Command::IsConnected { peer, reply }).await
    }

    /// Those that have said that they speak a protocol.
    pub async fn speaking(&self, protocol: &str) -> Result<Vec<id::PeerId>, NetError> {
        self.commands.ask(|reply| Command::Speaking { protocol: protocol.to_owned(), reply }).await
    }

    /// Who is connected, without more about them.
    pub async fn connected(&self) -> Result<Vec<id::PeerId>, NetError> {
        self.commands.ask(|reply| Command::Connected { reply }).await
    }

    /// The connections that closed last, oldest first.
    pub async fn closed(&self) -> Result<Vec<Closed>, NetError> {
        self.commands.ask(|reply| Command::Closed { reply }).await
    }

    /// Puts these rules of who may connect in place of those before, and closes the connections that they deny.
    pub async fn set_rules(&self, rules: Rules) -> Result<(), NetError> {
        self.commands.ask(|reply| Command::SetRules { rules, reply }).await
    }

    /// Closes every connection to the peer, because a program asked for it.
    pub async fn disconnect(&self, peer: &id::PeerId) -> Result<(), NetError> {
        self.hang_up(peer, HangUp { why: "a program asked for it", for_good: true }).await
    }

    /// Closes every connection to a peer that does not answer, so that it is connected anew.
    pub async fn renew(&self, peer: &id::PeerId) -> Result<(), NetError> {
        let why = "it did not answer after this machine's addresses changed";
        self.hang_up(peer, HangUp { why, for_good: false }).await
    }

    async fn hang_up(&self, peer: &id::PeerId, why: HangUp) -> Result<(), NetError> {
        let id = ids::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        self.commands.ask(|reply| Command::Disconnect { peer: id, why, reply }).await?
    }
}
