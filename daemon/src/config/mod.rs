//! Settings: defaults, then files, then the environment, then flags. Each crate documents its own keys; `packaging/p2pd.toml`
//! is generated from these comments, and a test holds it equal.

mod check;
mod mode;
mod old_keys;

use std::{io, path::Path};

use anyhow::{Context, anyhow, bail};
use confique::{
    Config as _,
    meta::{FieldKind, Meta},
};
pub use mode::Mode;
use p2pd_core::setting;
use p2pd_live::StreamSettings;
use p2pd_net::{Bandwidth, Network, RelayLimits};
use p2pd_node::pubsub::TopicLimits;
pub use p2pd_node::streams::{Forward, Tunnels};
use serde::{Deserialize, Serialize};

/// Settings of the daemon.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Config {
    /// The peer-to-peer network.
    #[config(nested)]
    pub network: Network,
    /// What this daemon passes on as a relay, where network.relay is on.
    #[config(nested)]
    pub relay: RelayLimits,
    /// How fast bytes go to peers and come from them. Give a little less than your line carries: what waits then waits here, in the order
    /// of its kind, and not in the router behind sound. Sound waits for nothing, but counts. Messages go before program streams, tunnels and
    /// what a relay passes on, which have the rest. Each rate is 64kbit/s to 100Gbit/s, or 0 for no bound. `p2pctl bandwidth` changes them
    /// while the daemon runs.
    #[config(nested)]
    pub bandwidth: Bandwidth,
    /// The gRPC API.
    #[config(nested)]
    pub api: Api,
    /// Topics of programs.
    #[config(nested)]
    pub topics: TopicLimits,
    /// Live streams.
    #[config(nested)]
    pub streams: StreamSettings,
    /// Tunnels that stand while the daemon runs; `p2pctl forward` and `p2pctl expose` make others.
    #[config(nested)]
    pub tunnels: Tunnels,
    /// Log lines.
    #[config(nested)]
    pub log: Log,
}

/// The gRPC API.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Api {
    /// Most connections of one user to the socket, 1 to 4096.
    #[config(default = 256, env = "P2PD_API_MAX_CONNECTIONS_PER_USER")]
    pub max_connections_per_user: u32,
}

/// Log lines.
#[derive(Debug, Clone, Serialize, confique::Config)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Log {
    /// Which lines: error, warn, info, debug, trace, also per part, as in "info,p2pd_net=debug". libp2p_gossipsub tells errors
    /// only, unless it is named.
    #[config(default = "info", env = "P2PD_LOG_FILTER", parse_env = setting::text)]
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
    /// Reads files and environment, which go before the defaults of a mode, and says what is set by an old name. A file that was named must
    /// exist; the usual one may be absent.
    pub fn load(named: Option<&Path>, usual: &Path, mode: Mode) -> anyhow::Result<(Self, Vec<String>)> {
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        if let Some(unknown) = unknown(variables) {
            bail!(
                "configuration: {unknown} is no setting; `p2pd config default` shows them, P2PD_SECTION_KEY sets one"
            );
        }
        let file = named.unwrap_or(usual);
        // One that is there and cannot be read is no reason for the defaults, which listen to the world.
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no configuration file {}", file.display())
            }
            Err(error) => bail!("cannot read the configuration file {}: {error}", file.display()),
            Ok(text) => text,
        };
        let (old, mut notes) = old_keys::of_variables(|name| std::env::var(name).ok()).context("configuration")?;
        let in_file = || layer(&text).with_context(|| format!("configuration: {}", file.display()));
        notes.extend(in_file()?.1);
        let with = |profile: &str| {
            let old = old.clone().try_into().context("configuration, from a variable with an old name")?;
            let builder = Config::builder().env().preloaded(old).preloaded(in_file()?.0);
            let builder = builder.preloaded(toml::from_str(profile)?).preloaded(toml::from_str(mode.defaults())?);
            builder.load().map_err(|error| anyhow!("configuration: {}", causes(&error)))
        };
        // Which profile is wanted, file and environment say.
        let profile = with("")?.network.profile;
        let config = with(&profile.defaults())?;
        config.check().map_err(|fault| anyhow!("configuration: {fault}{}", check::place(&fault, file, &text)))?;
        Ok((config, notes))
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

/// What a file sets, and what it sets by an old name.
fn layer(text: &str) -> anyhow::Result<(<Config as confique::Config>::Layer, Vec<String>)> {
    let mut table: toml::Table = toml::from_str(text)?;
    let notes = old_keys::rename(&mut table)?;
    // Only the text has lines that a fault can name.
    let layer = if notes.is_empty() { toml::from_str(text)? } else { table.try_into()? };
    Ok((layer, notes))
}

