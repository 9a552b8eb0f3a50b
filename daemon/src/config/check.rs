//! What values settings take, and where a wrong one stands.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use p2pd_api::local;
use p2pd_core::id::PeerId;
use p2pd_net::NetError;
use p2pd_node::streams::check_protocol;
use tracing_subscriber::EnvFilter;

use super::{ANYBODY, Config, Expose, Forward, Network, Tunnels};

impl Config {
    /// Checks ranges.
    pub fn check(&self) -> anyhow::Result<()> {
        let ranges = [
            ("network.max_connections", self.network.max_connections, 8, 65_535),
            ("network.connections_high", self.network.connections_high, 4, 65_535),
            ("network.connections_low", self.network.connections_low, 1, 65_535),
            ("network.connections_grace_s", self.network.connections_grace_s, 0, 3600),
            ("network.max_connections_per_peer", self.network.max_connections_per_peer, 1, 64),
            ("network.max_connections_per_address", self.network.max_connections_per_address, 1, 65_535),
            ("network.new_connections_per_address", self.network.new_connections_per_address, 1, 1000),
            ("network.max_pending_connections", self.network.max_pending_connections, 8, 4096),
            ("network.max_streams_per_connection", self.network.max_streams_per_connection, 16, 4096),
            ("network.memory_mib", self.network.memory_mib, if self.network.memory_mib == 0 { 0 } else { 64 }, 1 << 20),
            ("api.max_connections_per_user", self.api.max_connections_per_user, 1, 4096),
            ("streams.max_publications", self.streams.max_publications, 1, 64),
            ("streams.drop_percent", self.streams.drop_percent.into(), 0, 90),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                bail!("{key} is {value}; it takes {min} to {max}");
            }
        }
        let Network { connections_low: low, connections_high: high, max_connections: all, .. } = self.network;
        // Named is the one that was set; where both were, the upper one.
        if low > high && high == Config::defaults()?.network.connections_high {
            bail!("network.connections_low is {low}; it takes 1 to connections_high ({high})");
        }
        if !(low..=all).contains(&high) {
            bail!("network.connections_high is {high}; it takes connections_low ({low}) to max_connections ({all})");
        }
        let addresses = |key: &str, addresses: &[String], check: fn(&str) -> Result<(), NetError>| {
            addresses.iter().try_for_each(|address| check(address).with_context(|| key.to_owned()))
        };
        addresses("network.listen", &self.network.listen, p2pd_net::check_listen)?;
        addresses("network.bootstrap", &self.network.bootstrap, p2pd_net::check_peer)?;
        self.tunnels.check(&self.network.dht_protocol)?;
        EnvFilter::try_new(&self.log.filter).with_context(|| format!("log.filter is `{}`", self.log.filter))?;
        // A part of the filter that is a single word is a level; a word that is none would be a part of the program that says nothing.
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        let is_part = |word: &str| ["p2pd", "libp2p"].iter().any(|part| word.starts_with(part));
        let words = self.log.filter.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
        if let Some(word) = words.into_iter().find(|word| !word.is_empty() && !is_level(word) && !is_part(word)) {
            bail!(
                "log.filter has `{word}`; it takes off, error, warn, info, debug or trace, also for one part, as in p2pd_net=debug"
            );
        }
        let protocol = &self.network.dht_protocol;
        if !protocol.is_empty() && (!protocol.starts_with('/') || protocol.len() > 128) {
            bail!("network.dht_protocol is `{protocol}`; it takes a name such as /ipfs/kad/1.0.0, or nothing");
        }
        let name = &self.network.name;
        if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            bail!("network.name is `{name}`; it takes 1 to 64 letters, digits, `-`, `_` and `.`");
        }
        Ok(())
    }
}

impl Tunnels {
    fn check(&self, dht: &str) -> anyhow::Result<()> {
        for (n, Forward { listen, peer, protocol }) in self.forward.iter().enumerate() {
            local::check(listen).map_err(|fault| anyhow!("tunnels.forward listen: {fault}"))?;
            if listen.strip_prefix("unix:").is_some_and(|path| !path.starts_with('/')) {
                bail!("tunnels.forward listen: `{listen}` is relative to wherever the daemon runs; takes unix:/PATH");
            }
            if self.forward.iter().take(n).any(|other| other.listen == *listen) {
                bail!("tunnels.forward listens twice on {listen}; one address leads to one protocol of one peer");
            }
            if peer.parse::<PeerId>().is_err() {
                p2pd_net::check_peer(peer).with_context(|| format!("tunnels.forward peer of {listen}"))?;
            }
            check_protocol(protocol, dht).map_err(|fault| anyhow!("tunnels.forward protocol of {listen}: {fault}"))?;
        }
        for (n, Expose { protocol, target, allow }) in self.expose.iter().enumerate() {
            if self.expose.iter().take(n).any(|other| other.protocol == *protocol) {
                bail!("tunnels.expose has {protocol} twice; one protocol leads to one target");
            }
            if allow.is_empty() {
                bail!("tunnels.expose allow of {protocol}: names nobody; takes peer ids, or `{ANYBODY}`");
            }
            check_protocol(protocol, dht).map_err(|fault| anyhow!("tunnels.expose protocol: {fault}"))?;
            local::check(target).map_err(|fault| anyhow!("tunnels.expose target of {protocol}: {fault}"))?;
            if let Some(bad) = allow.iter().find(|a| *a != ANYBODY && a.parse::<PeerId>().is_err()) {
                bail!("tunnels.expose allow of {protocol}: `{bad}` is neither a peer id nor `{ANYBODY}`");
            }
        }
        Ok(())
    }
}

/// Where the key is set that an error begins with: in the environment or on a line of the file.
pub(super) fn place(error: &anyhow::Error, file: &Path, text: &str) -> String {
    let key = error.to_string();
    let key = key.split_whitespace().next().unwrap_or_default();
    // Which goes before the file.
    let variable = format!("P2PD_{}", key.replace('.', "_").to_uppercase());
    if std::env::var_os(&variable).is_some_and(|value| !value.is_empty()) {
        return format!(" (from {variable})");
    }
    let (section, name) = key.split_once('.').unwrap_or_default();
    let mut inside = false;
    for (n, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        }
        if inside && line.split('=').next().is_some_and(|left| left.trim() == name) {
            return format!(" (line {n} of {})", file.display());
        }
    }
    String::new()
}
