//! Machines of a test, each with a network of its own in which it may have any address.

use std::{io::Write, process::Command, sync::mpsc, thread};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use p2pd::app::Daemon;
use tokio::{runtime::Handle, sync::oneshot};

use crate::support::{addresses, setup, until};

/// Says that a test cannot be run here.
pub fn skip(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP {what}: network namespaces need root and iproute2");
}

/// A machine: a network of its own, and threads in it.
pub struct Machine {
    pub threads: Handle,
    /// A thread of it, which stands for its network.
    pub id: i32,
    _stop: oneshot::Sender<()>,
}

impl Machine {
    pub fn new() -> Option<Self> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let runtime = tokio::runtime::Runtime::new().unwrap();
            tell.send((runtime.handle().clone(), gettid().as_raw())).unwrap();
            let _ = runtime.block_on(stopped);
        });
        let (threads, id) = told.recv().ok()?;
        Some(Machine { threads, id, _stop: stop })
    }

    /// Runs `ip`, in its network; false where that cannot be.
    pub async fn ip(&self, words: &str) -> bool {
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        let run = self.threads.spawn(async move { Command::new("ip").args(words).status() });
        run.await.unwrap().is_ok_and(|done| done.success())
    }

    /// One that has these addresses, which lead nowhere else; says so where it cannot be.
    pub async fn with(addresses: &[&str], what: &str) -> Option<Self> {
        let made = async {
            let machine = Machine::new()?;
            let mut done = machine.ip("link set lo up").await;
            for address in addresses {
                done &= machine.ip(&format!("address add {address}/32 dev lo")).await;
            }
            done.then_some(machine)
        };
        let made = made.await;
        if made.is_none() {
            skip(what);
        }
        made
    }

    /// Runs something in its network.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.threads.spawn(work).await.unwrap()
    }

    /// Starts a daemon, and waits until it has this address.
    pub async fn start(&self, ip: &str, bootstrap: &[String]) -> Daemon {
        let mut setup = setup(bootstrap);
        setup.config.network.listen = vec!["/ip4/0.0.0.0/tcp/0".into()];
        let daemon = self.threads.spawn(Daemon::start(setup)).await.unwrap().unwrap();
        let found = until("its address", async || {
            addresses(&daemon).await.iter().any(|address| address.contains(ip)).then_some(())
        });
        found.await;
        daemon
    }
}
