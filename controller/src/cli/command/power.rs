//! `muster power`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::machine::path;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::follow;
use crate::cli::show::{print, text};

/// `muster power`
#[derive(Debug, Subcommand)]
pub enum PowerCommand {
    /// Switch a machine on, by its BMC, its outlet or a magic packet
    On(Target),
    /// Power a machine off: by its agent, or from outside where that has no session
    Off(Target),
    /// Start a machine anew, through its firmware: by its agent, or from outside where that has no session
    Reboot(Target),
    /// Cut a machine's power and give it back, by its BMC or its outlet, whatever runs on it
    Cycle(Target),
}

#[derive(Debug, Args)]
pub struct Target {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Do not wait until the machine is back, or gone
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

impl PowerCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (action, target) = match self {
            Self::On(target) => ("on", target),
            Self::Off(target) => ("off", target),
            Self::Reboot(target) => ("reboot", target),
            Self::Cycle(target) => ("cycle", target),
        };
        let client = target.connect.client()?;
        let operation = client.post(&format!("{}/power", path(&target.machine)), json!({"action": action}))?;
        if target.no_wait {
            print(&format!("{}, operation {}\n", text(&operation, "/description"), text(&operation, "/id")));
            return Ok(());
        }
        let ended = follow(&client, &operation)?;
        print(&format!("{}\n", text(&ended, "/receipt")));
        Ok(())
    }
}
