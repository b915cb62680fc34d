//! `muster lease`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::machine::path;
use crate::cli::client::escape;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::follow;
use crate::cli::show::{Column, Show, age, joined, lines, machine, print, text};

/// `muster lease`
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// List leases that have not ended
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one lease
    Show(One),
    /// End a lease as if its hub had given the server back: the machine is wiped and available afterwards
    End(End),
    /// Clean a machine once more whose cleaning after a lease failed
    Clean(Clean),
    /// Take a leased machine that will not come back out of the books: retires it, ends its lease, frees its addresses
    WriteOff(WriteOff),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those of this hub
    #[arg(long)]
    hub: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id of the lease, srv-…
    lease: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct End {
    /// Id of the lease, srv-…
    lease: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Clean {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// Do not wait until the machine is clean
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct WriteOff {
    /// Id, unique beginning of an id, or name
    machine: String,
    /// That the box is off for good: one that is on would share its address with another
    #[arg(long, required = true)]
    is_off: bool,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("id", |l| text(l, "/id")),
    Column("hub", |l| text(l, "/hub")),
    Column("state", |l| text(l, "/state")),
    Column("hostname", |l| text(l, "/hostname")),
    Column("model", |l| text(l, "/model")),
    Column("location", |l| text(l, "/location")),
    Column("machine", machine),
    Column("addresses", |l| joined(l, "/addresses")),
    Column("age", |l| age(l, "/created")),
    Column("why", |l| text(l, "/why")),
];

impl LeaseCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { hub, show, connect }) => {
                let leases = connect.client()?.all("/leases", &[("hub", hub.as_deref())])?;
                show.list(&leases, COLUMNS);
            }
            Self::Show(One { lease, show, connect }) => {
                let lease = connect.client()?.get(&format!("/leases/{}", escape(&lease)))?;
                show.one(&lease, |lease| lines(lease, COLUMNS));
            }
            Self::End(End { lease, connect }) => {
                connect.client()?.post(&format!("/leases/{}/end", escape(&lease)), json!({}))?;
                print(&format!("{lease} is ending\n"));
            }
            Self::Clean(Clean { machine, no_wait, connect }) => {
                let client = connect.client()?;
                let operation = client.post(&format!("{}/clean", path(&machine)), json!({}))?;
                let ended = if no_wait { operation } else { follow(&client, &operation)? };
                print(&format!("{}, operation {}\n", text(&ended, "/description"), text(&ended, "/id")));
            }
            Self::WriteOff(WriteOff { machine, connect, .. }) => {
                connect.client()?.post(&format!("{}/write-off", path(&machine)), json!({}))?;
                print(&format!("{machine} is written off\n"));
            }
        }
        Ok(())
    }
}
