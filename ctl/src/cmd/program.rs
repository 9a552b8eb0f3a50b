//! A user's command that is run once for each message or request, with it on standard input.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::error::{Exit, fail};

/// Commands that run at once.
pub(super) const AT_ONCE: usize = 16;

/// The command.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) name: Arc<str>,
    arguments: Arc<[String]>,
}

impl Program {
    /// Finds the command, so that a missing one is an error before anything is announced.
    pub(super) fn find(command: &[String]) -> anyhow::Result<Self> {
        let Some((name, arguments)) = command.split_first() else { return Err(fail(Exit::Usage, "name a command")) };
        if which(name).is_none() {
            return Err(fail(Exit::Usage, format!("there is no command `{name}` that can be run")));
        }
        Ok(Program { name: name.as_str().into(), arguments: arguments.into() })
    }

    /// Runs it to its end, or until this is dropped.
    pub(super) async fn run(&self, variables: &[(&str, &str)], input: &[u8]) -> io::Result<Output> {
        let mut child = Command::new(&*self.name)
            .args(&*self.arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        let give = async {
            if let Some(mut stdin) = stdin {
                // A command need not read its input.
                let _ = stdin.write_all(input).await;
            }
        };
        tokio::join!(give, child.wait_with_output()).1
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return Some(program.into()).filter(runs);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(runs)
}
