//! Where files are: systemd's variables for the system's daemon, the XDG directories for a user's own.

use std::{env, path::PathBuf};

use directories::ProjectDirs;
use nix::unistd::Uid;

/// Whose daemon this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One for the machine: admits root, its own user and group p2pd.
    System,
    /// One for its owner, who alone is admitted.
    User,
}

/// The places of one daemon.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Whose it is.
    pub mode: Mode,
    /// Configuration file; may be absent.
    pub config: PathBuf,
    /// Identity and database.
    pub data: PathBuf,
    /// The API.
    pub socket: PathBuf,
}

impl Paths {
    /// The places for this process.
    pub fn find() -> anyhow::Result<Self> {
        let given = |name| env::var_os(name).filter(|value| !value.is_empty());
        let (state, configuration) = (given("STATE_DIRECTORY"), given("CONFIGURATION_DIRECTORY"));
        if state.is_some() || Uid::effective().is_root() {
            return Ok(Paths {
                mode: Mode::System,
                config: configuration.map_or_else(|| "/etc/p2pd".into(), PathBuf::from).join("p2pd.toml"),
                data: state.map_or_else(|| "/var/lib/p2pd".into(), PathBuf::from),
                socket: "/run/p2pd/api.sock".into(),
            });
        }
        let project = ProjectDirs::from("", "", "p2pd").ok_or_else(|| {
            anyhow::anyhow!("no home directory is known; set HOME, or name --config, --data and --socket")
        })?;
        let data = project.state_dir().unwrap_or_else(|| project.data_local_dir());
        let runtime = project.runtime_dir().unwrap_or(data);
        Ok(Paths {
            mode: Mode::User,
            config: project.config_dir().join("p2pd.toml"),
            data: data.into(),
            socket: runtime.join("api.sock"),
        })
    }
}
