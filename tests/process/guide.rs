//! The guides in `docs/guide`: each command of a console block is given to real daemons, and its output is compared.
//!
//! A block opens with "```console", and its lines that begin with `a$ ` or `b$ ` are commands on one of two machines. The lines below
//! a command are its output, where `…` stands for any text, and a line of `…` alone for any number of lines. The commands of a block
//! "```console fails" end with a code other than 0. That of a block "```console running" goes on until the end of the page, and so
//! may its output; its first line is awaited. That of "```console waiting" goes on, too, and says nothing at first. Each page says in
//! its first line whether the two daemons are connected at first, and what tools it needs.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{
    examples::pair_with_dht,
    support::{self, Daemon, P2PCTL, Start, id, json, source, tone, until},
};

/// The machines of the guides: name, address, peer id.
const MACHINES: [(&str, &str, &str); 2] = [
    ("a", "192.0.2.7", "12D3KooWAqyvds96sXRQFsWyCfGq5ahqxsCS4dxMF7fCmv1eVMvL"),
    ("b", "192.0.2.8", "12D3KooWGf5CLoGzVhGgr98wUUGZy2VkGj8JuavYd8odRFNRWYYX"),
];
/// Ports of the guides' own servers.
const PORTS: [&str; 2] = ["8080", "8081"];
/// Pages without console blocks.
const NOT_RUN: [&str; 3] = ["README.md", "behind-a-router.md", "from-a-program.md"];
/// How long a command is given again whose output is not as expected yet: peers learn of each other in their own time.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ends,
    Fails,
    Running,
    Waiting,
}

/// A command as a page shows it.
struct Given {
    mode: Mode,
    machine: usize,
    command: String,
    output: Vec<String>,
}

/// The commands of a page, in their order.
fn commands(page: &str) -> Vec<Given> {
    let mut all: Vec<Given> = Vec::new();
    let mut block = None;
    for line in page.lines() {
        if let Some(opening) = line.strip_prefix("```") {
            block = match (block, opening.trim()) {
                (None, "console") => Some(Mode::Ends),
                (None, "console fails") => Some(Mode::Fails),
                (None, "console running") => Some(Mode::Running),
                (None, "console waiting") => Some(Mode::Waiting),
                (None, other) => {
                    assert!(!other.starts_with("console"), "there is no block `{other}`");
                    // Of another language: closed by the next fence, and not run.
                    continue;
                }
                (Some(_), _) => None,
            };
            continue;
        }
        let Some(mode) = block else { continue };
        let prompt = MACHINES.iter().position(|(name, ..)| line.starts_with(&format!("{name}$ ")));
        match prompt {
            Some(machine) => all.push(Given { mode, machine, command: line[3..].to_owned(), output: Vec::new() }),
            None => all.last_mut().expect("a command before its output").output.push(line.to_owned()),
        }
    }
    all
}

/// Whether a line is as expected, however many spaces a table has put between its columns.
fn line_fits(expected: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, line) = (words(expected), words(line));
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn fits(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, more)) if first.trim() == "…" => (0..=lines.len()).any(|from| fits(more, &lines[from..])),
        Some((first, more)) => {
            lines.split_first().is_some_and(|(line, rest)| line_fits(first, line) && fits(more, rest))
        }
    }
}

/// A command that goes on. All that it has started ends with it.
struct Running {
    given: Given,
    child: Child,
    said: PathBuf,
}

