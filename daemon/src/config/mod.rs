//! Settings: defaults, then files, then the environment, then flags. Each key is documented here; `packaging/p2pd.toml`
//! is generated from these comments, and a test holds it equal.

mod check;

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail};
use confique::{
    Config as _,
    meta::{FieldKind, Meta},
};
pub use p2pd_node::streams::{ANYBODY, Expose, Forward};
use serde::{Deserialize, Serialize};

/// Settings of the daemon.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Config {
    /// The peer-to-peer network.
    #[config(nested)]
    pub network: Network,
    /// The gRPC API.
    #[config(nested)]
    pub api: Api,
    /// Live streams.
    #[config(nested)]
    pub streams: Streams,
    /// Tunnels that stand while the daemon runs; `p2pctl forward` and `p2pctl expose` make others.
    #[config(nested)]
    pub tunnels: Tunnels,
    /// Log lines.
    #[config(nested)]
    pub log: Log,
}

/// The peer-to-peer network.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Network {
    /// Name of the network. Peers of one name find each other's streams; it is the prefix of topics and of the DHT.
    #[config(default = "argus-defense", env = "P2PD_NETWORK_NAME", parse_env = text)]
    pub name: String,

    /// Multiaddrs to listen on. /tcp/0 and /udp/0 take any free port. A machine without IPv6, or without IPv4, does
    /// without the addresses of that kind; one that it gets later is listened on then.
    #[config(
        default = [
            "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4002/ws",
            "/ip6/::/tcp/4001", "/ip6/::/udp/4001/quic-v1", "/ip6/::/tcp/4002/ws",
        ],
        env = "P2PD_NETWORK_LISTEN", parse_env = list
    )]
    pub listen: Vec<String>,

    /// Peers to stay connected to, as multiaddrs that end in /p2p/ and the peer id. The variable takes several, separated by
    /// commas.
    #[config(default = [], env = "P2PD_NETWORK_BOOTSTRAP", parse_env = list)]
    pub bootstrap: Vec<String>,

    /// Find peers on the LAN by multicast DNS. This announces the peer id and addresses of this machine there.
    #[config(default = false, env = "P2PD_NETWORK_MDNS")]
    pub mdns: bool,

    /// Part in the distributed hash table: "client" asks only, "server" answers too, "auto" is a client until a peer has
    /// dialled this daemon.
    #[config(default = "auto", env = "P2PD_NETWORK_DHT")]
    pub dht: Dht,

    /// Protocol of the hash table; empty: /p2pd/<network.name>/kad/1.0.0. /ipfs/kad/1.0.0 is that of IPFS, whose peers and
    /// providers are then found, and which then finds this daemon.
    #[config(default = "", env = "P2PD_NETWORK_DHT_PROTOCOL")]
    pub dht_protocol: String,

    /// Most connections in all, 8 to 65535. An eighth of them is kept for those that this daemon dials.
    #[config(default = 256, env = "P2PD_NETWORK_MAX_CONNECTIONS")]
    pub max_connections: u32,

    /// Above this number of connected peers the least useful are disconnected, 4 to max_connections; see connections_low.
    #[config(default = 192, env = "P2PD_NETWORK_CONNECTIONS_HIGH")]
    pub connections_high: u32,

    /// How many connected peers then remain, 1 to connections_high. Pinned peers and those of network.bootstrap always
    /// remain.
    #[config(default = 160, env = "P2PD_NETWORK_CONNECTIONS_LOW")]
    pub connections_low: u32,

    /// For how long a new peer is not disconnected for that, in seconds, 0 to 3600; of many, as many as connections_high is above
    /// connections_low.
    #[config(default = 30, env = "P2PD_NETWORK_CONNECTIONS_GRACE_S")]
    pub connections_grace_s: u32,

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

    /// While the daemon has more resident memory than this, in MiB, beside messages of programs that wait, it lets go of an eighth of its
    /// peers every five seconds, the least useful first, as long as that helps; 64 to 1048576, or 0 for no bound.
    #[config(default = 512, env = "P2PD_NETWORK_MEMORY_MIB")]
    pub memory_mib: u32,
}

