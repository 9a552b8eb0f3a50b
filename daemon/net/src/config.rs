//! What the swarm is told at its start: the settings of `[network]`, and what the daemon adds.

mod bandwidth;

use std::time::Duration;

use confique::Config as _;
use p2pd_core::setting::{self, Fault, Size, Span, within};
use serde::{Deserialize, Serialize};

pub use self::bandwidth::Bandwidth;
use crate::{
    NetError, check_listen, check_peer,
    dial::{check_announce, check_direct},
};

/// Of the connections, the part that peers cannot take from here.
const OUTBOUND_SHARE: u32 = 8;
/// Most addresses that are announced.
const MAX_ANNOUNCED: usize = 16;
/// Most relays that are listed.
const MAX_RELAYS: usize = 8;

/// What the swarm is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings.
    pub network: Network,
    /// What is passed on for others.
    pub relay: RelayLimits,
    /// How fast bytes go.
    pub bandwidth: Bandwidth,
    /// Topic that every daemon of the network follows: a peer of it that has not said so was not heard, and is connected anew.
    pub topic_of_all: String,
    /// Topics whose mesh has so many peers, where that is not 6.
    pub meshes: Vec<(String, usize)>,
    /// Sent to other peers by identify.
    pub agent: String,
}

/// The peer-to-peer network.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Network {
    /// Name of the network. Peers of one name find each other's streams, and share a DHT. Topics and protocols of programs are not kept apart by it: connected peers
    /// share them whatever their network.
    #[config(default = "argus-defense", env = "P2PD_NETWORK_NAME", parse_env = setting::text)]
    pub name: String,

    /// What the line costs: "usual" or "metered". Metered are other defaults, for a line that is paid by the byte: about 24 connected peers, meshes
    /// of 3, and no service to others as a relay, in the DHT or as a tester of addresses.
    #[config(default = "usual", env = "P2PD_NETWORK_PROFILE")]
    pub profile: Profile,

    /// Multiaddrs to listen on. /tcp/0 and /udp/0 take any free port. A machine without IPv6, or without IPv4, does
    /// without the addresses of that kind; one that it gets later is listened on then.
    #[config(
        default = [
            "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4002/ws",
            "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1", "/ip6/::/tcp/4002/ws",
        ],
        env = "P2PD_NETWORK_LISTEN", parse_env = setting::list
    )]
    pub listen: Vec<String>,

    /// Addresses at which others reach this machine and that it does not know of itself, such as those of a router that forwards ports
    /// to it: at most 16 multiaddrs without a peer id. Peers are told of them first. The variable takes several, separated by commas.
    #[config(default = [], env = "P2PD_NETWORK_ANNOUNCE", parse_env = setting::list)]
    pub announce: Vec<String>,

    /// Peers to stay connected to, as multiaddrs that end in /p2p/ and the peer id. The variable takes several, separated by
    /// commas.
    #[config(default = [], env = "P2PD_NETWORK_BOOTSTRAP", parse_env = setting::list)]
    pub bootstrap: Vec<String>,

    /// Relays at which this daemon has itself be reached while it has no address that the world reaches, before others that are
    /// connected: at most 8, as multiaddrs that end in /p2p/ and the peer id. It stays connected to them. The variable takes several, separated by
    /// commas.
    #[config(default = [], env = "P2PD_NETWORK_RELAYS", parse_env = setting::list)]
    pub relays: Vec<String>,

    /// Whether connections through relays are replaced by direct ones, where both routers let that happen: "on" or "off". It tells
    /// the peer where others see this daemon.
    #[config(default = "on", env = "P2PD_NETWORK_HOLE_PUNCHING")]
    pub hole_punching: Switch,

    /// Whether this daemon passes on connections to peers that others do not reach: "on" or "off". Turn it on where the world reaches
    /// this machine; `[relay]` has the bounds.
    #[config(default = "off", env = "P2PD_NETWORK_RELAY")]
    pub relay: Switch,

    /// Whether this daemon tests for peers whether others reach them (AutoNAT v2): "on" or "off". It dials addresses that they name, of the
    /// world only, at most 60 a minute and 12 for each peer. Turn it on where the world reaches this machine.
    #[config(default = "off", env = "P2PD_NETWORK_AUTONAT_SERVER")]
    pub autonat_server: Switch,

    /// Find peers on the LAN by multicast DNS. This announces the peer id and addresses of this machine there.
    #[config(default = false, env = "P2PD_NETWORK_MDNS")]
    pub mdns: bool,

    /// Part in the distributed hash table: "client" asks only, "server" answers too, "auto" is a client until a peer has
    /// dialled this daemon.
    #[config(default = "auto", env = "P2PD_NETWORK_DHT")]
    pub dht: DhtMode,

    /// Protocol of the hash table; empty: /p2pd/<network.name>/kad/1.0.0. /ipfs/kad/1.0.0 is that of IPFS, whose peers and
    /// providers are then found, and which then finds this daemon.
    #[config(default = "", env = "P2PD_NETWORK_DHT_PROTOCOL")]
    pub dht_protocol: String,

    /// Peers of a topic that whole messages are exchanged with, 2 to 24. More of them are found where it has fewer than two thirds of that, and some
    /// are let go of where it has twice as many. The settings of a topic may have another number.
    #[config(default = 6, env = "P2PD_NETWORK_MESH")]
    pub mesh: u32,

    /// Most connections in all, 8 to 65535. An eighth of them is kept for those that this daemon dials.
    #[config(default = 256, env = "P2PD_NETWORK_MAX_CONNECTIONS")]
    pub max_connections: u32,

    /// Above this number of connected peers the least useful are disconnected, 4 to less than seven eighths of max_connections; see
    /// connections_low.
    #[config(default = 192, env = "P2PD_NETWORK_CONNECTIONS_HIGH")]
    pub connections_high: u32,

    /// How many connected peers then remain, 1 to connections_high. Pinned peers and those of network.bootstrap always
    /// remain.
    #[config(default = 160, env = "P2PD_NETWORK_CONNECTIONS_LOW")]
    pub connections_low: u32,

    /// For how long a new peer is not disconnected for that, 0 to 1h; of many, as many as connections_high is above
    /// connections_low.
    #[config(default = "30s", env = "P2PD_NETWORK_CONNECTIONS_GRACE")]
    pub connections_grace: Span,

    /// Most connections to one peer, 1 to 64.
    #[config(default = 4, env = "P2PD_NETWORK_MAX_CONNECTIONS_PER_PEER")]
    pub max_connections_per_peer: u32,

    /// Most inbound connections from one address, 1 to 65535: an IPv4 address or an IPv6 /56; a /48 may have eight times
    /// as many. Loopback and addresses allowed by `p2pctl peers allow` are not counted.
    #[config(default = 16, env = "P2PD_NETWORK_MAX_CONNECTIONS_PER_ADDRESS")]
    pub max_connections_per_address: u32,

    /// New inbound connections per second from one such address, 1 to 1000; sixteen times as many may come at once.
    #[config(default = 1, env = "P2PD_NETWORK_NEW_CONNECTIONS_PER_ADDRESS")]
    pub new_connections_per_address: u32,

    /// Most inbound connections in the making at once, and most outbound ones, 8 to 4096. One address may have an eighth of
    /// them, and whoever says nothing over TCP for three seconds is given up.
    #[config(default = 64, env = "P2PD_NETWORK_MAX_PENDING_CONNECTIONS")]
    pub max_pending_connections: u32,

    /// Most streams of one connection that the peer opened, 16 to 4096; what comes beyond is reset.
    #[config(default = 1024, env = "P2PD_NETWORK_MAX_STREAMS_PER_CONNECTION")]
    pub max_streams_per_connection: u32,

    /// Accept the muxer mplex from peers without yamux, as old networks have them. Mplex has no flow control: a stream that
    /// sends faster than it is read is reset, and one connection may take 256 MiB of memory before that.
    #[config(default = false, env = "P2PD_NETWORK_MPLEX")]
    pub mplex: bool,

    /// While the daemon has more resident memory than this, beside messages of programs that wait, it lets go of an eighth of its
    /// peers every five seconds, the least useful first, as long as that helps; 64MiB to 1TiB, or 0 for no bound. Under systemd, MemoryMax of the unit (768M) ends the
    /// daemon before it has much more than 512MiB: raise both.
    #[config(default = "512MiB", env = "P2PD_NETWORK_MEMORY")]
    pub memory: Size,
}

