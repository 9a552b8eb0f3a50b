//! A machine with a real systemd, and what its operator does there with the package: install, start, look, kill, upgrade,
//! remove. Without a network but its own loopback.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::Uid;

use crate::support::{said, skip, source, within};

const SERVICE: &str = "p2pd.service";

/// What `tests/machine/install.sh` and `packaging/deb.sh` have made; nothing where they could not.
fn made() -> Option<PathBuf> {
    let place = std::env::var_os("X_MACHINE").map(PathBuf::from);
    let found = place.filter(|place| place.join("root/.finished").exists() && place.join("p2pd.deb").exists());
    if !Uid::effective().is_root() {
        skip("the machine with systemd: to boot one takes root");
        return None;
    }
    if found.is_none() {
        skip("the machine with systemd: not made; ./x test does that");
    }
    found
}

/// One machine at a time uses the root directory, which systemd-nspawn locks.
static ROOT: Mutex<()> = Mutex::new(());

/// It forgets what happened when it ends.
struct Machine {
    container: Child,
    /// Its first process, as this machine numbers it.
    init: String,
    _root: MutexGuard<'static, ()>,
}

impl Machine {
    fn boot(made: &Path, package: &Path) -> Self {
        let root = ROOT.lock().unwrap_or_else(PoisonError::into_inner);
        let bind = |file: &Path, name: &str| format!("--bind-ro={}:/{name}", file.display());
        let container = Command::new("systemd-nspawn")
            .args(["--quiet", "--volatile=overlay", "--register=no", "--keep-unit", "--private-network", "--boot"])
            .arg(format!("--machine=p2pd-{}", std::process::id()))
            .arg("--directory")
            .arg(made.join("root"))
            .args([bind(&made.join("p2pd.deb"), "p2pd.deb"), bind(package, "newer.deb")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", container.id());
        // A helper of systemd-nspawn's comes first, in the namespaces of this machine.
        let space = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let inside = |process: &&str| space(process).is_some_and(|found| Some(found) != space("self"));
        let init = || fs::read_to_string(&children).ok()?.split_whitespace().find(inside).map(str::to_owned);
        let init = within(Duration::from_secs(20), "its first process", init);
        let machine = Machine { container, init, _root: root };
        let up = || machine.run("systemctl is-system-running").stdout.starts_with(b"running").then_some(());
        within(Duration::from_secs(60), "the system", up);
        machine
    }

    /// A line of shell, as root.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--all", "--wdns=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["LANG=C.UTF-8", "sh", "-c", line]).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        let journal = || String::from_utf8(self.run("journalctl -n 20 --no-pager").stdout).unwrap();
        assert!(output.status.success(), "{line}: {}\n{}", said(&output), journal());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn until(&self, line: &str) -> String {
        let met = || Some(self.run(line)).filter(|output| output.status.success());
        let output = within(Duration::from_secs(90), line, met);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A property of the service, such as `MainPID`.
    fn property(&self, name: &str) -> String {
        self.good(&format!("systemctl show --value --property={name} {SERVICE}"))
    }

    fn peer_id(&self) -> String {
        self.good("p2pctl status | sed -n 's/^peer id *//p'")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.init]).status();
        let _ = self.container.kill();
        let _ = self.container.wait();
    }
}

/// The same package with a higher version.
fn newer(package: &Path, place: &Path) -> PathBuf {
    let (tree, newer) = (place.join("tree"), place.join("newer.deb"));
    let pack = |from: &str, a: &Path, b: &Path, more: &[&str]| {
        let done = Command::new("dpkg-deb").args(more).arg(from).args([a, b]).stdout(Stdio::null()).status();
        assert!(done.unwrap().success());
    };
    pack("--raw-extract", package, &tree, &[]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(control, text.replace("Version: ", "Version: 9.")).unwrap();
    pack("--build", &tree, &newer, &["-Znone"]);
    newer
}

/// Uses each service of the API, over a second daemon of this machine.
fn tour(machine: &Machine) {
    let here = machine.peer_id();
    let address = format!("/ip4/127.0.0.1/tcp/4001/p2p/{here}");
    let mut other = machine
        .command(&format!("echo $$ >/tmp/dev.pid; exec p2pd run --dev --socket /tmp/dev.sock --bootstrap {address}"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    machine.until("test -S /tmp/dev.sock && p2pctl -s /tmp/dev.sock wait peers=1");
    let dev = machine.good("p2pctl -s /tmp/dev.sock status | sed -n 's/^peer id *//p'");
    for line in [
        "p2pctl publish-stream tone --tone 440 --duration 5s & p=$!; p2pctl -s /tmp/dev.sock listen tone --wait 20s --duration 2s -o /tmp/tone.wav && wait $p",
        "p2pctl topics set news --keep 1h",
        "timeout 30 p2pctl sub news -n 1 & p=$!; p2pctl -s /tmp/dev.sock pub news hello --wait 20s && wait $p",
        "p2pctl serve /upper/1 tr a-z A-Z & timeout 30 sh -c 'until p2pctl -s /tmp/dev.sock call HERE /upper/1 abc; do sleep 0.1; done' && kill $!",
        "p2pctl dht provide thing && p2pctl -s /tmp/dev.sock dht providers thing | grep HERE",
        "p2pctl peers pin PEER --tag friend && p2pctl peers show PEER && p2pctl peers unpin PEER",
        "p2pctl peers deny 198.51.100.0/24 && p2pctl peers rules && p2pctl peers unrule 198.51.100.0/24",
        "p2pctl events --from-oldest -n 1 && p2pctl version && p2pctl -o json streams",
    ] {
        machine.good(&line.replace("HERE", &here).replace("PEER", &dev));
    }
    machine.good("kill $(cat /tmp/dev.pid)");
    other.wait().unwrap();
}

#[test]
fn an_operator_installs_runs_upgrades_and_removes_the_package() {
    let Some(made) = made() else { return };
    let place = tempfile::tempdir().unwrap();
    let machine = Machine::boot(&made, &newer(&made.join("p2pd.deb"), place.path()));
    machine.good("dpkg -i /p2pd.deb");
    assert_eq!(machine.property("ActiveState"), "inactive", "it joins no network before it is told to");

    machine.good("systemctl start p2pd");
    // Memory that is freed goes back to the system, or peers would be let go of for it.
    machine.good("tr '\\0' '\\n' </proc/$(systemctl show --value --property=MainPID p2pd)/environ | grep -qx MALLOC_MMAP_THRESHOLD_=131072");
    let id = machine.peer_id();
    machine.good("useradd -m -G p2pd alice && useradd -m bob");
    machine.good("runuser -u alice -- p2pctl status");
    let stranger = machine.run("runuser -u bob -- p2pctl status");
    assert_eq!(stranger.status.code(), Some(4), "{}", said(&stranger));
    assert!(said(&stranger).contains("usermod -aG p2pd"), "{}", said(&stranger));

    // What the unit's filter forbids would kill it.
    let first = machine.property("MainPID");
    tour(&machine);
    assert_eq!((machine.property("MainPID"), machine.property("NRestarts")), (first.clone(), "0".into()));

    machine.good(&format!("kill -HUP {first}"));
    machine.until("journalctl -u p2pd | grep -q 'SIGHUP changes nothing'");
    machine.good(&format!("kill -9 {first}"));
    machine.until("p2pctl wait ready");
    machine.good("kill -STOP $(systemctl show --value --property=MainPID p2pd)");
    machine.until("test $(systemctl show --value --property=NRestarts p2pd) = 2 && p2pctl wait ready");
    assert_eq!(machine.peer_id(), id);

    let second = machine.property("MainPID");
    machine.good("sed -i 's/^#max_publications = .*/max_publications = 3/' /etc/p2pd/p2pd.toml");
    machine.good("dpkg -i /newer.deb && p2pctl wait ready");
    assert_ne!(machine.property("MainPID"), second, "the new program runs");
    assert_eq!(machine.good("p2pd config show | grep max_publications"), "max_publications = 3");

    // As in a kernel without IPv6.
    let without =
        "printf '[Service]\\nRestrictAddressFamilies=~AF_INET6\\n' >/etc/systemd/system/p2pd.service.d/v4.conf";
    machine.good(&format!("mkdir /etc/systemd/system/p2pd.service.d && {without} && systemctl daemon-reload"));
    machine.good("systemctl restart p2pd");
    let addresses = machine.good("p2pctl status | grep ^address");
    assert!(addresses.contains("/ip4/") && !addresses.contains("/ip6/"), "{addresses}");

    // The two units have one identity, and one goes for the other.
    machine.good("systemctl start p2pd-bootnode && p2pctl wait ready && ! systemctl is-active --quiet p2pd");
    assert_eq!(machine.peer_id(), id);
    machine.good("p2pctl sub news --durable 2>&1 | grep -q 'keeps no logs'");
    machine.good("systemctl start p2pd && p2pctl wait ready && ! systemctl is-active --quiet p2pd-bootnode");

    machine.good("p2pctl doctor | grep -q '^ok *storage: .* free on the disk of /var/lib/p2pd'");
    machine.good("systemctl stop p2pd");
    assert_eq!((machine.property("Result"), machine.property("ExecMainStatus")), ("success".into(), "0".into()));
    machine.good("p2pctl doctor >/tmp/found; test $? = 1 && grep -q '^ok *config: .*/etc/p2pd/p2pd.toml' /tmp/found");
    machine.good("grep -q '^ok *ports: free are TCP 4001' /tmp/found");
    machine.good("systemctl enable --quiet --now p2pd && dpkg -r p2pd");
    machine.good("test ! -e /usr/bin/p2pd -a -e /var/lib/p2pd/identity.key -a -e /etc/p2pd/p2pd.toml");
    machine.good("dpkg -i /p2pd.deb && systemctl start p2pd");
    assert_eq!(machine.peer_id(), id);
    machine.good("dpkg -P p2pd");
    machine.good("test ! -e /var/lib/p2pd -a ! -e /etc/p2pd -a ! -e /run/p2pd");
}

/// The command that the guide has for this task.
fn guide(task: &str) -> String {
    let text = fs::read_to_string(source("docs/guide/install-and-run.md")).unwrap();
    let row = text.lines().find_map(|line| line.strip_prefix(&format!("| {task} | "))).unwrap();
    row.split('`').nth(1).unwrap().to_owned()
}

#[test]
fn an_operator_finds_faults_and_restores_a_back_up() {
    let Some(made) = made() else { return };
    let machine = Machine::boot(&made, &made.join("p2pd.deb"));
    machine.good("dpkg -i /p2pd.deb && systemctl start p2pd");
    let id = machine.peer_id();

    machine.good("systemctl kill -s KILL p2pd; systemctl stop p2pd");
    let by_root = machine.run("p2pd run");
    assert!(!by_root.status.success() && said(&by_root).contains("systemctl start p2pd"), "{}", said(&by_root));
    let dead = machine.run("p2pctl status");
    assert_eq!(dead.status.code(), Some(3), "{}", said(&dead));
    assert!(said(&dead).contains("journalctl -u p2pd"), "{}", said(&dead));

    let nobody = "/dns4/nowhere.example/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let drop_in = "/etc/systemd/system/p2pd.service.d/bootstrap.conf";
    let setting = format!("printf '[Service]\\nEnvironment=P2PD_NETWORK_BOOTSTRAP={nobody}\\n' >{drop_in}");
    machine.good(&format!("mkdir $(dirname {drop_in}) && {setting} && systemctl daemon-reload"));
    machine.good("systemctl start p2pd");
    let status = within(Duration::from_secs(60), "the fault", || {
        Some(machine.good("p2pctl status")).filter(|status| status.contains("not reached"))
    });
    let fault = status.split_once(&format!("not reached  {nobody}: ")).map(|(_, rest)| rest.lines().next());
    assert!(fault.is_some_and(|reason| reason.is_some_and(|words| !words.is_empty())), "{status}");
    assert_eq!(machine.property("ActiveState"), "active");
    machine.good(&format!("rm {drop_in} && systemctl daemon-reload"));

    machine.good(&guide("back up"));
    machine.good("p2pctl peers deny 198.51.100.0/24");
    machine.good(&format!("systemctl stop p2pd && {} && systemctl start p2pd", guide("restore")));
    assert_eq!(machine.peer_id(), id);
    let rules = machine.good("p2pctl peers rules");
    assert!(!rules.contains("198.51.100.0"), "{rules}");
}

#[test]
fn what_a_start_needs_may_come_however_late() {
    let Some(made) = made() else { return };
    let machine = Machine::boot(&made, &made.join("p2pd.deb"));
    machine.good("dpkg -i /p2pd.deb");
    // Its port is taken for now. It fails as often as made systemd give up before, and twice that, but sooner.
    let drop_in = "/etc/systemd/system/p2pd.service.d/late.conf";
    let late = "Environment=P2PD_NETWORK_LISTEN=/ip4/127.0.0.1/tcp/7001\\nRestartSec=100ms";
    machine.good(&format!("mkdir $(dirname {drop_in}) && printf '[Service]\\n{late}\\n' >{drop_in}"));
    machine.good("systemctl daemon-reload");
    let mut other = machine
        .command(
            "echo $$ >/tmp/other.pid; exec p2pd run --dev --listen /ip4/127.0.0.1/tcp/7001 --socket /tmp/other.sock",
        )
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    machine.until("p2pctl -s /tmp/other.sock status");
    assert!(!machine.run("systemctl start p2pd").status.success());
    machine.until("test $(systemctl show --value --property=NRestarts p2pd) -ge 10");
    machine.good("kill $(cat /tmp/other.pid)");
    other.wait().unwrap();
    machine.until("p2pctl status | grep -q 127.0.0.1/tcp/7001");
}

#[test]
fn a_users_own_daemon_runs_beside_the_machines() {
    let Some(made) = made() else { return };
    let machine = Machine::boot(&made, &made.join("p2pd.deb"));
    machine.good("dpkg -i /p2pd.deb && systemctl start p2pd && useradd -m carol && loginctl enable-linger carol");
    machine.until("test -S /run/user/$(id -u carol)/systemd/private");
    let own = |line: &str| format!("runuser -u carol -- env XDG_RUNTIME_DIR=/run/user/$(id -u carol) {line}");
    assert!(!machine.run(&own("systemctl --user start p2pd")).status.success(), "the machine's daemon has the ports");
    machine.until("journalctl | grep -q 'another program has that port, perhaps another p2pd'");
    machine.good(&own("sh -c 'mkdir -p ~/.config/p2pd && printf \"[network]\\nlisten = [\\\"/ip4/0.0.0.0/tcp/0\\\"]\\n\" >~/.config/p2pd/p2pd.toml'"));
    machine.good(&own("systemctl --user reset-failed p2pd"));
    machine.good(&own("systemctl --user start p2pd"));
    assert_ne!(machine.good(&own("p2pctl status | sed -n 's/^peer id *//p'")), machine.peer_id());
}
