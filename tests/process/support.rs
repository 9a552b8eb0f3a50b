//! Real processes: daemons in temporary directories on free ports of loopback, and p2pctl as a person runs it.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub const P2PCTL: &str = env!("CARGO_BIN_EXE_p2pctl");

pub fn p2pd() -> PathBuf {
    let path = Path::new(P2PCTL).with_file_name("p2pd");
    assert!(path.exists(), "build p2pd first: ./x build");
    path
}

/// A daemon as a process of its own.
pub struct Daemon {
    pub child: Child,
    pub socket: PathBuf,
    pub address: String,
}

impl Daemon {
    pub fn start(place: &Path, name: &str, more: &[&str]) -> Self {
        Self::start_with(place, name, more, &[])
    }

    /// With these variables of the environment.
    pub fn start_with(place: &Path, name: &str, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(p2pd());
        command.envs(variables.iter().copied());
        Self::launch(command, place, name, more)
    }

    /// By a command that runs p2pd with what else it is given.
    pub fn launch(mut command: Command, place: &Path, name: &str, more: &[&str]) -> Self {
        let socket = place.join(format!("{name}.sock"));
        // One that is killed leaves its directory there.
        command.env("TMPDIR", place).args(["run", "--dev", "--socket"]).arg(&socket).args(more);
        Self::spawn(command, socket)
    }

    /// By the whole command; returns once it has said where it listens.
    pub fn spawn(mut command: Command, socket: PathBuf) -> Self {
        command.stderr(Stdio::null());
        Self::spawn_logging(command, socket)
    }

    /// The same, with its log where the command has it.
    pub fn spawn_logging(mut command: Command, socket: PathBuf) -> Self {
        command.env_remove("P2PD_SOCKET").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.find_map(|line| line.ok()?.strip_prefix("address: ").map(str::to_owned)).expect("an address");
        Daemon { child, socket, address }
    }

    pub fn ctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(P2PCTL);
        command.arg("-s").arg(&self.socket).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.ctl(args).output().unwrap()
    }

    pub fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Daemon {
    /// As the kernel does it when memory is short.
    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Says what is not tested here, and why: to where the test runner hides nothing.
pub fn skip(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "SKIP {what}");
}

/// What `tests/interop/install.sh` installed under this name; `None` where it cannot be had.
pub fn part(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("X_INTEROP").map(|all| Path::new(&all).join(name));
    let found = path.filter(|path| path.join(".finished").exists());
    if found.is_none() {
        skip(format_args!("{name}: not installed; ./x test does that"));
    }
    found
}

/// A file of the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new("..").join(path)
}

pub fn interrupt(child: &Child) {
    signal(child, "-INT");
}

/// As systemd and `timeout` do it.
pub fn terminate(child: &Child) {
    signal(child, "-TERM");
}

pub fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
}

pub fn pair() -> (TempDir, Daemon, Daemon) {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let b = Daemon::start(place.path(), "b", &["--bootstrap", &a.address]);
    b.good(&["wait", "peers=1", "--timeout", "20s"]);
    (place, a, b)
}

pub fn id(daemon: &Daemon) -> String {
    let info: serde_json::Value = serde_json::from_str(&daemon.good(&["rpc", "p2pd.v1.NodeService/GetInfo"])).unwrap();
    info["peer_id"].as_str().unwrap().to_owned()
}

/// Runs a command that goes on, once its first line says that it is ready.
pub fn ready(mut command: Command) -> (Child, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    errors.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    (child, line)
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The numbers of listeners that end by themselves. A witness, whom no network troubles, shows whether the machine itself
/// stood still meanwhile: such a run says nothing, and is done again.
pub fn heard_in_peace(witness: impl Fn() -> Child, listeners: impl Fn() -> Vec<Child>) -> Vec<serde_json::Value> {
    for _ in 0..8 {
        let (witness, listeners) = (witness(), listeners());
        let numbers: Vec<_> = listeners.into_iter().map(summary).collect();
        let witness = summary(witness);
        if witness["underruns"] == 0 && witness["late_frames"] == 0 {
            return numbers;
        }
        println!("the machine stood still: {witness}");
    }
    panic!("the machine does not keep going");
}

fn summary(listener: Child) -> serde_json::Value {
    let heard = listener.wait_with_output().unwrap();
    assert!(heard.status.success(), "{}", said(&heard));
    let text = String::from_utf8_lossy(&heard.stdout).into_owned();
    let start = text.rfind("{\"").expect("the summary");
    serde_json::from_str(&text[start..]).unwrap()
}

/// Frequency of a tone in 16 bit mono samples, by counting its rises.
pub fn hertz(samples: &[i16]) -> f64 {
    let rises: Vec<usize> =
        samples.windows(2).enumerate().filter(|(_, w)| w[0] < 0 && w[1] >= 0).map(|(n, _)| n).collect();
    let (Some(first), Some(last)) = (rises.first(), rises.last()) else { return 0.0 };
    (rises.len() - 1) as f64 * 48_000.0 / (last - first) as f64
}

/// Waits until `check` gives something.
pub fn until<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(30), what, check)
}

pub fn within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < limit, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}