/// What this daemon passes on as a relay, where `network.relay` is on.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct RelayLimits {
    /// Most peers that may be reached through this daemon, 1 to 65535. Each has its place for as long as it is connected and asks again
    /// in time.
    #[config(default = 128, env = "P2PD_RELAY_RESERVATIONS")]
    pub reservations: u32,

    /// Most connections that are passed on at once, 1 to 65535.
    #[config(default = 64, env = "P2PD_RELAY_CIRCUITS")]
    pub circuits: u32,

    /// Most of them of one peer that dials, 1 to 65535.
    #[config(default = 8, env = "P2PD_RELAY_CIRCUITS_PER_PEER")]
    pub circuits_per_peer: u32,

    /// How long a connection is passed on, 10s to 24h. Both ends are told.
    #[config(default = "1h", env = "P2PD_RELAY_CIRCUIT_TIME")]
    pub circuit_time: Span,

    /// How many bytes of a connection are passed on, of both directions together, 64KiB to 1TiB; 0 for no bound. Both ends are told.
    #[config(default = "1GiB", env = "P2PD_RELAY_CIRCUIT_BYTES")]
    pub circuit_bytes: Size,
}

impl RelayLimits {
    /// What is in force where nothing is set.
    pub fn defaults() -> Result<Self, Fault> {
        RelayLimits::builder().load().map_err(|error| Fault(error.to_string()))
    }

    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        within("reservations", &self.reservations, &(1..=65_535))?;
        within("circuits", &self.circuits, &(1..=65_535))?;
        within("circuits_per_peer", &self.circuits_per_peer, &(1..=65_535))?;
        let times = Span(Duration::from_secs(10))..=Span(Duration::from_secs(24 * 3600));
        within("circuit_time", &self.circuit_time, &times)?;
        if self.circuit_bytes != Size(0) {
            within("circuit_bytes", &self.circuit_bytes, &(Size(64 << 10)..=Size(1 << 40)))?;
        }
        Ok(())
    }
}

