//! A daemon that has lost a part must not look alive.

use std::{
    process::{Command, exit},
    thread,
    time::Duration,
};

/// Set in the process that is to end.
const CHILD: &str = "P2PD_TEST_PANICS";

#[test]
fn a_panic_anywhere_ends_the_process() {
    let program = std::env::current_exe().unwrap();
    let ended =
        Command::new(program).args(["--exact", "panics::child", "--nocapture"]).env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(70), "{said}");
    assert!(said.contains("a part has failed"), "{said}");
}

/// Nothing, unless the test above runs it in a process of its own.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    p2pd::process::end_on_panic();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Nobody waits for the task.
    runtime.spawn(async { panic!("a part has failed") });
    thread::sleep(Duration::from_secs(20));
    exit(0);
}
