//! `muster machine wipe`.

use clap::Args;
use serde_json::{Value, json};

use super::path;
use crate::api::WipeLevel;
use crate::cli::ask;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::follow;
use crate::cli::show::{bytes, print, text};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine wipe kitchen serial:WD-WX12345                   shows the disk, and asks
  muster machine wipe kitchen wwn:0x5000c500a1b2c3d4 --level quick --yes")]
pub struct Wipe {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// WWN or serial number of each disk, as `muster machine show` has it
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<String>,
    /// How thoroughly
    #[arg(long, value_enum, default_value_t = WipeLevel::Full)]
    level: WipeLevel,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
    /// Do not wait until the disks are wiped
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Wipe {
    pub(super) fn run(self) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let machine = client.get(&path(&self.machine))?;
        let name = text(&machine, "/name");
        for disk in &self.disks {
            eprintln!("{}", said(&machine, disk));
        }
        let question = format!("What {} of {name} carry will be lost.", self.disks.join(", "));
        if !self.yes && !ask::is_meant(&question).unwrap_or_default() {
            let problem = "not confirmed, nothing was changed: wiping cannot be undone; to do it, add --yes";
            return Err(CliError::Failed(problem.to_owned()));
        }
        let body = json!({"disks": self.disks, "level": self.level.word()});
        let operation = client.post(&format!("{}/wipe", path(&text(&machine, "/id"))), body)?;
        if self.no_wait {
            print(&format!("{}, operation {}\n", text(&operation, "/description"), text(&operation, "/id")));
            return Ok(());
        }
        let ended = follow(&client, &operation)?;
        print(&format!("{}\n", text(&ended, "/receipt").replace("; ", "\n")));
        Ok(())
    }
}

/// A disk as the machine's inventory has it, where it is there under this name.
fn said(machine: &Value, disk: &str) -> String {
    let all = machine["inventory"]["disks"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(found) = all.iter().find(|there| text(there, "/id") == disk) else {
        return disk.to_owned();
    };
    let size = bytes(found["size_bytes"].as_u64().unwrap_or_default());
    let parts = [text(found, "/model"), text(found, "/name"), size];
    format!("{disk}: {}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}
