//! What a daemon is for. A mode is a set of defaults: files, variables and flags go before it.

/// What a daemon is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The programs of its machine.
    #[default]
    Machine,
    /// A network's peers, which find each other and reach each other through it: a relay that answers in the DHT, tests addresses (AutoNAT
    /// v2), and keeps no logs. For a machine that the world reaches.
    Bootnode,
}

impl Mode {
    /// Its defaults, as a file would set them.
    pub(super) fn defaults(self) -> &'static str {
        match self {
            Mode::Machine => "",
            Mode::Bootnode => {
                "[network]\nrelay = \"on\"\nautonat_server = \"on\"\ndht = \"server\"\n[topics]\nmax_logs = 0\n"
            }
        }
    }
}
