//! The `muster` program: hands over to the command line at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_controller::cli::main()
}
