//! What `./x demo` shows, and proposes at its end.

use std::{fs, path::Path, process::Command};

use crate::support::{P2PCTL, Program, Start, in_peace, said, source, terminate};

#[test]
fn the_demo_goes_on_as_it_says_and_leaves_the_file_it_names() {
    let place = tempfile::tempdir().unwrap();
    let programs = Path::new(P2PCTL).parent().unwrap();
    let mut demo = Command::new(source("packaging/demo.sh"));
    demo.arg(programs).env("TMPDIR", place.path());
    let _peace = in_peace();
    let mut demo = Program::speaking(demo);
    let told: Vec<String> = demo.told().take_while(|line| line != "Ctrl-C ends it.").collect();
    let whole = told.join("\n");
    assert!(whole.contains("nothing was lost") && whole.contains("The stream goes on."), "{whole}");
    let export = told.iter().find(|line| line.trim_start().starts_with("export ")).unwrap();
    for command in ["p2pctl listen town-radio --duration 1s | wc -c", "p2pctl streams", "p2pctl peers", "p2pctl status"]
    {
        let done = Command::new("sh").args(["-c", &format!("{export}\n{command}")]).finish();
        assert!(done.status.success(), "{command}: {}", said(&done));
        let out = String::from_utf8(done.stdout).unwrap();
        assert!(!out.trim().is_empty() && (!command.contains("wc") || out.trim() == "96000"), "{command}: {out}");
    }
    terminate(&demo);
    demo.wait().unwrap();
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [format!("p2pd-demo-{}.opus", nix::unistd::Uid::effective()).as_str()]);
}
