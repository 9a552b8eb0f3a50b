//! Functions of the C library that a daemon gets from a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles C for LD_PRELOAD.
pub fn library(place: &Path, name: &str, code: &str) -> PathBuf {
    let (source, library) = (place.join(format!("{name}.c")), place.join(format!("{name}.so")));
    fs::write(&source, code).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success(), "{name}.c");
    library
}

/// A clock that is as many seconds ahead as SKEW says.
const SKEW: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME) time->tv_sec += atoi(getenv("SKEW"));
    return result;
}
"#;

/// For a daemon whose clock is wrong by SKEW seconds.
pub fn skewed_clock(place: &Path) -> PathBuf {
    library(place, "skew", SKEW)
}
