//! How the swarm is made: its transports and what every connection passes through, its behaviour, and where it listens.

pub(crate) mod bandwidth;
pub(crate) mod behaviour;
pub(crate) mod build;
pub(crate) mod dns;
mod early_end;
pub(crate) mod far_end;
pub(crate) mod filtered;
mod first_byte;
mod lan;
pub(crate) mod listeners;
mod protocol_detect;
pub(crate) mod shaping;
mod transport;
mod watched;
