//! What every command needs.

use crate::{client::Client, output::Format};

/// The daemon, and how to write what it says.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
}
