//! The agent's binary: PID 1 of a machine in RAM, that PID's worker, or an ordinary process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_agent::dial::Ended;
use muster_agent::linux::{LinuxMachine, Role, boot_id};
use muster_agent::machine::chain;
use muster_agent::options::{self, Command, HELP, Options};
use muster_agent::{init, log, secrecy};
use tokio::signal::unix::{SignalKind, signal};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    secrecy::forbid_cores();
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|argument| argument == init::WORKER) {
        init::worker::work();
        return ExitCode::from(FAILED);
    }
    // The kernel hands words that it does not know to PID 1, but none that begin like ours.
    if std::process::id() == 1 && !arguments.peek().is_some_and(|argument| argument.starts_with("--")) {
        init::supervise();
    }
    match options::from_arguments(arguments, boot_id()) {
        Ok(Command::Help) => println!("{HELP}"),
        Ok(Command::Version) => println!("muster-agent {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Run(options)) => {
            if let Err(problem) = run(*options) {
                eprintln!("muster-agent: {problem}");
                return ExitCode::from(FAILED);
            }
        }
        Err(error) => {
            eprintln!("muster-agent: {error}");
            return ExitCode::from(WRONG_USAGE);
        }
    }
    ExitCode::SUCCESS
}

fn run(options: Options) -> Result<(), String> {
    log::enable();
    let machine = LinuxMachine::new(Role::Guest, None).map_err(|error| chain(&error))?;
    let runtime = muster_agent::run::runtime().map_err(|error| format!("could not start: {error}"))?;
    runtime.block_on(async {
        let no_signals = |error| format!("could not wait for signals: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        // All three are cancel-safe: the losers are not asked again.
        let ended = tokio::select! {
            ended = muster_agent::run(options, Arc::new(machine)) => Some(ended),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        // The session was dropped, and its farewell needs a moment to leave: the controller shows the machine offline now
        // and not in half a minute.
        tokio::time::sleep(Duration::from_millis(50)).await;
        match ended {
            None | Some(Ended::Power(_)) => Ok(()),
            Some(Ended::Refused(refusal)) => Err(format!("enrollment refused: {refusal}")),
            Some(Ended::NoTicket) => {
                Err("there is no certificate in the state folder, and no --ticket to get one".into())
            }
        }
    })
}
