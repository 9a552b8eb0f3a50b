//! Programs that a test starts. None is waited for without a deadline, and none outlives its test.

use std::{
    io::{self, BufRead, BufReader, Read},
    ops::{Deref, DerefMut},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use super::within;

/// For a line that is waited for.
const LINE: Duration = Duration::from_secs(60);
/// For the end of a program, which may play a minute of sound first.
const END: Duration = Duration::from_secs(180);

/// Lines of one or more pipes, as they come.
pub struct Lines {
    lines: Receiver<String>,
    /// Those taken so far.
    said: Vec<String>,
}

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        pass_on(pipe, sender);
        Lines { lines, said: Vec::new() }
    }

    /// Takes lines up to the first that fits, and returns it; `None` if the pipe ends before.
    pub fn until(&mut self, limit: Duration, fits: impl Fn(&str) -> bool) -> Option<String> {
        let began = Instant::now();
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(began.elapsed())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("after {limit:?} there is only {:#?}", self.said),
            }
            if let Some(line) = self.said.last().filter(|line| fits(line)) {
                return Some(line.clone());
            }
        }
    }

    /// Takes the lines that have come meanwhile.
    pub fn catch_up(&mut self) {
        self.said.extend(self.lines.try_iter());
    }

    /// The next line with these words.
    pub fn with(&mut self, words: &str) -> String {
        let found = self.until(LINE, |line| line.contains(words));
        found.unwrap_or_else(|| panic!("no `{words}` in {:#?}", self.said))
    }

    /// The lines up to the end of the pipe.
    pub fn rest(&mut self) -> Vec<String> {
        let taken = self.said.len();
        self.until(END, |_| false);
        self.said[taken..].to_vec()
    }
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.until(LINE, |_| true)
    }
}

fn pass_on(pipe: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
}

/// A process that ends with its test. It is waited for as a `Child` is, but never for ever.
pub struct Program {
    child: Child,
    told: Option<Lines>,
}

/// Starts what a test goes on beside.
pub trait Start {
    fn start(&mut self) -> Program;
    /// Waits for its end, as `output` does.
    fn finish(&mut self) -> Output;
}

impl Start for Command {
    fn start(&mut self) -> Program {
        let child = self.spawn().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        Program { child, told: None }
    }

    fn finish(&mut self) -> Output {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start().wait_with_output().unwrap()
    }
}

impl Program {
    /// One whose two outputs are read as one.
    pub fn speaking(mut command: Command) -> Self {
        let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).start();
        let (sender, lines) = mpsc::channel();
        pass_on(program.child.stdout.take().unwrap(), sender.clone());
        pass_on(program.child.stderr.take().unwrap(), sender);
        program.told = Some(Lines { lines, said: Vec::new() });
        program
    }

    /// What it writes to its standard error, line by line.
    pub fn told(&mut self) -> &mut Lines {
        let stderr = &mut self.child.stderr;
        self.told.get_or_insert_with(|| Lines::of(stderr.take().expect("its standard error")))
    }

    /// What it writes to its standard output, line by line.
    pub fn printed(&mut self) -> Lines {
        Lines::of(self.child.stdout.take().expect("its standard output"))
    }

    /// Waits until it says a line with these words.
    pub fn says(&mut self, words: &str) -> String {
        self.told().with(words)
    }

    /// Waits until a `listen --stats` has this much sound. A busy machine leaves out some of its lines.
    pub fn hears(&mut self, seconds: f64) {
        let enough = |line: &str| line.split_once(" s, held ").and_then(|(had, _)| had.parse().ok()) >= Some(seconds);
        let reached = self.told().any(|line| enough(&line));
        assert!(reached, "{seconds} s of sound: {:#?}", self.told().said);
    }

    /// Waits until it ends well; all that it said.
    pub fn ends(mut self) -> String {
        self.told().rest();
        let ended = self.wait().unwrap();
        let said = &self.told().said;
        assert!(ended.success(), "{ended}: {said:#?}");
        said.join("\n")
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.wait_within(END)
    }

    fn wait_within(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        drop(self.child.stdin.take());
        within(limit, "the end of a program", || self.child.try_wait().transpose())
    }

    pub fn wait_with_output(self) -> io::Result<Output> {
        self.output_within(END)
    }

    pub fn output_within(mut self, limit: Duration) -> io::Result<Output> {
        let (stdout, stderr) = (whole(self.child.stdout.take()), whole(self.child.stderr.take()));
        let status = self.wait_within(limit)?;
        let took = |bytes: Receiver<Vec<u8>>| bytes.recv_timeout(LINE).expect("the end of its output");
        Ok(Output { status, stdout: took(stdout), stderr: took(stderr) })
    }
}

/// All of a pipe, once it has ended.
fn whole(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    beside(move || {
        let mut all = Vec::new();
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut all));
        all
    })
}

/// What work gives that may block.
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    beside(work).recv_timeout(LINE).unwrap_or_else(|why| panic!("{what}: {why}"))
}

fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    done
}

impl Deref for Program {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
