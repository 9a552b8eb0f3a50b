//! Real processes: daemons in temporary directories on free ports of loopback, and p2pctl as a person runs it.

mod child;
mod disk;
pub mod lab;
mod namespace;
mod preload;
mod sound;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub use child::{Lines, Program, Start, in_time};
pub use disk::SmallDisk;
pub use namespace::Namespace;
pub use preload::{library, skewed_clock};
pub use sound::{alone, heard_in_peace, hertz, in_peace, samples, staircase, step, tone};

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
    /// What it logs, unless the test takes that.
    log: Option<File>,
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
        let log = tempfile::tempfile().unwrap();
        command.stderr(log.try_clone().unwrap());
        Self::begin(command, socket, Some(log))
    }

    /// The same, with its log where the command has it.
    pub fn spawn_logging(command: Command, socket: PathBuf) -> Self {
        Self::begin(command, socket, None)
    }

    fn begin(mut command: Command, socket: PathBuf, log: Option<File>) -> Self {
        let arguments: Vec<&str> = command.get_args().filter_map(|argument| argument.to_str()).collect();
        let asked = arguments.windows(2).filter(|pair| pair[0] == "--listen").map(|pair| pair[1]);
        // What most tests dial is plain TCP, unless the daemon is asked for others only.
        let others_only = asked.clone().count() > 0 && !asked.clone().any(is_plain_tcp);
        let mut child = command.env_remove("P2PD_SOCKET").stdout(Stdio::piped()).spawn().unwrap();
        let mut said = Lines::of(child.stdout.take().unwrap());
        let mut daemon = Daemon { child, socket, address: String::new(), log };
        let address = |line: &str| line.strip_prefix("address: ").is_some_and(|a| others_only || is_plain_tcp(a));
        let found = said.until(Duration::from_secs(30), address).expect("an address");
        daemon.address = found.replace("address: ", "");
        daemon
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let mut text = vec![0; log.metadata().map_or(0, |meta| meta.len() as usize)];
        let count = log.read_at(&mut text, 0).unwrap_or_default();
        String::from_utf8_lossy(&text[..count]).into_owned()
    }

    pub fn ctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(P2PCTL);
        command.arg("-s").arg(&self.socket).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.ctl(args).finish()
    }

    pub fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Takes so many of its places for callers. Each is known to be taken: HTTP/2's settings say something, which they do not to a caller
    /// who is turned away.
    pub fn hold_places(&self, count: usize) -> Vec<UnixStream> {
        let take = || {
            let mut caller = UnixStream::connect(&self.socket).unwrap();
            caller.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            caller.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").ok()?;
            let mut settings = [0; 9];
            caller.read_exact(&mut settings).ok()?;
            (settings[..3] != [0; 3]).then_some(caller)
        };
        (0..count).map(|_| until("a place", take)).collect()
    }

    /// As the kernel does it when memory is short.
    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_9();
        let Some(log) = self.log.as_ref().filter(|_| std::thread::panicking()) else { return };
        let mut end = vec![0; 8192];
        let from = log.metadata().map_or(0, |meta| meta.len().saturating_sub(8192));
        let count = log.read_at(&mut end, from).unwrap_or_default();
        eprintln!("{} said:\n{}", self.socket.display(), String::from_utf8_lossy(&end[..count]));
    }
}

/// `/ip4/127.0.0.1/tcp/4001`, with or without a peer id, and nothing else.
fn is_plain_tcp(address: &str) -> bool {
    let parts: Vec<&str> = address.split('/').collect();
    matches!(parts[..], ["", _, _, "tcp", _] | ["", _, _, "tcp", _, "p2p", _])
}

/// Says what is not tested here, and why: to where the test runner hides nothing.
pub fn skip(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "SKIP {what}");
}

/// Runs a line of shell that makes files; `false`, and said so, where one of its tools is not installed.
pub fn make(place: &Path, tools: &[&str], line: &str) -> bool {
    let there = |tool: &&&str| {
        Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap().status.success()
    };
    if let Some(missing) = tools.iter().find(|tool| !there(tool)) {
        skip(format_args!("{line}: {missing} is not installed"));
        return false;
    }
    let made = Command::new("sh").args(["-c", line]).current_dir(place).output().unwrap();
    assert!(made.status.success(), "{line}: {}", said(&made));
    true
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
    let info = json(&daemon.good(&["rpc", "p2pd.v1.NodeService/GetInfo"]));
    info["peer_id"].as_str().unwrap().to_owned()
}

/// Runs a command that goes on, once its first line says that it is ready.
pub fn ready(mut command: Command) -> (Program, String) {
    let mut program = command.start();
    let line = program.told().next().unwrap_or_default();
    (program, line + "\n")
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What a shell command prints on a terminal of 80 columns; `None`, and said so, where none can be had.
pub fn on_a_terminal(command: &str, variables: &[(&str, &str)]) -> Option<String> {
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 24 cols 80; {command}"), "/dev/null"]).stdin(Stdio::null());
    script.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    let output = script.output();
    if output.is_err() {
        skip("terminals: no script here");
    }
    Some(String::from_utf8(output.ok()?.stdout).unwrap())
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
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
