//! `p2pctl`: the command line of p2pd, a client of its API like any other.

mod api_words;
mod cli;
mod client;
mod cmd;
mod error;
mod output;
mod rate;
mod signals;

use std::process::ExitCode;

use tokio::runtime::Builder;

fn main() -> ExitCode {
    run(cli::parse())
}

/// Runs the command and turns its end into an exit code.
fn run(cli: cli::Cli) -> ExitCode {
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&error.into()),
    };
    let done = runtime.block_on(cmd::run(cli));
    // A thread that waits for standard input must not hold up the end.
    runtime.shutdown_background();
    done.map_or_else(|error| report(&error), |()| ExitCode::SUCCESS)
}

fn report(error: &anyhow::Error) -> ExitCode {
    // A reader that has seen enough is no failure.
    if error::is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let words = error::words(error);
    if !words.is_empty() {
        output::say(format_args!("p2pctl: {words}"));
    }
    ExitCode::from(error::exit_of(error) as u8)
}
