//! One daemon per data directory.

use std::{fs::File, path::Path};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Held until dropped, also across a crash.
pub(crate) struct Lock(#[allow(dead_code)] Flock<File>);

/// Takes the data directory.
pub(crate) fn take(data: &Path) -> anyhow::Result<Lock> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((_, Errno::EWOULDBLOCK)) => {
            bail!("another p2pd uses {}; stop it, or give this one its own --data", data.display())
        }
        Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
    }
}
