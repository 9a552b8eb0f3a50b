//! The contract of p2pd: types and clients generated from `proto/`, the way to the daemon's socket, and the reasons
//! that errors carry.

mod connect;
mod hostile;
pub mod local;
#[cfg(test)]
mod methods;
mod reason;

pub use connect::{CALLS, ConnectError, MAX_FRAME, WINDOW, WINDOWS, connect, default_socket};
pub use hostile::is_hostile;
pub use reason::{DOMAIN, Reason, reason_of};

/// Generated from `p2pd/v1/*.proto`, where everything is documented.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("p2pd.v1");
    include!(concat!(env!("OUT_DIR"), "/methods.rs"));

    /// The encoded `FileDescriptorSet`, for reflection and for turning messages into JSON.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/p2pd.v1.binpb"));
}
