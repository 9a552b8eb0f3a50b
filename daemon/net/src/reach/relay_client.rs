//! Being reached through relays, and reaching others through them, as the library has it, but for one thing: it confirms the
//! address over a relay as the relay was dialled, which may be one of this machine or this network, and which others then hear of. What is
//! told, [`super::Reach`] decides.
//!
//! A listener of this transport must not be removed: if it goes between a request and its answer, the library panics.

use libp2p::{relay::client, swarm::ToSwarm};

use crate::swarm::filtered::{Filter, Filtered, Wish};

pub(crate) type RelayClient = Filtered<client::Behaviour, Unconfirmed>;

/// Nothing is confirmed by itself.
pub(crate) struct Unconfirmed;

impl Filter<client::Behaviour> for Unconfirmed {
    fn passes(&mut self, wish: &Wish<client::Behaviour>) -> bool {
        !matches!(wish, ToSwarm::ExternalAddrConfirmed(_) | ToSwarm::ExternalAddrExpired(_))
    }
}
