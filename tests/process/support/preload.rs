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
