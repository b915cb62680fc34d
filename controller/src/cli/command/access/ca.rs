//! `muster ca`: the certificate authority, and how a fleet goes from one to the next.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, joined, lines, print, text};
use crate::words::counted;

/// `muster ca`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Which CA signs, which one is trusted beside it, and which machines know only that one
    Show(ShowCa),
    /// Make a new CA, which signs from now on; the one before stays trusted until `finish`
    Rotate(Rotate),
    /// End the trust in the CA before, once all machines have followed
    Finish(Finish),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster ca show                   which one signs, and who is still to follow
  muster ca show --pem > ca.crt    for browsers, curl --cacert and muster --ca elsewhere")]
pub struct ShowCa {
    /// Print the certificates of all CAs in force, for browsers, curl --cacert and muster --ca
    #[arg(long)]
    pem: bool,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster ca rotate     then wait until muster ca show names nobody
  muster ca finish")]
pub struct Rotate {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster ca finish             once all machines have followed
  muster ca finish --force     the key of the one before has leaked, or those that are left are switched off")]
pub struct Finish {
    /// Do it even where machines know only the CA before; they have to boot again
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

const AUTHORITY: &[Column] = &[
    Column("CA", |a| text(a, "/current/fingerprint")),
    Column("name", |a| text(a, "/current/name")),
    Column("expires", |a| text(a, "/current/expires")),
    Column("CA before", |a| text(a, "/before/fingerprint")),
    Column("its name", |a| text(a, "/before/name")),
    Column("it expires", |a| text(a, "/before/expires")),
    Column("boot CA", |a| text(a, "/boot/fingerprint")),
    Column("know only that", |a| match a["before"] {
        Value::Null => String::new(),
        _ => {
            let behind = counted(a["behind"].as_u64().unwrap_or_default() as usize, "machine");
            format!("{behind} {}", joined(a, "/behind_names")).trim_end().to_owned()
        }
    }),
];

impl CaCommand {
    pub(in super::super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Show(ShowCa { pem, show, connect }) => {
                let authority = connect.client()?.get("/ca")?;
                match pem {
                    true => print(authority["pem"].as_str().unwrap_or_default()),
                    false => show.one(&authority, |a| lines(a, AUTHORITY)),
                }
                Ok(())
            }
            Self::Rotate(Rotate { show, connect }) => {
                let authority = connect.client()?.post("/ca/rotate", json!({}))?;
                show.one(&authority, |a| {
                    format!(
                        "{}Machines that are online follow by themselves: see muster ca show. Once all have followed, end \
                         the overlap with muster ca finish.\n",
                        lines(a, AUTHORITY)
                    )
                });
                Ok(())
            }
            Self::Finish(Finish { force, show, connect }) => {
                let authority = connect.client()?.post("/ca/finish", json!({ "force": force }))?;
                show.one(&authority, |a| lines(a, AUTHORITY));
                Ok(())
            }
        }
    }
}
