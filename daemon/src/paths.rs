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

/// The places that flags or environment name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Identity and database.
    pub data: Option<PathBuf>,
    /// The API.
    pub socket: Option<PathBuf>,
}

impl Paths {
    /// The named places, and the usual ones where none was named.
    pub fn find(named: Named) -> anyhow::Result<Self> {
        let (mode, usual) = usual();
        let missing = |what: &str| anyhow::anyhow!("no home directory is known; set HOME, or name --{what}");
        Ok(Paths {
            mode,
            // Without a home there is no usual file, and the defaults hold.
            config: named.config.or(usual.config).unwrap_or_default(),
            data: named.data.or(usual.data).ok_or_else(|| missing("data"))?,
            socket: named.socket.or(usual.socket).ok_or_else(|| missing("socket"))?,
        })
    }
}

/// The usual configuration file; empty where no home directory is known.
pub(crate) fn usual_config() -> PathBuf {
    usual().1.config.unwrap_or_default()
}

/// The usual directory of identity and database.
pub(crate) fn usual_data() -> Option<PathBuf> {
    usual().1.data
}

fn usual() -> (Mode, Named) {
    let given = |name| env::var_os(name).filter(|value| !value.is_empty());
    let (state, configuration) = (given("STATE_DIRECTORY"), given("CONFIGURATION_DIRECTORY"));
    if state.is_some() || Uid::effective().is_root() {
        let usual = Named {
            config: Some(configuration.map_or_else(|| "/etc/p2pd".into(), PathBuf::from).join("p2pd.toml")),
            data: Some(state.map_or_else(|| "/var/lib/p2pd".into(), PathBuf::from)),
            socket: Some("/run/p2pd/api.sock".into()),
        };
        return (Mode::System, usual);
    }
    let Some(project) = ProjectDirs::from("", "", "p2pd") else { return (Mode::User, Named::default()) };
    let data = project.state_dir().unwrap_or_else(|| project.data_local_dir());
    let usual = Named {
        config: Some(project.config_dir().join("p2pd.toml")),
        data: Some(data.into()),
        socket: Some(project.runtime_dir().unwrap_or(data).join("api.sock")),
    };
    (Mode::User, usual)
}
