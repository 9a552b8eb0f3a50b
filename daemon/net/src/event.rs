//! What the network tells the daemon.

use p2pd_core::{id::PeerId, multiaddr::Multiaddr};

/// A change of the network's state.
#[derive(Clone, Debug)]
pub enum Event {
    /// First connection to a peer.
    Connected(PeerId),
    /// Last connection to a peer closed.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// This daemon has hung up, and does not want the peer back.
        for_good: bool,
    },
    /// A peer told who it is.
    Identified(PeerId),
    /// A peer cannot be connected for what it lacks.
    Incompatible {
        /// Its id, or where it is.
        who: String,
        /// What.
        why: String,
    },
    /// Listening on an address.
    Listening(Multiaddr),
    /// Not listening on it any more.
    ListeningNoMore(Multiaddr),
    /// The world reaches this daemon at an own address from now on.
    Reached {
        /// Where.
        address: Multiaddr,
        /// The peer that has tested it.
        by: PeerId,
    },
    /// The world does not reach it there, or not any more.
    NotReached {
        /// Where.
        address: Multiaddr,
        /// The peer that has tested it last.
        by: PeerId,
    },
    /// A relay passes on connections to this daemon from now on.
    RelayReserved(PeerId),
    /// A relay passes on no connections to this daemon any more.
    RelayLost {
        /// Who.
        relay: PeerId,
        /// Why.
        why: String,
    },
    /// This daemon passed on a connection, which has reached the limit.
    CircuitCut {
        /// Who dialled.
        from: PeerId,
        /// Whom.
        to: PeerId,
        /// Which limit.
        why: &'static str,
    },
    /// A direct connection to a peer stands in place of one through a relay.
    Upgraded(PeerId),
    /// The gossip stream with a peer had ended, so its connections are closed and made anew.
    GossipEnded(PeerId),
    /// A peer follows a topic from now on.
    Joined {
        /// Who.
        peer: PeerId,
        /// What.
        topic: String,
    },
    /// A peer follows a topic no more.
    Left {
        /// Who.
        peer: PeerId,
        /// What.
        topic: String,
    },
}
