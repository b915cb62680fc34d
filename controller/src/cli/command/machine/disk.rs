//! `muster machine disk`.

use clap::{Args, Subcommand};

use super::path;
use super::sheet::{DRIVES, unit};
use crate::cli::command::desired::replace::Replace;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, text};

/// `muster machine disk`
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// How the drives of a machine are, by SMART or the NVMe health log, with those that are gone for less than 90 days
    #[command(visible_alias = "ls")]
    List(List),
    /// How one drive was, a line for each day
    Trend(Trend),
    /// Put another disk where one stood in what is desired of a machine
    ///
    /// The document that holds is changed: the new disk's name takes the old one's place wherever it stands. The plan is shown,
    /// and applied: its table and filesystems are made anew, and members of arrays are filled from the others. A disk that is
    /// named by its slot or chosen by a rule is not named here: put the new one in, and apply the document again.
    Replace(Replace),
}

#[derive(Debug, Args)]
pub struct List {
    /// Id, unique beginning of an id, or name
    machine: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster machine disk trend kitchen serial:WD-WX12345")]
pub struct Trend {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Its WWN or serial number, as `muster machine disk list` has it
    disk: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

const SAMPLES: &[Column] = &[
    Column("day", |s| text(s, "/day")),
    Column("temperature", |s| unit(s, "/temperature_c", " C")),
    Column("used", |s| unit(s, "/used_percent", "%")),
    Column("spare", |s| unit(s, "/spare_percent", "%")),
    Column("reallocated", |s| text(s, "/reallocated")),
    Column("pending", |s| text(s, "/pending")),
    Column("uncorrectable", |s| text(s, "/uncorrectable")),
    Column("media errors", |s| text(s, "/media_errors")),
];

impl DiskCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { machine, show, connect }) => {
                let drives = connect.client()?.all(&format!("{}/disks", path(&machine)), &[])?;
                show.list(&drives, DRIVES);
                Ok(())
            }
            Self::Replace(replace) => replace.run(),
            Self::Trend(Trend { machine, disk, show, connect }) => {
                let drives = connect.client()?.all(&format!("{}/disks", path(&machine)), &[])?;
                let Some(drive) = drives.iter().find(|drive| text(drive, "/disk") == disk) else {
                    let known: Vec<String> = drives.iter().map(|drive| text(drive, "/disk")).collect();
                    let known = if known.is_empty() { "none of its drives do".into() } else { known.join(", ") };
                    let problem = format!("{disk} of {machine} never told of its health; those that did: {known}");
                    return Err(CliError::Failed(problem));
                };
                let trend = drive["trend"].as_array().map(Vec::as_slice).unwrap_or_default();
                show.list(trend, SAMPLES);
                Ok(())
            }
        }
    }
}