/// Part in the distributed hash table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dht {
    /// Client until dialled.
    Auto,
    /// Asks only.
    Client,
    /// Answers too.
    Server,
}

/// The gRPC API.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Api {
    /// Most connections of one user to the socket, 1 to 4096.
    #[config(default = 256, env = "P2PD_API_MAX_CONNECTIONS_PER_USER")]
    pub max_connections_per_user: u32,
}

/// Live streams.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Streams {
    /// Most streams that local programs publish at once, 1 to 64.
    #[config(default = 16, env = "P2PD_STREAMS_MAX_PUBLICATIONS")]
    pub max_publications: u32,

    /// Fetch groups of audio that gossip did not bring in time.
    #[config(default = true, env = "P2PD_STREAMS_REPAIR")]
    pub repair: bool,

    /// Drop this percentage of groups on arrival, 0 to 90, to try how listeners fare on a bad network.
    #[config(default = 0, env = "P2PD_STREAMS_DROP_PERCENT")]
    pub drop_percent: u8,
}

/// Tunnels that stand while the daemon runs; `p2pctl forward` and `p2pctl expose` make others.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Tunnels {
    /// Local addresses that lead to a protocol of a peer, each as
    /// { listen = "127.0.0.1:2222", peer = "12D3KooW...", protocol = "/ssh/1.0.0" }. listen takes HOST:PORT or unix:PATH; peer
    /// is an id, or a multiaddr that ends in /p2p/ and the id.
    #[config(default = [])]
    pub forward: Vec<Forward>,

    /// Protocols that lead to a local address, each as
    /// { protocol = "/ssh/1.0.0", target = "127.0.0.1:22", allow = ["12D3KooW..."] }. target takes HOST:PORT or unix:PATH; allow
    /// names the peers that may, "any" lets all.
    #[config(default = [])]
    pub expose: Vec<Expose>,
}

/// Log lines.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Log {
    /// Which lines: error, warn, info, debug, trace, also per part, as in "info,p2pd_net=debug". libp2p_gossipsub tells errors
    /// only, unless it is named.
    #[config(default = "info", env = "P2PD_LOG_FILTER", parse_env = text)]
    pub filter: String,

    /// "text" or "json".
    #[config(default = "text", env = "P2PD_LOG_FORMAT")]
    pub format: LogFormat,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads files and environment. A file that was named must exist; the usual one may be absent.
    pub fn load(named: Option<&Path>, usual: &Path) -> anyhow::Result<Self> {
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        if let Some(unknown) = unknown(variables) {
            bail!(
                "configuration: {unknown} is no setting; `p2pd config default` shows them, P2PD_SECTION_KEY sets one"
            );
        }
        let file: PathBuf = named.unwrap_or(usual).into();
        let mut builder = Config::builder().env();
        // One that is there and cannot be read is no reason for the defaults, which listen to the world.
        let text = match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no configuration file {}", file.display())
            }
            Err(error) => bail!("cannot read the configuration file {}: {error}", file.display()),
            Ok(text) => {
                builder = builder.file(&file);
                text
            }
        };
        let config = builder.load().map_err(|error| anyhow!("configuration: {}", causes(&error)))?;
        config.check().map_err(|error| anyhow!("configuration: {error:#}{}", check::place(&error, &file, &text)))?;
        Ok(config)
    }

    /// The defaults alone.
    pub fn defaults() -> anyhow::Result<Self> {
        Ok(Config::builder().load()?)
    }

    /// What `packaging/p2pd.toml` holds.
    pub fn template() -> String {
        confique::toml::template::<Config>(confique::toml::FormatOptions::default())
    }
}

/// An empty variable counts as not set: confique takes it so where the parser fails.
#[derive(Debug, thiserror::Error)]
#[error("empty")]
struct Empty;

