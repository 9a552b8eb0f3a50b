//! `p2pctl`: the command line of p2pd, a client of its API like any other.

mod cli;
mod client;
mod cmd;
mod exit;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::run(cli::parse())
}