/// A variable that was meant to set something, and sets nothing.
fn unknown(mut variables: impl Iterator<Item = String>) -> Option<String> {
    // Flags, and what `p2pctl validate` tells a command.
    const OTHERS: [&str; 6] = ["P2PD_CONFIG", "P2PD_DATA", "P2PD_MODE", "P2PD_SOCKET", "P2PD_SENDER", "P2PD_SOURCE"];
    fn sets(meta: &Meta, variable: &str) -> bool {
        meta.fields.iter().any(|field| match &field.kind {
            FieldKind::Leaf { env, .. } => *env == Some(variable),
            FieldKind::Nested { meta } => sets(meta, variable),
        })
    }
    // What Kubernetes tells of a service that is called p2pd.
    let is_of_service = |variable: &str| {
        variable == "P2PD_PORT" || ["P2PD_PORT_", "P2PD_SERVICE_"].iter().any(|begin| variable.starts_with(begin))
    };
    let known = |variable: &str| {
        is_of_service(variable)
            || OTHERS.contains(&variable)
            || old_keys::is_variable(variable)
            || sets(&Config::META, variable)
    };
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
        Ok(Config::load(Some(&file), Path::new("/nonexistent"), Mode::Machine)?.0)
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
        for fine in [
            "P2PD_NETWORK_NAME",
            "P2PD_LOG_FILTER",
            "P2PD_SOCKET",
            "P2PD_NETWORK_MEMORY_MIB",
            "P2PD_PORT",
            "P2PD_PORT_4001_TCP_ADDR",
            "P2PD_SERVICE_HOST",
            "PATH",
        ] {
            assert_eq!(find(fine), None);
        }
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_key() {
        let unknown = format!("{:#}", load("[network]\nmdsn = true\n").unwrap_err());
        assert!(unknown.contains("mdsn") && unknown.contains("line 2") && unknown.contains("p2pd.toml"), "{unknown}");
        let kind = format!("{:#}", load("[network]\nmdns = \"yes\"\n").unwrap_err());
        assert!(kind.contains("line 2") && kind.contains("mdns"), "{kind}");
        let range = format!("{:#}", load("[network]\nmax_connections = 3\n").unwrap_err());
        assert!(range.contains("network.max_connections is 3; it takes 8 to 65535 (line 2 of "), "{range}");
        for (text, words) in [
            ("[network]\nmdns = true\nlisten = [\"garbage\"]\n", "network.listen"),
            ("[network]\n\nbootstrap = [\"/ip4/192.0.2.1/tcp/1\"]\n", "network.bootstrap"),
            ("[network]\n\nconnections_high = 100\n", "connections_low (160) to 223"),
            (
                "[network]\n\nconnections_low = 500\n",
                "network.connections_low is 500; it takes 1 to connections_high (192)",
            ),
            (
                "[network]\n\nannounce = [\"/ip4/0.0.0.0/tcp/4001\"]\n",
                "network.announce: `/ip4/0.0.0.0/tcp/4001` is not a usable",
            ),
            ("[network]\n\nannounce = [\"/ip4/192.0.2.1/tcp/0\"]\n", "it has no port"),
            (
                "[network]\nprofile = \"metered\"\nconnections_low = 32\n",
                "network.connections_low is 32; it takes 1 to connections_high (24)",
            ),
            ("[bandwidth]\n\nupload = \"1kbit/s\"\n", "bandwidth.upload is 1kbit/s; it takes 64kbit/s to 100Gbit/s"),
            ("[log]\n# loud\nfilter = \"a=b=c\"\n", "log.filter"),
            ("[log]\n\nfilter = \"inof\"\n", "log.filter has `inof`"),
            ("[network]\n\nmemory = \"3MiB\"\n", "network.memory is 3MiB; it takes 64MiB to 1TiB"),
            ("[network]\n\nmemory_mib = 3\n", "network.memory is 3MiB; it takes 64MiB to 1TiB"),
            ("[network]\n\nconnections_grace = \"2h\"\n", "network.connections_grace is 2h; it takes 0 to 1h"),
        ] {
            let fault = format!("{:#}", load(text).unwrap_err());
            assert!(fault.contains(words) && fault.contains("line 3 of"), "{fault}");
        }
        let unit = format!("{:#}", load("[network]\nmemory = 512\n").unwrap_err());
        assert!(unit.contains("line 2") && unit.contains("`512` is no size; one looks like"), "{unit}");
    }
}