fn text(value: &str) -> Result<String, Empty> {
    if value.is_empty() { Err(Empty) } else { Ok(value.into()) }
}

fn list(value: &str) -> Result<Vec<String>, Empty> {
    let items: Vec<_> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(String::from).collect();
    if items.is_empty() { Err(Empty) } else { Ok(items) }
}

/// A variable that was meant to set something, and sets nothing.
fn unknown(mut variables: impl Iterator<Item = String>) -> Option<String> {
    // Flags, and what `p2pctl validate` tells a command.
    const OTHERS: [&str; 5] = ["P2PD_CONFIG", "P2PD_DATA", "P2PD_SOCKET", "P2PD_SENDER", "P2PD_SOURCE"];
    fn sets(meta: &Meta, variable: &str) -> bool {
        meta.fields.iter().any(|field| match &field.kind {
            FieldKind::Leaf { env, .. } => *env == Some(variable),
            FieldKind::Nested { meta } => sets(meta, variable),
        })
    }
    let known = |variable: &str| OTHERS.contains(&variable) || sets(&Config::META, variable);
    variables.find(|variable| variable.starts_with("P2PD_") && !known(variable))
}

/// An error with all its causes; confique keeps line, column and key in the last ones.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Config> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("p2pd.toml");
        std::fs::write(&file, text)?;
        Config::load(Some(&file), Path::new("/nonexistent"))
    }

    #[test]
    fn the_packaged_file_is_the_template_and_equals_the_defaults() {
        // Cargo runs tests in the directory of their package.
        let packaged = "../packaging/p2pd.toml";
        assert_eq!(
            std::fs::read_to_string(packaged).unwrap(),
            Config::template(),
            "run: p2pd config default > packaging/p2pd.toml"
        );
        // With every comment mark before a key removed, the file says what the defaults are.
        let spoken: String = Config::template()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let loaded = load(&spoken).unwrap();
        assert_eq!(format!("{loaded:?}"), format!("{:?}", Config::defaults().unwrap()));
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        let find = |name: &str| unknown([name.to_owned()].into_iter());
        assert_eq!(find("P2PD_NETWROK_NAME").as_deref(), Some("P2PD_NETWROK_NAME"));
        for fine in ["P2PD_NETWORK_NAME", "P2PD_LOG_FILTER", "P2PD_SOCKET", "PATH"] {
            assert_eq!(find(fine), None);
        }
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_key() {
        let unknown = load("[network]\nmdsn = true\n").unwrap_err().to_string();
        assert!(unknown.contains("mdsn") && unknown.contains("line 2") && unknown.contains("p2pd.toml"), "{unknown}");
        let kind = load("[network]\nmdns = \"yes\"\n").unwrap_err().to_string();
        assert!(kind.contains("line 2") && kind.contains("mdns"), "{kind}");
        let range = format!("{:#}", load("[network]\nmax_connections = 3\n").unwrap_err());
        assert!(range.contains("network.max_connections is 3; it takes 8 to 65535 (line 2 of "), "{range}");
        for (text, words) in [
            ("[network]\nmdns = true\nlisten = [\"garbage\"]\n", "network.listen"),
            ("[network]\n\nbootstrap = [\"/ip4/192.0.2.1/tcp/1\"]\n", "network.bootstrap"),
            ("[network]\n\nconnections_high = 100\n", "connections_low (160) to max_connections (256)"),
            (
                "[network]\n\nconnections_low = 500\n",
                "network.connections_low is 500; it takes 1 to connections_high (192)",
            ),
            ("[log]\n# loud\nfilter = \"a=b=c\"\n", "log.filter"),
            ("[log]\n\nfilter = \"inof\"\n", "log.filter has `inof`"),
        ] {
            let fault = format!("{:#}", load(text).unwrap_err());
            assert!(fault.contains(words) && fault.contains("line 3 of"), "{fault}");
        }
    }
}
