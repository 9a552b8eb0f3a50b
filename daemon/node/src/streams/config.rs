//! The settings of `[tunnels]`.

use p2pd_api::local;
use p2pd_core::{id::PeerId, setting::Fault};
use serde::{Deserialize, Serialize};

use super::check_protocol;

/// Lets every peer use an exposed protocol.
pub const ANYBODY: &str = "any";

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

/// A local address that leads to a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where to listen.
    pub listen: String,
    /// To whom it leads.
    pub peer: String,
    /// On which protocol.
    pub protocol: String,
}

/// A protocol that leads to a local address.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expose {
    /// Which.
    pub protocol: String,
    /// Where it leads.
    pub target: String,
    /// Who may.
    pub allow: Vec<String>,
}

impl Tunnels {
    /// Checks every tunnel. `dht`: the protocol of the hash table, where one is set.
    pub fn check(&self, dht: &str) -> Result<(), Fault> {
        for (n, forward) in self.forward.iter().enumerate() {
            if self.forward.iter().take(n).any(|other| other.listen == forward.listen) {
                let listen = &forward.listen;
                return Err(Fault(format!(
                    "forward listens twice on {listen}; one address leads to one protocol of one peer"
                )));
            }
            forward.check(dht).map_err(|fault| Fault(format!("forward {fault}")))?;
        }
        for (n, expose) in self.expose.iter().enumerate() {
            if self.expose.iter().take(n).any(|other| other.protocol == expose.protocol) {
                let protocol = &expose.protocol;
                return Err(Fault(format!("expose has {protocol} twice; one protocol leads to one target")));
            }
            expose.check(dht).map_err(|fault| Fault(format!("expose {fault}")))?;
        }
        Ok(())
    }
}

/// Whether programs may speak a protocol, as far as that is known before the daemon runs.
fn check_name(protocol: &str, dht: &str) -> Result<(), String> {
    check_protocol(protocol, |name| p2pd_net::is_own(name) || name == dht)
}

impl Forward {
    fn check(&self, dht: &str) -> Result<(), String> {
        let Forward { listen, peer, protocol } = self;
        local::check(listen).map_err(|fault| format!("listen: {fault}"))?;
        if listen.strip_prefix("unix:").is_some_and(|path| !path.starts_with('/')) {
            return Err(format!("listen: `{listen}` is relative to wherever the daemon runs; takes unix:/PATH"));
        }
        if peer.parse::<PeerId>().is_err() {
            p2pd_net::check_peer(peer).map_err(|fault| format!("peer of {listen}: {fault}"))?;
        }
        check_name(protocol, dht).map_err(|fault| format!("protocol of {listen}: {fault}"))
    }
}

impl Expose {
    fn check(&self, dht: &str) -> Result<(), String> {
        let Expose { protocol, target, allow } = self;
        if allow.is_empty() {
            return Err(format!("allow of {protocol}: names nobody; takes peer ids, or `{ANYBODY}`"));
        }
        check_name(protocol, dht).map_err(|fault| format!("protocol: {fault}"))?;
        local::check(target).map_err(|fault| format!("target of {protocol}: {fault}"))?;
        match allow.iter().find(|allowed| *allowed != ANYBODY && allowed.parse::<PeerId>().is_err()) {
            Some(bad) => Err(format!("allow of {protocol}: `{bad}` is neither a peer id nor `{ANYBODY}`")),
            None => Ok(()),
        }
    }
}
