//! Two homes behind routers, and an internet between them: five network namespaces, in the kernel of this machine.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{Daemon, p2pd, skip};

/// How a router answers and translates.
#[derive(Clone, Copy)]
pub enum Router {
    /// Of what comes from outside, only answers get in; each connection keeps its port.
    PortRestricted,
    /// The same, and each destination sees another port.
    Symmetric,
    /// Whatever comes from outside gets in.
    FullCone,
    /// What comes from outside gets in, of whom this home has spoken to.
    AddressRestricted,
    /// As the first, and nothing of UDP gets out.
    NoUdp,
    /// As the first, but strangers are answered that nobody listens, which takes their place in the router's table.
    Answering,
}

impl Router {
    /// The rules of nftables. What nobody has asked for is dropped: an answer to a stranger would take the place of the stranger's own
    /// connection in the table.
    fn rules(self, host: &str) -> String {
        let masquerade = if matches!(self, Router::Symmetric) { "masquerade fully-random" } else { "masquerade" };
        let out = format!(
            "table ip nat {{\n chain post {{\n  type nat hook postrouting priority 100;\n  oifname \"wan\" {masquerade};\n }}\n"
        );
        let answers_only = |out_rule: &str| {
            format!(
                "table ip fw {{\n chain to_me {{\n  type filter hook input priority 0; policy drop;\n  \
                 iifname {{ \"lo\", \"lan\" }} accept\n  ct state established,related accept\n }}\n \
                 chain through {{\n  type filter hook forward priority 0; policy drop;\n  {out_rule}\n  \
                 iifname \"lan\" accept\n  ct state established,related accept\n }}\n}}\n"
            )
        };
        let lets_in = |whom: &str| {
            format!(
                " chain pre {{\n  type nat hook prerouting priority -100;\n  iifname \"wan\" {whom} dnat to {host};\n }}\n"
            )
        };
        match self {
            Router::PortRestricted | Router::Symmetric => format!("{out}}}\n{}", answers_only("")),
            Router::NoUdp => format!("{out}}}\n{}", answers_only("meta l4proto udp drop")),
            Router::Answering => format!("{out}}}\n"),
            Router::FullCone => format!("{out}{}}}\n", lets_in("")),
            Router::AddressRestricted => format!(
                "{out} set seen {{ type ipv4_addr; flags dynamic,timeout; timeout 2m; }}\n \
                 chain note {{\n  type filter hook forward priority -10;\n  iifname \"lan\" update @seen {{ ip daddr }}\n }}\n{}}}\n\
                 table ip fw {{\n chain to_me {{\n  type filter hook input priority 0; policy drop;\n  \
                 iifname {{ \"lo\", \"lan\" }} accept\n  ct state established,related accept\n }}\n}}\n",
                lets_in("ip saddr @seen")
            ),
        }
    }
}

/// Where a machine is.
#[derive(Clone, Copy)]
pub enum Place {
    /// On the internet, at `Lab::PUBLIC`.
    Internet,
    /// At home, behind the first router or the second.
    Home(usize),
}

/// Its namespaces go with it.
pub struct Lab {
    name: String,
}

static LABS: AtomicUsize = AtomicUsize::new(0);

fn run(program: &str, words: &str) -> bool {
    let done = Command::new(program).args(words.split_whitespace()).output();
    done.is_ok_and(|output| output.status.success())
}

impl Lab {
    /// Addresses of the internet, which any address of the world stands for.
    pub const PUBLIC: [&'static str; 2] = ["45.10.20.1", "45.10.20.2"];

    /// `None`, and said so, where none can be made.
    pub fn new(routers: [Router; 2]) -> Option<Self> {
        let nth = LABS.fetch_add(1, Ordering::Relaxed);
        let lab = Lab { name: format!("p2pdlab-{}-{nth}", std::process::id()) };
        if !Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success())
            || !run("ip", &format!("netns add {}", lab.space("net")))
        {
            skip("routers: network namespaces and nftables need root, iproute2 and nftables");
            return None;
        }
        lab.ip("net", "link set lo up");
        lab.ip("net", "link add br0 type bridge");
        lab.ip("net", "link set br0 up");
        for address in Self::PUBLIC {
            lab.ip("net", &format!("address add {address}/24 dev br0"));
        }
        for (n, router) in routers.into_iter().enumerate() {
            lab.home(n, router);
        }
        Some(lab)
    }

    fn space(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    fn ip(&self, of: &str, words: &str) {
        assert!(run("ip", &format!("-n {} {words}", self.space(of))), "{of}: {words}");
    }

    /// Takes a home's router off the internet and back. It forgets what it has translated.
    pub fn restart_router(&self, n: usize) {
        let router = format!("router{n}");
        self.ip(&router, "link set wan down");
        self.ip(&router, "link set wan up");
    }

    /// Gives a home's router another address.
    pub fn move_router(&self, n: usize, address: &str) {
        let router = format!("router{n}");
        self.ip(&router, &format!("address add {address}/24 dev wan"));
        self.ip(&router, &format!("address del 45.10.20.{}/24 dev wan", 10 + n));
        // With its first address went the others of that network.
        let _ = run("ip", &format!("-n {} address add {address}/24 dev wan", self.space(&router)));
    }

    fn home(&self, n: usize, router: Router) {
        let (outer, inner) = (format!("router{n}"), format!("home{n}"));
        for space in [&outer, &inner] {
            assert!(run("ip", &format!("netns add {}", self.space(space))));
            self.ip(space, "link set lo up");
        }
        self.ip("net", &format!("link add wan{n} type veth peer name wan netns {}", self.space(&outer)));
        self.ip("net", &format!("link set wan{n} master br0 up"));
        self.ip(&outer, "link set wan up");
        self.ip(&outer, &format!("address add 45.10.20.{}/24 dev wan", 10 + n));
        self.ip(&outer, &format!("link add lan type veth peer name eth0 netns {}", self.space(&inner)));
        self.ip(&outer, "link set lan up");
        self.ip(&outer, &format!("address add 192.168.{n}.1/24 dev lan"));
        self.ip(&inner, "link set eth0 up");
        self.ip(&inner, &format!("address add 192.168.{n}.2/24 dev eth0"));
        self.ip(&inner, &format!("route add default via 192.168.{n}.1"));
        let enter = |words: &str| run("ip", &format!("netns exec {} {words}", self.space(&outer)));
        assert!(enter("sysctl -qw net.ipv4.ip_forward=1"));
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.space(&outer), "nft", "-f", "-"]).stdin(Stdio::piped());
        let mut nft = nft.spawn().unwrap();
        nft.stdin.take().unwrap().write_all(router.rules(&format!("192.168.{n}.2")).as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    }

    /// Runs what else it is given there.
    pub fn command(&self, at: Place) -> Command {
        let space = match at {
            Place::Internet => self.space("net"),
            Place::Home(n) => self.space(&format!("home{n}")),
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space]);
        command
    }

    /// A daemon there that listens on port 4001 of this address, and on the usual one of a home.
    pub fn daemon(&self, at: Place, place: &Path, name: &str, ip: &str, settings: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(at);
        command.arg(p2pd()).envs(settings.iter().copied());
        let (tcp, quic) = (format!("/ip4/{ip}/tcp/4001"), format!("/ip4/{ip}/udp/4001/quic-v1"));
        Daemon::launch(command, place, name, &["--listen", &tcp, "--listen", &quic])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for of in ["net", "router0", "router1", "home0", "home1"] {
            run("ip", &format!("netns del {}", self.space(of)));
        }
    }
}
