//! A network of this machine's kernel with nothing in it, and cables between such.

use std::{
    fs::File,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, setns};

use super::{Daemon, p2pd, skip};

static MADE: AtomicUsize = AtomicUsize::new(0);

/// A network namespace with nothing in it but loopback.
pub struct Namespace(String);

impl Namespace {
    /// `None`, and said so, where none can be made.
    pub fn new(name: &str) -> Option<Self> {
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("p2pd-{}-{nth}-{name}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output().is_ok_and(|o| o.status.success());
        if !made {
            skip("links: network namespaces need root and iproute2");
            return None;
        }
        assert!(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]).status().unwrap().success());
        Some(Namespace(name))
    }

    /// Runs what else it is given there.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]);
        command
    }

    pub fn daemon(&self, place: &Path, name: &str, more: &[&str]) -> Daemon {
        let mut command = self.command();
        command.arg(p2pd());
        Daemon::launch(command, place, name, &[&["--listen", "/ip4/127.0.0.1/tcp/0"], more].concat())
    }

    /// Joins two by a cable, at whose ends they have 10.9.9.1 and 10.9.9.2; `false`, and said so, where there is none.
    pub fn join(&self, other: &Namespace) -> bool {
        self.join_at(other, ["10.9.9.1", "10.9.9.2"])
    }

    /// The same with other addresses.
    pub fn join_at(&self, other: &Namespace, addresses: [&str; 2]) -> bool {
        let cable = ["link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", &other.0];
        let ip = |space: &str, args: &[&str]| Command::new("ip").args(["-n", space]).args(args).output().unwrap();
        if !ip(&self.0, &cable).status.success() {
            skip("a LAN: the kernel has no veth");
            return false;
        }
        for (space, address) in [self, other].into_iter().zip(addresses) {
            assert!(ip(&space.0, &["address", "add", &format!("{address}/24"), "dev", "lan"]).status.success());
            assert!(ip(&space.0, &["link", "set", "lan", "up"]).status.success());
        }
        true
    }

    /// A daemon that listens on an address of the cable.
    pub fn on_lan(&self, place: &Path, name: &str, ip: &str, settings: &[(&str, &str)]) -> Daemon {
        let socket = place.join(format!("{name}.sock"));
        let mut command = self.command();
        command.arg(p2pd()).args(["run", "--socket"]).arg(&socket);
        let family = if ip.contains(':') { "ip6" } else { "ip4" };
        command.args(["--listen", &format!("/{family}/{ip}/tcp/0")]).envs(settings.iter().copied());
        command.env("STATE_DIRECTORY", place.join(name)).env("CONFIGURATION_DIRECTORY", place);
        Daemon::spawn(command, socket)
    }

    /// Runs `ip` in it.
    pub fn set(&self, words: &str) {
        let done = Command::new("ip").args(["-n", &self.0]).args(words.split(' ')).status().unwrap();
        assert!(done.success(), "{words}");
    }

    /// Runs something on a thread of its own, whose sockets are in this namespace.
    pub fn enter(&self, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let namespace = File::open(format!("/var/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work();
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}
