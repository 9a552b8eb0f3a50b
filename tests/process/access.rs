//! The way to the daemon: who finds its socket, and who is let in.

use std::{
    fs::{self, File, Permissions},
    os::{
        fd::IntoRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{self, Daemon, P2PCTL, p2pd, ready, said};
use nix::unistd::Uid;

const LISTEN: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];
/// Users that no machine has, one of them with the number that stands for such.
const STRANGERS: [u32; 2] = [60_000, 65_534];

/// Runs a program as this user, by an open file: where it was built, only its owner may look.
fn run_as(uid: u32, program: &Path) -> Command {
    let opened = File::open(program).unwrap().into_raw_fd();
    let mut command = Command::new(format!("/proc/self/fd/{opened}"));
    command.uid(uid).gid(uid);
    command
}

#[test]
fn strangers_are_told_what_to_do() {
    if !Uid::effective().is_root() {
        return support::skip("strangers: to become one takes root");
    }
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("api.sock");
    let mut system = Command::new(p2pd());
    system.env("STATE_DIRECTORY", place.path().join("data")).env("CONFIGURATION_DIRECTORY", place.path());
    system.args(["run", "--socket"]).arg(&socket).args(LISTEN);
    let daemon = Daemon::spawn(system, socket.clone());
    daemon.good(&["status"]);
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let call = |uid, args: &[&str]| {
        let output = run_as(uid, Path::new(P2PCTL)).arg("-s").arg(&socket).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{uid} {args:?}: {}", said(&output));
        said(&output)
    };
    for uid in STRANGERS {
        assert!(call(uid, &["status"]).contains("sudo usermod -aG p2pd $USER"), "the file's mode keeps them out");
    }
    // A socket file with mode 666 does not admit strangers: the daemon checks the caller's uid. It may hang up before or
    // after we have begun to speak.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    for uid in STRANGERS {
        for _ in 0..10 {
            let words = call(uid, &["status"]);
            assert!(words.contains("does not admit you") && words.contains("root and group p2pd"), "{words}");
        }
        assert!(call(uid, &["wait", "ready"]).contains("does not admit you"), "and does not wait in vain");
    }
}

#[test]
fn a_lease_is_its_users_own() {
    if !Uid::effective().is_root() {
        return support::skip("the lease of another user: to become one takes root");
    }
    let place = tempfile::tempdir().unwrap();
    chown(place.path(), Some(STRANGERS[0]), Some(STRANGERS[0])).unwrap();
    let socket = place.path().join("api.sock");
    let mut system = run_as(STRANGERS[0], &p2pd());
    system.env("STATE_DIRECTORY", place.path().join("data")).env("CONFIGURATION_DIRECTORY", place.path());
    system.args(["run", "--socket"]).arg(&socket).args(LISTEN);
    let daemon = Daemon::spawn(system, socket.clone());
    let handle = ["handle", "/leased/1", "--lease", "mine", "--lease-for", "1m"];
    let hold = |command: Command| {
        let (mut program, said) = ready(command);
        program.kill().unwrap();
        program.wait().unwrap();
        said
    };
    let ours = || assert!(hold(daemon.ctl(&handle)).starts_with("waiting for a stream on /leased/1"));
    ours();
    let mut other = run_as(STRANGERS[0], Path::new(P2PCTL));
    other.arg("-s").arg(&socket).args(handle).stderr(Stdio::piped());
    let said = hold(other);
    assert!(said.contains("under a lease") && said.contains("PROTOCOL_TAKEN"), "{said}");
    ours();
}

#[test]
fn a_users_daemon_is_found_without_a_runtime_directory() {
    let home = tempfile::tempdir().unwrap();
    // Root's own daemon would be the system's.
    let root = Uid::effective().is_root();
    if root {
        chown(home.path(), Some(STRANGERS[0]), Some(STRANGERS[0])).unwrap();
    }
    let run = |program: &Path| {
        let mut command = if root { run_as(STRANGERS[0], program) } else { Command::new(program) };
        command.env_clear().env("HOME", home.path());
        command
    };
    let mut daemon = run(&p2pd());
    daemon.arg("run").args(LISTEN);
    let socket = home.path().join(".local/state/p2pd/api.sock");
    let daemon = Daemon::spawn(daemon, socket);
    let found = run(Path::new(P2PCTL)).arg("status").output().unwrap();
    assert!(found.status.success(), "{}", said(&found));
    let status = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(status.contains(&daemon.address), "{} in {status}", daemon.address);
}

#[test]
fn root_starts_no_daemon_in_a_directory_of_another_user() {
    if !Uid::effective().is_root() {
        return support::skip("a directory of another user: to make one takes root");
    }
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(65_534), None).unwrap();
    let mut run = Command::new(p2pd());
    run.env("STATE_DIRECTORY", &data).env("CONFIGURATION_DIRECTORY", place.path());
    run.args(["run", "--socket"]).arg(place.path().join("api.sock")).args(LISTEN);
    let run = run.output().unwrap();
    assert!(!run.status.success());
    let words = said(&run);
    assert!(words.contains(&format!("{} belongs to ", data.display())) && words.contains("systemctl start"), "{words}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "nothing of root's is left there");
}
