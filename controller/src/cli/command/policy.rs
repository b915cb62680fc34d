//! `muster policy`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, joined, lines, print, text};

/// `muster policy`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List policies
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one policy
    Show(One),
    /// Make a policy; machines that wait already and fit are approved at once
    ///
    /// All that is given must hold. Name hardware or an ISO, or else both a number of machines and a date.
    Create(Box<Create>),
    /// Take a policy away; whom it approved stays in
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// As the list shows it
    name: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster policy create rack-b --serial 7CZX9R1 --serial 7CZX9R2        these machines, wherever they start
  muster policy create ber1-sticks --location ber1 --iso any           whoever starts from one of the site's ISOs
  muster policy create delivery --machines 20 --until 2026-12-24       the next twenty, wherever they start

Serials, UUIDs and MACs are what a machine says of itself: a list keeps strangers out, not impostors.")]
pub struct Create {
    /// 1 to 32 lower-case letters, digits or hyphens
    name: String,
    /// Only machines at the location with this code, where an ISO that is not revoked or an operator's ticket says so: what a
    /// machine claims of it over the network does not count
    #[arg(long, value_name = "CODE")]
    location: Option<String>,
    /// Only machines with this system or board serial, in upper or lower case, or another one of the list; may be given
    /// more than once
    #[arg(long = "serial", value_name = "SERIAL")]
    serials: Vec<String>,
    /// Or with this SMBIOS UUID
    #[arg(long = "uuid", value_name = "UUID")]
    uuids: Vec<String>,
    /// Or with a NIC of this MAC
    #[arg(long = "mac", value_name = "MAC")]
    macs: Vec<String>,
    /// Only machines that started from the ISO with this id, or from `any` that is not revoked
    #[arg(long, value_name = "ID|any")]
    iso: Option<String>,
    /// At most so many machines
    #[arg(long, value_name = "COUNT")]
    machines: Option<u32>,
    /// Nobody after this: a date, a time, or how long from now (12h, 7d)
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// As the list shows it
    name: String,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("name", |p| text(p, "/name")),
    Column("location", |p| text(p, "/location")),
    Column("hardware", |p| {
        let lists = ["/serials", "/uuids", "/macs"].map(|list| joined(p, list));
        lists.into_iter().filter(|list| !list.is_empty()).collect::<Vec<_>>().join(", ")
    }),
    Column("ISO", |p| text(p, "/iso")),
    Column("approved", |p| match p["machines"].as_u64() {
        None => text(p, "/approved"),
        Some(most) => format!("{} of {most}", text(p, "/approved")),
    }),
    Column("until", |p| text(p, "/until")),
];

impl PolicyCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { show, connect }) => {
                show.list(&connect.client()?.all("/policies", &[])?, COLUMNS);
                Ok(())
            }
            Self::Show(One { name, show, connect }) => {
                let policy = connect.client()?.get(&format!("/policies/{}", escape(&name)))?;
                show.one(&policy, |policy| lines(policy, COLUMNS));
                Ok(())
            }
            Self::Create(create) => create.run(),
            Self::Delete(Delete { name, connect }) => {
                connect.client()?.delete(&format!("/policies/{}", escape(&name)))?;
                print(&format!("{name} is deleted\n"));
                Ok(())
            }
        }
    }
}

impl Create {
    fn run(self) -> Result<(), CliError> {
        let body = object([
            ("name", self.name.into()),
            ("location", or_null(self.location)),
            ("serials", json!(self.serials)),
            ("uuids", json!(self.uuids)),
            ("macs", json!(self.macs)),
            ("iso", or_null(self.iso)),
            ("machines", or_null(self.machines)),
            ("until", or_null(self.until)),
        ]);
        let made = self.connect.client()?.post("/policies", body)?;
        self.show.one(&made, |made| lines(made, COLUMNS));
        Ok(())
    }
}
