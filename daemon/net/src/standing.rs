//! What the drivers know of each peer, for who has to choose among peers.

use std::collections::HashMap;

use libp2p::PeerId;

/// What the drivers know of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Why this daemon stays connected to it: `bootstrap`, `pinned`.
    pub(crate) wanted: Vec<&'static str>,
    /// Topics of ours that it follows, counted twice where it is in the mesh.
    pub(crate) topics: u32,
    pub(crate) in_mesh: bool,
    /// Gossipsub's.
    pub(crate) score: f64,
    /// Messages that it missed.
    pub(crate) lost: u64,
}

pub(crate) type Standings = HashMap<PeerId, Standing>;
