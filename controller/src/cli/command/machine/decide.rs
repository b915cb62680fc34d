//! `muster machine approve`, `reject` and `retire`: who is in, and who is not.

use clap::Args;
use serde_json::{Value, json};

use super::{path, said};
use crate::cli::ask;
use crate::cli::client::Client;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::several::Several;
use crate::cli::show::{print, text};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine approve KX4M-7QPD                 the code on the screen of the machine
  muster machine approve ber1-3f2a9c ber1-77c001   by the names that `muster machine list` shows")]
pub struct Approve {
    #[command(flatten)]
    targets: Targets,
}

#[derive(Debug, Args)]
#[command(after_help = "Its session ends within a second, and its screen says so from its next start on.
`muster machine approve` takes it back.

Example:
  muster machine reject ber1-3f2a9c")]
pub struct Reject {
    #[command(flatten)]
    targets: Targets,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster machine retire kitchen                    asks first
  muster machine retire kitchen cellar --yes       two of them, for scripts")]
pub struct Retire {
    #[command(flatten)]
    targets: Targets,
    /// Do not ask; needed where nobody can be asked
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Targets {
    /// Ids, unique beginnings of ids, names, or claim codes
    #[arg(required = true, value_name = "MACHINE")]
    machines: Vec<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Approve {
    pub(super) fn run(self) -> Result<(), CliError> {
        self.targets.run("approve", "approved", &["available", "leased", "cleaning"], |_| Ok(()))
    }
}

impl Reject {
    pub(super) fn run(self) -> Result<(), CliError> {
        self.targets.run("reject", "rejected", &["rejected"], |_| Ok(()))
    }
}

impl Retire {
    pub(super) fn run(self) -> Result<(), CliError> {
        self.targets.run("retire", "retired", &["retired"], |machines| {
            let names: Vec<String> = machines.iter().map(|machine| text(machine, "/name")).collect();
            let question = format!("{} will be retired, and cannot be taken back.", names.join(", "));
            match self.yes || ask::is_meant(&question).unwrap_or_default() {
                true => Ok(()),
                false => {
                    let names = names.join(" ");
                    let problem = format!(
                        "not confirmed, nothing was changed: retiring cannot be undone; to do it, add --yes: \
                         muster machine retire {names} --yes"
                    );
                    Err(CliError::Failed(problem))
                }
            }
        })
    }
}

impl Targets {
    /// Does `verb` to all that are not `done` yet, which `lifecycles` say, where `confirm` agrees.
    fn run(
        &self,
        verb: &str,
        done: &str,
        lifecycles: &[&str],
        confirm: impl FnOnce(&[Value]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let client = self.connect.client()?;
        let mut several = Several::new(self.machines.len());
        let mut found = Vec::new();
        for machine in &self.machines {
            found.extend(several.note(client.get(&path(machine)))?);
        }
        let is_done = |machine: &Value| lifecycles.contains(&text(machine, "/lifecycle").as_str());
        let (past, open): (Vec<Value>, Vec<Value>) = found.into_iter().partition(is_done);
        for machine in &past {
            print(&format!("{} is {done} already\n", text(machine, "/name")));
        }
        if !open.is_empty() {
            confirm(&open)?;
        }
        for machine in &open {
            if let Some(machine) = several.note(decide(&client, verb, machine))? {
                said(&machine);
            }
        }
        several.end()
    }
}

fn decide(client: &Client, verb: &str, machine: &Value) -> Result<Value, CliError> {
    client.post(&format!("{}/{verb}", path(&text(machine, "/id"))), json!({}))
}
