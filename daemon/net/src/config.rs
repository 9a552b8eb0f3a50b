//! What the swarm is told at its start.

/// Settings of the swarm; all bounds are per process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the network: prefix of its topics and of its Kademlia protocol.
    pub network: String,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Multiaddrs with a peer id, dialled until connected, again whenever the connection is lost.
    pub bootstrap: Vec<String>,
    /// Find peers on the LAN by multicast DNS, which announces this peer's addresses there.
    pub mdns: bool,
    /// Most established connections.
    pub max_connections: u32,
    /// When the least useful peers are let go of.
    pub water_marks: WaterMarks,
    /// Most connections to one peer.
    pub max_connections_per_peer: u32,
    /// Most inbound connections from one address: an IPv4 one, or an IPv6 /56; eight times as many from a /48.
    pub max_connections_per_address: u32,
    /// New inbound connections per second from one such place.
    pub new_connections_per_address: u32,
    /// Connections that are being made, in each direction.
    pub max_pending_connections: u32,
    /// Most streams of one connection that the peer opened.
    pub max_streams_per_connection: u32,
    /// From so many bytes of resident memory on, the least useful peers are let go of; `None`: never for that.
    pub memory_budget: Option<u64>,
    /// Topic that every daemon of the network follows: a peer of it that has not said so was not heard, and is connected anew.
    pub topic_of_all: String,
    /// Topics whose mesh has so many peers, where that is not 6.
    pub meshes: Vec<(String, usize)>,
    /// Part in the distributed hash table.
    pub dht: DhtMode,
    /// Protocol of the distributed hash table; `None`: the network's own.
    pub dht_protocol: Option<String>,
    /// Take the muxer mplex, too, where a peer has no yamux.
    pub mplex: bool,
    /// Sent to other peers by identify.
    pub agent: String,
}

/// When the least useful peers are let go of.
#[derive(Clone, Copy, Debug)]
pub struct WaterMarks {
    /// From more connected peers than this on.
    pub high: usize,
    /// Until so many remain.
    pub low: usize,
    /// Those connected for less are left alone, in milliseconds.
    pub grace_ms: u64,
}

/// Part in the distributed hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhtMode {
    /// Asks only, until a peer has dialled this one; then answers, too.
    Auto,
    /// Asks only.
    Client,
    /// Asks and answers.
    Server,
}
