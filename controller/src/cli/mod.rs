//! The operator's command line: what `muster` does beside being the controller.
//!
//! Commands about machines, addresses and so on speak with a controller over its API and know nothing of its database;
//! `serve`, `image` and `iso` work on this host's files.
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

mod access;
mod client;
mod desired;
mod feed;
mod machine;
mod media;
mod operation;
mod output;
mod serve;
mod site;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Client;

/// Turns x86 boxes into managed machines without installing anything on them.
#[derive(Parser)]
#[command(name = "muster", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  muster serve                                  run a controller on this host
  muster machine list                           what is there, and how it does
  muster plan -m kitchen -f office.yaml         what a document would change
  muster apply -m kitchen -f office.yaml        change it; the machine undoes what cuts it off
  muster iso build --location ber1 -o ber1.iso  a boot medium for a site

On the controller's own host, muster finds it by itself. Elsewhere, set MUSTER_URL and MUSTER_TOKEN and name the
controller's certificate with --ca.")]
struct Cli {
    #[command(flatten)]
    target: client::Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller
    Serve(serve::Serve),
    /// List, show, approve, reject, label, rename and retire machines
    #[command(subcommand)]
    Machine(machine::Machine),
    /// Show what a document would change on a machine, and change nothing
    Plan(desired::Plan),
    /// Make a document what a machine should be
    Apply(desired::Apply),
    /// Show how a document differs from what a machine should be
    Diff(desired::Diff),
    /// Reboot machines, or switch them off
    #[command(subcommand)]
    Power(machine::Power),
    /// The sites that machines stand at
    #[command(subcommand)]
    Location(site::Location),
    /// Machines that are alike, and what they are called and cost
    #[command(subcommand)]
    Model(site::Model),
    /// The networks that addresses are handed out from
    #[command(subcommand)]
    Subnet(site::Subnet),
    /// The addresses that were handed out
    #[command(subcommand)]
    Address(site::Address),
    /// Work that was asked for, and how far it is
    #[command(subcommand)]
    Operation(operation::Operation),
    /// Boot media for sites
    #[command(subcommand)]
    Iso(media::Iso),
    /// The kernel and the initramfs that machines boot
    #[command(subcommand)]
    Image(media::Image),
    /// Who may use this controller
    #[command(subcommand)]
    Token(access::Token),
    /// What Cycle may use
    #[command(subcommand)]
    Ial(access::Ial),
    /// What happens
    Events(feed::Events),
    /// Who changed what
    Audit(feed::Audit),
}

/// Why a command did not do what it should. The text is one or more whole lines.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The command line does not say what is needed.
    #[error("{0}")]
    Usage(String),
    /// Refused or failed.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    fn failed(text: impl ToString) -> Self {
        Self::Failed(text.to_string())
    }

    /// An error and what caused it, in one line.
    fn chain(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors repeat their cause in their own text.
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self::Failed(text)
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // clap ends the process itself for --help (0) and for wrong usage (2).
    let Cli { target, command } = Cli::parse();
    match run(target, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("muster: {text}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(text)) => {
            eprintln!("muster: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(target: client::Target, command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(command) => command.run(&target),
        Command::Iso(command) => command.run(&target),
        Command::Image(command) => command.run(&target),
        Command::Machine(command) => command.run(&Client::find(&target)?),
        Command::Plan(command) => command.run(&Client::find(&target)?),
        Command::Apply(command) => command.run(&Client::find(&target)?),
        Command::Diff(command) => command.run(&Client::find(&target)?),
        Command::Power(command) => command.run(&Client::find(&target)?),
        Command::Location(command) => command.run(&Client::find(&target)?),
        Command::Model(command) => command.run(&Client::find(&target)?),
        Command::Subnet(command) => command.run(&Client::find(&target)?),
        Command::Address(command) => command.run(&Client::find(&target)?),
        Command::Operation(command) => command.run(&Client::find(&target)?),
        Command::Token(command) => command.run(&Client::find(&target)?),
        Command::Ial(command) => command.run(&Client::find(&target)?),
        Command::Events(command) => command.run(&Client::find(&target)?),
        Command::Audit(command) => command.run(&Client::find(&target)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_design_is_there() {
        let lines = [
            "muster serve --config muster.toml --data /tmp/x",
            "muster machine list --output json",
            "muster machine show kitchen",
            "muster machine approve kitchen",
            "muster machine reject kitchen",
            "muster machine label kitchen rack=3 old-",
            "muster machine rename kitchen cellar",
            "muster machine maintenance kitchen on",
            "muster machine retire kitchen",
            "muster machine ticket --location ber1",
            "muster plan -m kitchen -f x.yaml",
            "muster apply -m kitchen -f x.yaml --permit-destroy",
            "muster diff -m kitchen -f x.yaml",
            "muster power reboot kitchen",
            "muster power off kitchen",
            "muster power on kitchen",
            "muster power cycle kitchen",
            "muster location add ber1 --name Berlin --latitude 52.5 --longitude -0.1",
            "muster model list",
            "muster subnet add 203.0.113.0/28 --location ber1 --gateway 203.0.113.1 --reserve 203.0.113.2",
            "muster address list",
            "muster operation list",
            "muster operation watch 1234",
            "muster operation cancel 1234",
            "muster iso build --location ber1 -o ber1.iso",
            "muster iso list",
            "muster image build",
            "muster image list",
            "muster token create ci --role viewer",
            "muster ial credential create acme",
            "muster events --follow",
            "muster audit",
            "muster --url https://[::1]:8443 --token muster_1_2 machine list",
        ];
        for line in lines {
            if let Err(e) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {e}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "muster machine show",
            "muster power kick kitchen",
            "muster token create ci --role king",
            "muster apply -m x",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
