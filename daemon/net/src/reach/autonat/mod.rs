//! AutoNAT v2: peers that try whether an own address is reached, and the same for them.
//!
//! Not the library's: its client tests no address again, lets none expire, and waits for ever where a server says yes and does not dial;
//! its server has no bound, and can refuse a request only by the lie that the address is not reached.

mod client;
mod server;
mod wire;

pub(crate) use self::{client::run as ask, server::run as serve};
