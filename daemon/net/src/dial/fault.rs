//! Why a peer was not reached, and what to do about it.

use std::{error::Error, fmt};

use futures::channel::oneshot::Canceled;
use libp2p::{Multiaddr, relay::outbound::hop::ConnectError, swarm::DialError};

use crate::{
    error::innermost,
    peers::incompatible::{Unshared, causes},
    swarm::dns::Unresolved,
};

/// Why a peer was not reached.
pub(super) enum Fault {
    Peer(String),
    Addresses(Vec<AddressFault>),
}

/// What became of an address, and what to do about it.
pub(super) struct AddressFault {
    address: Multiaddr,
    why: String,
    advice: Option<&'static str>,
}

pub(super) const SEE_PEER: &str = "see that it runs there and that no firewall is between";
const SEE_CLOCK: &str = "see that this machine's clock is right";
const SEE_NAME: &str = "see that the name is right and that a nameserver answers";

impl Fault {
    /// Why a dial failed, and what to do about it.
    pub(super) fn of(error: &DialError) -> Self {
        Fault::Peer(match error {
            DialError::WrongPeerId { obtained, .. } => {
                format!("{obtained} answered there; use that id if it is the one you want")
            }
            DialError::NoAddresses => {
                "no address of it is known; PeerService.Connect takes one that ends in /p2p/ and the peer id".into()
            }
            DialError::Denied { cause } => innermost(cause),
            DialError::Transport(faults) => {
                let each = faults.iter().map(|(address, fault)| {
                    let unshared = Unshared::of_transport(fault);
                    let of_relay = of_relay(fault);
                    let advice = match unshared {
                        Some(_) => None,
                        None if of_relay.is_some() => None,
                        None if Unresolved::is_cause(fault) => Some(SEE_NAME),
                        None if is_of_time(fault) => Some(SEE_CLOCK),
                        None => Some(SEE_PEER),
                    };
                    let why = unshared.map(|unshared| unshared.to_string());
                    let why = why.or(of_relay.map(str::to_owned)).unwrap_or_else(|| innermost(fault));
                    AddressFault { address: address.clone(), why, advice }
                });
                return Fault::Addresses(each.collect());
            }
            other => other.to_string(),
        })
    }

    /// The same of one address.
    pub(super) fn of_address(&self, address: &Multiaddr) -> Option<String> {
        match self {
            Fault::Peer(why) => Some(why.clone()),
            Fault::Addresses(each) => {
                let AddressFault { why, advice, .. } = each.iter().find(|fault| fault.address == *address)?;
                Some(advice.map_or_else(|| why.clone(), |advice| format!("{why}; {advice}")))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Peer(why) => f.write_str(why),
            Fault::Addresses(each) => {
                let told = each.iter().take(4).map(|AddressFault { address, why, .. }| format!("{address}: {why}"));
                let advice = each.iter().find_map(|fault| fault.advice).map(str::to_owned);
                f.write_str(&told.chain(advice).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// What a relay answers that does not pass on a connection.
fn of_relay(fault: &(dyn Error + 'static)) -> Option<&'static str> {
    let not_reached = |cause: &(dyn Error + 'static)| cause.is::<Canceled>();
    if causes(fault).any(not_reached) {
        return Some("the relay was not reached; see that it runs there and that no firewall is between");
    }
    Some(match causes(fault).find_map(|cause| cause.downcast_ref::<ConnectError>())? {
        ConnectError::NoReservation => {
            "the peer has no place at this relay; see the addresses that it has now, or that it is connected to the relay"
        }
        ConnectError::ResourceLimitExceeded => "the relay passes on as many connections as it may; try again later",
        ConnectError::ConnectionFailed => "the relay does not reach the peer any more",
        ConnectError::PermissionDenied => "the relay does not let this daemon through",
        ConnectError::Unsupported => "the peer of that id at this address passes on no connections",
        ConnectError::Io(_) | ConnectError::Protocol(_) => return None,
    })
}

/// Whether a certificate was refused for its time: libp2p's begin in 1975, and end in 4096.
fn is_of_time(fault: &dyn std::error::Error) -> bool {
    innermost(fault).contains("InvalidCertValidity")
}
