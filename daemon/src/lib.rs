//! The libp2p system daemon: assembly of the floors below it. `app` starts them in order and stops them in reverse,
//! `api` is how programs ask for what the owners can do, `observe` tells how they fare.

mod api;
pub mod app;
pub mod config;
pub mod flags;
mod lock;
mod observe;
mod owners;
mod paths;
pub mod process;
mod signals;
mod systemd;
mod telemetry;
mod unreadable;

/// Version of p2pd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