impl Running {
    /// The whole lines that it has said so far.
    fn lines(&self) -> Vec<String> {
        let said = String::from_utf8_lossy(&fs::read(&self.said).unwrap()).into_owned();
        let whole = said.rfind('\n').map_or("", |end| &said[..=end]);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The two machines of a page.
struct Machines {
    place: tempfile::TempDir,
    daemons: [Daemon; 2],
    /// What stands in a page, and what it is here; the longest first.
    names: Vec<(String, String)>,
}

impl Machines {
    fn start(connected: bool) -> Self {
        let (place, a, b) = if connected {
            pair_with_dht()
        } else {
            let place = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|name| Daemon::start(place.path(), name, &[]));
            (place, a, b)
        };
        let mut machines = Machines { place, daemons: [a, b], names: Vec::new() };
        let mut names = Vec::new();
        for (daemon, (name, ip, peer)) in machines.daemons.iter().zip(MACHINES) {
            let here = id(daemon);
            names.push((format!("..{}", &peer[44..]), format!("..{}", &here[44..])));
            names.push((peer.to_owned(), here));
            for address in addresses(daemon) {
                let kind = ["/ws", "/quic-v1", ""].into_iter().find(|kind| address.ends_with(kind)).unwrap();
                let shown = match kind {
                    "/ws" => "tcp/4002/ws",
                    "/quic-v1" => "udp/4001/quic-v1",
                    _ => "tcp/4001",
                };
                names.push((format!("/ip4/{ip}/{shown}"), address));
            }
            let home = machines.place.path().join(name);
            fs::create_dir(&home).unwrap();
            tone(&home.join("show.wav"), 5 * 48_000, |_| 440.0);
        }
        let free: Vec<_> = PORTS.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = free.iter().map(|socket| socket.local_addr().unwrap().port().to_string());
        names.extend(PORTS.iter().map(|&port| port.to_owned()).zip(ports));
        names.sort_by_key(|(shown, _)| std::cmp::Reverse(shown.len()));
        machines.names = names;
        machines
    }

    /// Text of a page, with what its names are here. In one pass, since a port of here may look like one of a page.
    fn here(&self, text: &str) -> String {
        let (mut here, mut rest) = (String::new(), text);
        while let Some(next) = rest.chars().next() {
            match self.names.iter().find(|(shown, _)| rest.starts_with(shown.as_str())) {
                Some((shown, name)) => {
                    here.push_str(name);
                    rest = &rest[shown.len()..];
                }
                None => {
                    here.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        here
    }

    fn shell(&self, given: &Given) -> Command {
        let tools = Path::new(P2PCTL).parent().unwrap().display().to_string();
        let mut shell = Command::new("bash");
        // One pipe for both outputs, so that their lines come in order.
        shell.arg("-c").arg(format!("exec 2>&1\n{}", self.here(&given.command)));
        shell.current_dir(self.place.path().join(MACHINES[given.machine].0)).stdin(Stdio::null());
        shell.env("PATH", format!("{tools}:{}", std::env::var("PATH").unwrap_or_default())).env("NO_COLOR", "1");
        shell.env("TMPDIR", self.place.path()).env("P2PD_SOCKET", &self.daemons[given.machine].socket);
        shell
    }

    fn expected(&self, given: &Given) -> Vec<String> {
        given.output.iter().map(|line| self.here(line)).collect()
    }

    /// Gives a command until it says what the page shows.
    fn run(&self, given: &Given) {
        let (began, expected) = (Instant::now(), self.expected(given));
        loop {
            let output = self.shell(given).finish();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines: Vec<&str> = said.lines().collect();
            if fits(&expected, &lines) && output.status.success() == (given.mode == Mode::Ends) {
                return;
            }
            let wrong = format!(
                "`{}` ended with {}:\n{said}\ninstead of\n{}",
                given.command,
                output.status,
                expected.join("\n")
            );
            assert!(began.elapsed() < PATIENCE, "{wrong}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn begin(&self, given: Given, number: usize) -> Running {
        let said = self.place.path().join(format!("{number}.said"));
        let child = self.shell(&given).stdout(File::create(&said).unwrap()).process_group(0).spawn().unwrap();
        let running = Running { given, child, said };
        if running.given.mode == Mode::Running {
            until(&running.given.command, || (!running.lines().is_empty()).then_some(()));
        }
        running
    }

    /// Waits until a command that goes on has said what the page shows.
    fn check(&self, running: &Running) {
        let (began, expected) = (Instant::now(), self.expected(&running.given));
        loop {
            let lines = running.lines();
            if fits(&expected, &lines.iter().map(String::as_str).collect::<Vec<_>>()) {
                return;
            }
            let wrong = [&lines.join("\n"), "instead of", &expected.join("\n")].join("\n");
            assert!(began.elapsed() < PATIENCE, "`{}` says:\n{wrong}", running.given.command);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where a daemon listens, without its id.
fn addresses(daemon: &Daemon) -> Vec<String> {
    until("three addresses", || {
        let status = json(&daemon.good(&["-o", "json", "status"]));
        let all = status["addresses"].as_array()?.iter().filter_map(|address| address.as_str()?.split("/p2p/").next());
        Some(all.map(str::to_owned).collect::<Vec<_>>()).filter(|all| all.len() == 3)
    })
}

/// Runs all that a page shows.
fn follow(name: &str) {
    let page = fs::read_to_string(source("docs/guide").join(name)).unwrap();
    let first = page.lines().next().and_then(|line| line.strip_prefix("<!-- run: ")?.strip_suffix(" -->"));
    let (state, tools) =
        first.map(|words| words.split_once("; needs: ").unwrap_or((words, ""))).expect("how it is run");
    let there = |tool: &&str| Command::new("sh").args(["-c", &format!("command -v {tool}")]).finish().status.success();
    if let Some(missing) = tools.split_whitespace().find(|tool| !there(tool)) {
        return support::skip(format_args!("docs/guide/{name}: {missing} is not installed"));
    }
    let machines = Machines::start(state == "connected");
    let mut running = Vec::new();
    let all = commands(&page);
    assert!(!all.is_empty(), "it shows something");
    for (number, given) in all.into_iter().enumerate() {
        match given.mode {
            Mode::Running | Mode::Waiting => running.push(machines.begin(given, number)),
            Mode::Ends | Mode::Fails => machines.run(&given),
        }
    }
    running.iter().for_each(|running| machines.check(running));
}

/// A test for each page, and one that none is left out.
macro_rules! pages {
    ($($test:ident $page:literal)*) => {
        $(#[test]
        fn $test() {
            follow($page);
        })*

        #[test]
        fn every_page_is_run() {
            let run = [$($page),*].into_iter().chain(NOT_RUN).map(str::to_owned).collect::<BTreeSet<_>>();
            let entries = fs::read_dir(source("docs/guide")).unwrap();
            let there = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>();
            assert_eq!(run, there);
            for page in NOT_RUN {
                let text = fs::read_to_string(source("docs/guide").join(page)).unwrap();
                assert!(commands(&text).is_empty(), "{page} has console blocks");
            }
        }
    };
}

pages! {
    install_and_run "install-and-run.md"
    stream_audio "stream-audio.md"
    messages "messages.md"
    protocols_and_tunnels "protocols-and-tunnels.md"
    dht "dht.md"
    narrow_line "narrow-line.md"
    peers_and_rules "peers-and-rules.md"
    troubleshooting "troubleshooting.md"
}

#[test]
fn output_that_differs_is_seen() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let same = |expected: &str, said: &str| fits(&lines(expected), &said.lines().collect::<Vec<_>>());
    assert!(same("one\n…\nfour", "one\ntwo\nthree\nfour") && same("one\n…\nfour", "one\nfour"));
    assert!(same("a  …  ms", "a 12.5    ms") && same("…", "") && same("", ""));
    assert!(!same("one", "two") && !same("one", "one\ntwo") && !same("one\ntwo", "one") && !same("a … ms", "a 12 s"));
}
