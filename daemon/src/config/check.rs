//! What values settings take, and where a wrong one stands.

use std::path::Path;

use p2pd_core::setting::{Fault, within};
use tracing_subscriber::EnvFilter;

use super::{Api, Config, Log, old_keys};

impl Config {
    /// Checks every value.
    pub fn check(&self) -> Result<(), Fault> {
        let of = |section: &str, checked: Result<(), Fault>| {
            checked.map_err(|Fault(fault)| Fault(format!("{section}.{fault}")))
        };
        of("network", self.network.check())?;
        of("relay", self.relay.check())?;
        of("bandwidth", self.bandwidth.check())?;
        of("api", self.api.check())?;
        of("topics", self.topics.check())?;
        of("streams", self.streams.check())?;
        of("tunnels", self.tunnels.check(&self.network.dht_protocol))?;
        of("log", self.log.check())
    }
}

impl Api {
    fn check(&self) -> Result<(), Fault> {
        within("max_connections_per_user", &self.max_connections_per_user, &(1..=4096))
    }
}

impl Log {
    fn check(&self) -> Result<(), Fault> {
        let filter = &self.filter;
        EnvFilter::try_new(filter).map_err(|error| Fault(format!("filter is `{filter}`: {error}")))?;
        // A part of the filter that is a single word is a level; a word that is none would be a part of the program that says nothing.
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        let is_part = |word: &str| ["p2pd", "libp2p"].iter().any(|part| word.starts_with(part));
        let words = filter.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
        match words.into_iter().find(|word| !word.is_empty() && !is_level(word) && !is_part(word)) {
            None => Ok(()),
            Some(word) => Err(Fault(format!(
                "filter has `{word}`; it takes off, error, warn, info, debug or trace, also for one part, as in p2pd_net=debug"
            ))),
        }
    }
}

/// Where the key is set that a fault begins with: in the environment or on a line of the file.
pub(super) fn place(fault: &Fault, file: &Path, text: &str) -> String {
    let key = fault.0.split([' ', ':']).next().unwrap_or_default();
    let (section, name) = key.split_once('.').unwrap_or_default();
    let names = [Some(name), old_keys::before(section, name)];
    // Which goes before the file.
    for variable in names.iter().flatten().map(|name| old_keys::variable(section, name)) {
        if std::env::var_os(&variable).is_some_and(|value| !value.is_empty()) {
            return format!(" (from {variable})");
        }
    }
    let mut inside = false;
    for (n, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        }
        if inside && line.split('=').next().is_some_and(|left| names.contains(&Some(left.trim()))) {
            return format!(" (line {n} of {})", file.display());
        }
    }
    String::new()
}
