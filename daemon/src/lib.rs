//! The libp2p system daemon: assembly of the floors below it. `app` starts them in order and stops them in reverse,
//! `node` is what the daemon can do, `api` is how programs ask for it.

mod api;
pub mod app;
pub mod config;
pub mod flags;
mod lock;
mod node;
mod paths;
mod signals;
mod systemd;
mod telemetry;

/// Version of p2pd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
