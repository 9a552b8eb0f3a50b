//! Dialling: on request with an answer, for ever toward peers that are wanted, bootstrap and pinned ones, and of peers that discovery
//! has found while few are connected.

mod address;
mod fault;
mod wanted;

use std::{collections::HashMap, time::Duration};

use libp2p::{
    Multiaddr, mdns,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use p2pd_core::{
    id::PeerId,
    multiaddr::Multiaddr as Address,
    pins::{Pin, Pins},
    time::MonoMs,
};
use tokio::sync::oneshot;

pub(crate) use address::{check_announce, check_direct, parse, parse_announce, parse_listen};
pub use address::{check_listen, check_peer, peer_address};

use self::{
    fault::Fault,
    wanted::{Configured, Wanted, Why},
};
use crate::{
    NetError, Network,
    commands::{Commands, Reply},
    context::{Context, Effect},
    ids,
    standing::Standings,
};

/// Most dials on request that wait for their answer.
const MAX_PENDING: usize = 128;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long after the last dial a peer that is connected counts as steady, in milliseconds. One that hangs up sooner may not
/// want us.
const STEADY_MS: u64 = 60_000;

/// How a peer is to be reached.
pub(crate) enum Ways {
    /// As the caller said, and no other way.
    Only(Multiaddr),
    /// At any of these, or wherever else it is known to be.
    Any(Vec<Multiaddr>),
}

/// Why a bootstrap peer was not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapFault {
    /// As the configuration has it.
    pub address: String,
    /// The last fault.
    pub why: String,
}

pub(crate) enum Command {
    Connect { peer: libp2p::PeerId, ways: Ways, reply: Reply<PeerId> },
    SetPins { pins: Pins, reply: oneshot::Sender<()> },
    Faults { reply: oneshot::Sender<Vec<BootstrapFault>> },
}

/// Enough connected peers for discovery to dial no more.
const ENOUGH: usize = 24;
/// Most peers that are dialled of one answer of mDNS.
const MAX_FOUND: usize = 64;

/// A dial on request.
struct Pending {
    peer: libp2p::PeerId,
    reply: Reply<PeerId>,
}

pub(crate) struct Dial {
    own: libp2p::PeerId,
    /// By connection, since two callers may dial one peer.
    pending: HashMap<ConnectionId, Pending>,
    /// Callers whose peer is being dialled already, for whatever reason.
    joined: Vec<Pending>,
    wanted: Vec<Wanted>,
    /// How many connections stand to each connected peer.
    connected: HashMap<libp2p::PeerId, usize>,
    /// So many connected peers are enough for discovery.
    enough: usize,
}

impl Dial {
    pub(crate) fn new(network: &Network, own: libp2p::PeerId) -> Result<Self, NetError> {
        // Not those that would have to go again.
        let mut dial = Self::build(own, &network.bootstrap, ENOUGH.min(network.connections_low as usize))?;
        for text in &network.relays {
            let (peer, address) = parse(text)?;
            match dial.wanted.iter_mut().find(|wanted| wanted.peer == peer) {
                Some(wanted) if wanted.addresses.contains(&address) => {}
                Some(wanted) => wanted.addresses.push(address),
                None => dial.wanted.push(Wanted::new(peer, vec![address], Why::Relay)),
            }
        }
        Ok(dial)
    }

