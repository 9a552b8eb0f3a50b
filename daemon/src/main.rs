//! `p2pd`: flags, configuration, runtime, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    p2pd::flags::main()
}
