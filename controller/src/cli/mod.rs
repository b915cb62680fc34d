//! The operator's command line: the `muster` program.
//!
//! `main.rs` calls [`main`]. `serve` runs the controller, `image` and `iso` work on this host's files, everything else
//! asks a controller over its API and prints what it says.
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted while it followed something that goes on, or tried something.

mod ask;
mod client;
mod command;
mod connect;
mod error;
mod follow;
mod interrupt;
mod several;
mod show;

use std::process::ExitCode;

use clap::Parser;

pub use command::{Command, plan_text};
pub use error::CliError;

/// Muster turns x86 boxes into managed machines without installing anything on them.
///
/// `muster serve` runs a controller; every other command asks one. On the controller's own host they find it by
/// themselves; elsewhere give --url and --token, or MUSTER_URL and MUSTER_TOKEN.
#[derive(Debug, Parser)]
#[command(name = "muster", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  muster serve                                     run a controller with its defaults
  muster iso build --location ber1 -o ber1.iso     write a site's boot medium
  muster machine list --lifecycle pending          see who waits for approval
  muster machine approve ber1-3f2a9c               let one in
  muster apply -m ber1-3f2a9c -f network.yaml      make a document what it should be
  muster apply -l role=web -f web.yaml             roll a template out, wave after wave
  muster events --follow                           watch what happens";

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where nobody reads, there is nobody to complain to.
            let _ = error.print();
            // Help that was asked for is no mistake.
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error::text(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