    fn build(own: libp2p::PeerId, bootstrap: &[String], enough: usize) -> Result<Self, NetError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in bootstrap {
            let (peer, address) = parse(text)?;
            let configured = Configured { text: text.clone(), address: address.clone() };
            // All addresses of a peer are dialled together: which of them is reached from here, nobody knows before.
            match wanted.iter_mut().find(|wanted| wanted.peer == peer) {
                Some(wanted) => {
                    wanted.addresses.push(address);
                    wanted.bootstrap.push(configured);
                }
                None => {
                    wanted.push(Wanted {
                        bootstrap: vec![configured],
                        ..Wanted::new(peer, vec![address], Why::Bootstrap)
                    });
                }
            }
        }
        Ok(Dial { own, pending: HashMap::new(), joined: Vec::new(), wanted, connected: HashMap::new(), enough })
    }

    pub(crate) fn on_command(&mut self, context: &mut Context, command: Command) {
        match command {
            Command::Connect { peer, ways, reply } => self.connect(context, peer, ways, reply),
            Command::SetPins { pins, reply } => {
                self.pin(&pins);
                let _ = reply.send(());
            }
            Command::Faults { reply } => drop(reply.send(self.faults())),
        }
    }

    /// Stays connected to these peers, beside those of the configuration, in place of those before.
    fn pin(&mut self, pins: &Pins) {
        let addresses = |pin: &Pin| pin.addresses.iter().cloned().map(Multiaddr::from).collect();
        let wanted = |(peer, pin): (&PeerId, &Pin)| {
            Some(Wanted { passive: pin.passive, ..Wanted::new(ids::to_libp2p(peer)?, addresses(pin), Why::Pinned) })
        };
        self.wanted.retain(|wanted| wanted.why != Why::Pinned);
        self.wanted.extend(pins.0.iter().filter_map(wanted));
    }

    /// Adds why this daemon stays connected to peers.
    pub(crate) fn add_standings(&self, standings: &mut Standings) {
        for wanted in &self.wanted {
            let why = wanted.why.name();
            let reasons = &mut standings.entry(wanted.peer).or_default().wanted;
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
    }

    fn connect(&mut self, context: &mut Context, peer: libp2p::PeerId, ways: Ways, reply: Reply<PeerId>) {
        if peer == self.own {
            let fault = "that is this daemon itself".into();
            let _ = reply.send(Err(NetError::Address { address: peer.to_string(), fault }));
            return;
        }
        if let Ways::Only(address) = &ways
            && Address::from(address.clone()).relay().and_then(|relay| ids::to_libp2p(&relay.peer)) == Some(self.own)
        {
            let fault = "its relay is this daemon itself".into();
            let _ = reply.send(Err(NetError::Address { address: address.to_string(), fault }));
            return;
        }
        if self.connected.contains_key(&peer) {
            let _ = reply.send(Ok(ids::from_libp2p(&peer)));
            return;
        }
        self.pending.retain(|_, pending| !pending.reply.is_closed());
        self.joined.retain(|pending| !pending.reply.is_closed());
        if self.pending.len().saturating_add(self.joined.len()) >= MAX_PENDING {
            let _ = reply.send(Err(NetError::Limit("128 dials are under way; try again")));
            return;
        }
        let options = match ways {
            Ways::Only(address) => DialOpts::peer_id(peer).addresses(vec![ids::without_peer(address)]).build(),
            Ways::Any(addresses) => {
                // Each way once, however it was written: the other side tells a new dial from an old one by that.
                let mut ways: Vec<Multiaddr> = Vec::new();
                for way in addresses.into_iter().map(ids::without_peer) {
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                }
                DialOpts::peer_id(peer).addresses(ways).extend_addresses_through_behaviour().build()
            }
        };
        self.pending.insert(options.connection_id(), Pending { peer, reply });
        context.want(Effect::Dial(options));
    }

    /// The callers that joined a dial of this peer.
    fn joined(&mut self, peer: libp2p::PeerId) -> Vec<Reply<PeerId>> {
        self.joined.extract_if(.., |pending| pending.peer == peer).map(|pending| pending.reply).collect()
    }

    pub(crate) fn on_connected(&mut self, peer: &libp2p::PeerId, id: ConnectionId) {
        let connections = self.connected.entry(*peer).or_default();
        *connections = connections.saturating_add(1);
        let dialled = self.pending.remove(&id).map(|pending| pending.reply);
        for reply in dialled.into_iter().chain(self.joined(*peer)) {
            let _ = reply.send(Ok(ids::from_libp2p(peer)));
        }
        self.note(peer, None);
    }

    /// Notes the end of a connection, and why.
    pub(crate) fn on_closed(&mut self, peer: &libp2p::PeerId, why: &str) {
        if let Some(connections) = self.connected.get_mut(peer) {
            *connections = connections.saturating_sub(1);
            if *connections == 0 {
                self.connected.remove(peer);
            }
        }
        self.note(peer, Some(why));
    }

    /// Notes why a peer that was reached was lost again; `None` when it stands.
    fn note(&mut self, peer: &libp2p::PeerId, fault: Option<&str>) {
        let of_peer = self.wanted.iter_mut().filter(|wanted| wanted.peer == *peer);
        of_peer.for_each(|wanted| wanted.fault = fault.map(|why| Fault::Peer(why.to_owned())));
    }

    /// Why addresses of bootstrap peers were not reached.
    fn faults(&self) -> Vec<BootstrapFault> {
        let all = self.wanted.iter().flat_map(|wanted| wanted.bootstrap.iter().map(move |address| (wanted, address)));
        let fault = |(wanted, Configured { text, address }): (&Wanted, &Configured)| {
            let why = wanted.fault.as_ref()?.of_address(address)?;
            Some(BootstrapFault { address: text.clone(), why })
        };
        all.filter_map(fault).collect()
    }

    pub(crate) fn on_failed(&mut self, peer: Option<libp2p::PeerId>, id: ConnectionId, error: &DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            // It is being dialled already.
            self.joined.extend(self.pending.remove(&id));
            return;
        }
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.dial == Some(id)) {
            wanted.fault = Some(Fault::of(error));
            if let DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } = error {
                wanted.misleading.push(ids::without_peer(address.clone()));
            }
        }
        let dialled = self.pending.remove(&id);
        let of = dialled.as_ref().map(|pending| pending.peer).or(peer);
        let joined = peer.map(|peer| self.joined(peer)).unwrap_or_default();
        for reply in dialled.into_iter().map(|pending| pending.reply).chain(joined) {
            let _ = reply.send(Err(unreachable(&of.map(|peer| peer.to_string()).unwrap_or_default(), error)));
        }
    }

    /// Dials the wanted peers that are not connected, each with growing patience.
    pub(crate) fn on_tick(&mut self, context: &mut Context) {
        let now = context.now();
        for wanted in self.wanted.iter_mut().filter(|wanted| !wanted.passive) {
            if self.connected.contains_key(&wanted.peer) {
                if now.since(wanted.next) >= STEADY_MS {
                    wanted.wait = RETRY_FIRST;
                }
                continue;
            }
            if now < wanted.next {
                continue;
            }
            wanted.next = MonoMs(now.0.saturating_add(u64::try_from(wanted.wait.as_millis()).unwrap_or(u64::MAX)));
            wanted.wait = (wanted.wait * 2).min(RETRY_MAX);
            let options = DialOpts::peer_id(wanted.peer).addresses(wanted.next_addresses());
            let options =
                if wanted.why == Why::Bootstrap { options } else { options.extend_addresses_through_behaviour() };
            let options = options.build();
            wanted.dial = Some(options.connection_id());
            context.want(Effect::Dial(options));
        }
    }

    pub(crate) fn on_mdns(&mut self, context: &mut Context, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        for (peer, address) in found.into_iter().take(MAX_FOUND) {
            self.on_found(context, peer, vec![address]);
        }
    }

    /// Connects to a peer that discovery found, as long as few are connected.
    pub(crate) fn on_found(&mut self, context: &mut Context, peer: libp2p::PeerId, addresses: Vec<Multiaddr>) {
        if addresses.is_empty() || self.connected.contains_key(&peer) || self.connected.len() >= self.enough {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(addresses);
        // It finds us at the same moment. Two dials from the ports that both listen on would meet as one connection of TCP,
        // on which each side waits for the other's answer.
        context.want(Effect::Dial(options.allocate_new_port().build()));
    }
}

