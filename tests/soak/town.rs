//! The honest ones: daemons, and the programs that publish on them, listen and follow.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{self, Program, SmallDisk, Start, json, p2pd, skewed_clock};

/// Seconds by which the clocks of two are wrong: one that others still bear, and one that they do not.
const SKEWS: [(&str, &str); 2] = [("slow-clock", "-150"), ("fast-clock", "400")];

/// A daemon, and its log as a file.
pub struct Daemon {
    pub name: &'static str,
    pub inner: support::Daemon,
}

impl Daemon {
    fn start(place: &Path, name: &'static str, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let socket = place.join(format!("{name}.sock"));
        let mut command = Command::new(p2pd());
        // As in the units.
        command.env("MALLOC_MMAP_THRESHOLD_", "131072");
        command.env("TMPDIR", place).envs(variables.iter().copied());
        command.args(["run", "--dev", "--socket"]).arg(&socket).args(more);
        command.stderr(File::create(log(place, name)).unwrap());
        Daemon { name, inner: support::Daemon::spawn_logging(command, socket) }
    }

    pub fn child(&self) -> &Child {
        &self.inner.child
    }

    /// `None` when it has ended.
    pub fn resident_mib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child().id())).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
        Some(kib.trim().parse::<u64>().ok()? / 1024)
    }

    /// What its queues have lost.
    pub fn numbers(&self) -> String {
        let ask = |method: &str| {
            let answer = self.inner.run(&["rpc", &format!("p2pd.v1.{method}")]);
            serde_json::from_slice::<Value>(&answer.stdout).unwrap_or_default()
        };
        let (statistics, peers) = (ask("NodeService/GetStatistics"), ask("PeerService/ListPeers"));
        let missed: u64 =
            peers["peers"].as_array().into_iter().flatten().filter_map(|p| p["messages_lost"].as_u64()).sum();
        let number = |name: &str| statistics[name].as_u64().unwrap_or(0);
        format!(
            "{} dropped on the way in, {missed} missed by its peers, {} streams",
            number("dropped"),
            number("streams")
        )
    }

    /// How often its log tells of a panic.
    pub fn panics(&self, place: &Path) -> usize {
        fs::read_to_string(log(place, self.name)).unwrap_or_default().matches("panicked").count()
    }
}

fn log(place: &Path, name: &str) -> PathBuf {
    place.join(format!("{name}.log"))
}

/// What a follower of the topic got.
#[derive(Default)]
struct Heard {
    messages: u64,
    told: u64,
}

/// All of them. The first daemon publishes, the second one passes on, and the third has the listener.
pub struct Town {
    pub daemons: Vec<Daemon>,
    /// On which the publisher's daemon writes; `None` where nobody may mount one.
    pub disk: Option<SmallDisk>,
    heard: Vec<(&'static str, Arc<Mutex<Heard>>)>,
    sent: Arc<Mutex<u64>>,
    /// Those that go on until the end.
    programs: Mutex<Vec<Program>>,
}

impl Town {
    pub fn build(place: &Path) -> Self {
        let disk = SmallDisk::mount(place.join("small"), "200m");
        if disk.is_none() {
            support::skip("a full disk: to mount a small one takes root");
        }
        let data = disk.as_ref().map(|disk| disk.0.join("data").display().to_string());
        let kept: Vec<&str> = data.iter().flat_map(|data| ["--data", data]).collect();
        let publisher = Daemon::start(place, "publisher", &kept, &[]);
        let address = publisher.inner.address.clone();
        let relay = Daemon::start(place, "relay", &["--bootstrap", &address], &[]);
        let address = relay.inner.address.clone();
        let other =
            |name, variables: &[(&str, &str)]| Daemon::start(place, name, &["--bootstrap", &address], variables);
        let (listener, frozen) = (other("listener", &[]), other("frozen", &[]));
        let library = skewed_clock(place);
        let preload = ("LD_PRELOAD", library.to_str().unwrap());
        let skewed = SKEWS.map(|(name, seconds)| other(name, &[preload, ("SKEW", seconds)]));
        let daemons: Vec<Daemon> = [publisher, relay, listener, frozen].into_iter().chain(skewed).collect();
        let publish = daemons[0].inner.ctl(&["publish-stream", "town", "--tone", "440"]).start();
        daemons[2].inner.good(&["wait", "stream=town", "--timeout", "30s"]);
        let mut town =
            Town { daemons, disk, heard: Vec::new(), sent: Arc::default(), programs: Mutex::new(vec![publish]) };
        town.follow();
        town.talk();
        town
    }

    pub fn who(&self) -> String {
        self.daemons.iter().map(|daemon| daemon.name).collect::<Vec<_>>().join(", ")
    }

    /// A program on each but the publisher's daemon follows the topic.
    fn follow(&mut self) {
        for daemon in &self.daemons[1..] {
            let mut reader = daemon.inner.ctl(&["-o", "jsonl", "sub", "news"]).start();
            let (mut lines, account) = (reader.stdout.take().unwrap(), Arc::<Mutex<Heard>>::default());
            self.heard.push((daemon.name, account.clone()));
            self.programs.lock().unwrap().push(reader);
            thread::spawn(move || {
                for line in BufReader::new(&mut lines).lines().map_while(Result::ok) {
                    let (event, mut account) = (json(&line), account.lock().unwrap());
                    account.messages += u64::from(event["message"].is_object());
                    let gap = |end: &str| event["gap"][end].as_u64();
                    account.told += gap("from").zip(gap("to")).map_or(0, |(from, to)| to - from + 1);
                }
            });
        }
    }

    /// A program of the publisher's daemon says something twenty times a second, until it is killed.
    fn talk(&mut self) {
        let mut program = self.daemons[0].inner.ctl(&["pub", "news", "--wait", "30s"]);
        let mut program = program.stdin(Stdio::piped()).stdout(Stdio::null()).start();
        let (mut lines, sent) = (program.stdin.take().unwrap(), self.sent.clone());
        self.programs.lock().unwrap().push(program);
        thread::spawn(move || {
            while writeln!(lines, "{}", "x".repeat(200)).is_ok() {
                *sent.lock().unwrap() += 1;
                thread::sleep(Duration::from_millis(50));
            }
        });
    }

    fn listen(&self, daemon: usize, length: Duration) -> Program {
        let length = format!("{}s", length.as_secs());
        self.daemons[daemon].inner.ctl(&["-o", "json", "listen", "town", "--duration", &length]).start()
    }

    /// The honest listener.
    pub fn listener(&self, length: Duration) -> Program {
        self.listen(2, length)
    }

    /// Whom no network troubles: what this one misses, the machine was too busy for.
    pub fn witness(&self, length: Duration) -> Program {
        self.listen(0, length)
    }

    pub fn followers(&self) -> Vec<String> {
        let sent = *self.sent.lock().unwrap();
        let line = |(name, heard): &(&str, Arc<Mutex<Heard>>)| {
            let Heard { messages, told } = *heard.lock().unwrap();
            format!("{name:<10} follows: {messages} of {sent} messages, told of {told} that it lost")
        };
        self.heard.iter().map(line).collect()
    }
}

/// The numbers of a listener, once it ends.
pub fn summary(listener: Program) -> Value {
    let heard = listener.output_within(Duration::from_secs(120)).unwrap();
    let text = String::from_utf8_lossy(&heard.stdout).into_owned();
    text.rfind("{\"").map_or(Value::Null, |start| json(&text[start..]))
}