/// Whether a part is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is not.
    Off,
    /// It is.
    On,
}

/// What the line costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The same, however much it carries.
    Usual,
    /// By the byte.
    Metered,
}

/// `connections_high` where the line is metered.
const METERED_HIGH: u32 = 24;

impl Profile {
    /// Its defaults, as a file would set them.
    pub fn defaults(self) -> String {
        match self {
            Profile::Usual => String::new(),
            Profile::Metered => format!(
                "[network]\nconnections_high = {METERED_HIGH}\nconnections_low = 16\nmesh = 3\n\
                 dht = \"client\"\nrelay = \"off\"\nautonat_server = \"off\"\n"
            ),
        }
    }
}

/// Part in the distributed hash table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtMode {
    /// Asks only, until a peer has dialled this one; then answers, too.
    Auto,
    /// Asks only.
    Client,
    /// Asks and answers.
    Server,
}

impl Network {
    /// What is in force where nothing is set.
    pub fn defaults() -> Result<Self, Fault> {
        Network::builder().load().map_err(|error| Fault(error.to_string()))
    }

    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        within("mesh", &self.mesh, &(2..=24))?;
        within("max_connections", &self.max_connections, &(8..=65_535))?;
        within("connections_high", &self.connections_high, &(4..=65_535))?;
        within("connections_low", &self.connections_low, &(1..=65_535))?;
        within(
            "connections_grace",
            &self.connections_grace,
            &(Span(Duration::ZERO)..=Span(Duration::from_secs(3600))),
        )?;
        within("max_connections_per_peer", &self.max_connections_per_peer, &(1..=64))?;
        within("max_connections_per_address", &self.max_connections_per_address, &(1..=65_535))?;
        within("new_connections_per_address", &self.new_connections_per_address, &(1..=1000))?;
        within("max_pending_connections", &self.max_pending_connections, &(8..=4096))?;
        within("max_streams_per_connection", &self.max_streams_per_connection, &(16..=4096))?;
        if self.memory != Size(0) {
            within("memory", &self.memory, &(Size(64 << 20)..=Size(1 << 40)))?;
        }
        self.check_water_marks()?;
        let all = |key: &str, addresses: &[String], check: fn(&str) -> Result<(), NetError>| {
            let fault = |error: NetError| Fault(format!("{key}: {error}"));
            addresses.iter().try_for_each(|address| check(address).map_err(fault))
        };
        all("listen", &self.listen, check_listen)?;
        all("bootstrap", &self.bootstrap, check_peer)?;
        all("announce", &self.announce, check_announce)?;
        all("relays", &self.relays, check_direct)?;
        for (key, list, most) in [("announce", &self.announce, MAX_ANNOUNCED), ("relays", &self.relays, MAX_RELAYS)] {
            let count = list.len();
            if count > most {
                return Err(Fault(format!("{key} has {count} addresses; it takes at most {most}")));
            }
        }
        let protocol = &self.dht_protocol;
        if !protocol.is_empty() && (!protocol.starts_with('/') || protocol.len() > 128) {
            let fault = format!("dht_protocol is `{protocol}`; it takes a name such as /ipfs/kad/1.0.0, or nothing");
            return Err(Fault(fault));
        }
        let name = &self.name;
        if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Fault(format!("name is `{name}`; it takes 1 to 64 letters, digits, `-`, `_` and `.`")));
        }
        Ok(())
    }

    fn check_water_marks(&self) -> Result<(), Fault> {
        let Network { connections_low: low, connections_high: high, max_connections: all, .. } = *self;
        // Named is the one that was set; where both were, the upper one.
        let set_by_nobody = match self.profile {
            Profile::Usual => Network::defaults()?.connections_high,
            Profile::Metered => METERED_HIGH,
        };
        if low > high && high == set_by_nobody {
            return Err(Fault(format!("connections_low is {low}; it takes 1 to connections_high ({high})")));
        }
        // Or peers that dial in would be refused before any other goes.
        let most = self.max_inbound().saturating_sub(1);
        if (low..=most).contains(&high) {
            return Ok(());
        }
        Err(Fault(format!(
            "connections_high is {high}; it takes connections_low ({low}) to {most}: of max_connections ({all}) an eighth is kept for \
             those that this daemon dials"
        )))
    }

    /// Most inbound connections: whoever floods this daemon must not keep it from dialling.
    pub(crate) fn max_inbound(&self) -> u32 {
        self.max_connections - self.max_connections / OUTBOUND_SHARE
    }

    /// Peers of a mesh, where a topic has no number of its own.
    pub(crate) fn mesh(&self) -> usize {
        self.mesh as usize
    }

    /// What identify says of a daemon of this network.
    pub(crate) fn protocol_version(&self) -> String {
        format!("/p2pd/{}/1", self.name)
    }

    /// From so many bytes of resident memory on, the least useful peers are let go of; `None`: never for that.
    pub(crate) fn memory_budget(&self) -> Option<u64> {
        Some(self.memory.0).filter(|budget| *budget > 0)
    }
}