/// Asks for connections.
#[derive(Clone)]
pub struct Handle(pub(crate) Commands<Command>);

impl Handle {
    /// Dials a multiaddr that ends in `/p2p/<peer id>`, and no other. Answers when the connection stands or every way has failed.
    pub async fn connect(&self, address: &str) -> Result<PeerId, NetError> {
        let (peer, address) = parse(address)?;
        self.0.ask(|reply| Command::Connect { peer, ways: Ways::Only(address), reply }).await?
    }

    /// Dials a peer at the addresses it is said to have.
    pub async fn connect_peer(&self, peer: &PeerId, addresses: Vec<Address>) -> Result<PeerId, NetError> {
        let id = ids::to_libp2p(peer).ok_or_else(|| NetError::NotConnected(peer.to_string()))?;
        let ways = Ways::Any(addresses.into_iter().map(Into::into).collect());
        self.0.ask(|reply| Command::Connect { peer: id, ways, reply }).await?
    }

    /// Stays connected to these peers, in place of those before.
    pub async fn set_pins(&self, pins: Pins) -> Result<(), NetError> {
        self.0.ask(|reply| Command::SetPins { pins, reply }).await
    }

    /// Why addresses of bootstrap peers were not reached when they were last dialled.
    pub async fn bootstrap_faults(&self) -> Result<Vec<BootstrapFault>, NetError> {
        self.0.ask(|reply| Command::Faults { reply }).await
    }
}

fn unreachable(peer: &str, error: &DialError) -> NetError {
    NetError::Unreachable { peer: peer.to_owned(), fault: Fault::of(error).to_string() }
}

#[cfg(test)]
mod tests {
    use super::{fault::SEE_PEER, *};

    #[test]
    fn all_addresses_of_a_bootstrap_peer_are_tried_and_each_has_its_fault() {
        let address =
            |n: u8| format!("/ip4/192.0.2.{n}/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
        let mut dial = Dial::build(libp2p::PeerId::random(), &[address(1), address(2)], ENOUGH).unwrap();
        assert_eq!(dial.wanted.iter().map(|wanted| wanted.addresses.len()).collect::<Vec<_>>(), [2]);
        let failed = |n| {
            let error = std::io::Error::other(format!("fault {n}"));
            (address(n).parse().unwrap(), libp2p::TransportError::Other(error))
        };
        dial.wanted[0].fault = Some(Fault::of(&DialError::Transport(vec![failed(2), failed(1)])));
        let whys: Vec<_> = dial.faults().into_iter().map(|fault| (fault.address, fault.why)).collect();
        assert_eq!(whys, [1, 2].map(|n| (address(n), format!("fault {n}; {SEE_PEER}"))));
    }
}
