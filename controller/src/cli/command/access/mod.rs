//! `muster token`, `muster ticket`, `muster ial credential`.

pub(super) mod ca;
mod check;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cli::client::{escape, object, or_null};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Show, age, joined, lines, print, text};

/// `muster token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List tokens, without the tokens themselves
    #[command(visible_alias = "ls")]
    List(List),
    /// Make a token; it is shown once
    Create(CreateToken),
    /// Make a token useless at once
    Revoke(Revoke),
}

/// `muster ticket`
#[derive(Debug, Subcommand)]
pub enum TicketCommand {
    /// Make a ticket for an agent that is started as a process; it is shown once
    Create(CreateTicket),
}

/// `muster ial`
#[derive(Debug, Subcommand)]
pub enum IalCommand {
    /// Credentials of Cycle's hubs
    #[command(subcommand)]
    Credential(CredentialCommand),
    /// Play Cycle against an IAL server, of this controller or of anybody
    ///
    /// Reads, and sends what has to be refused; changes nothing unless --provision is given. Where Cycle's own documents
    /// contradict each other, whatever one of them allows passes, with a note. Ends with 0 if nothing failed.
    Check(Box<check::CheckArgs>),
}

/// `muster ial credential`
#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// List credentials, without their secrets
    #[command(visible_alias = "ls")]
    List(List),
    /// Make a credential for a hub; its secret is shown once
    Create(CreateCredential),
    /// Make a credential useless at once; the hub's servers stay
    Revoke(RevokeCredential),
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster token revoke 1a2b3c4d     the id, as `muster token list` shows it")]
pub struct Revoke {
    /// As the list shows it
    id: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster ial credential revoke 5f0c9a7e21b3d864     the key, as `muster ial credential list` shows it")]
pub struct RevokeCredential {
    /// As the list shows it
    key: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster token create ci --role operator --expires 90d")]
pub struct CreateToken {
    /// Whose, or what for
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// Until when it is good: a span like 90d or 12h, a date, or a time like 2026-11-21T07:15:04Z; for ever where absent
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Read
    Viewer,
    /// Change machines, addresses, locations as well
    Operator,
    /// Make tokens and credentials as well
    Admin,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  muster ticket create --location ber1     prints the command to run on the machine")]
pub struct CreateTicket {
    /// Code of the location where the machine stands
    #[arg(long, value_name = "CODE")]
    location: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster ial credential create acme                     all locations; key and secret go into Cycle
  muster ial credential create acme --location ber1     this one alone
  muster ial credential create acme --hub-id 651586fca6078e98982dbd90")]
pub struct CreateCredential {
    /// Who will hold it; credentials of one hub see the same servers
    hub: String,
    /// Cycle's id of the only hub that may use it
    #[arg(long, value_name = "ID")]
    hub_id: Option<String>,
    /// Code of a location that it is for, and no other; may be given several times
    #[arg(long = "location", value_name = "CODE")]
    locations: Vec<String>,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

const TOKENS: &[Column] = &[
    Column("id", |t| text(t, "/id")),
    Column("name", |t| text(t, "/name")),
    Column("role", |t| text(t, "/role")),
    Column("age", |t| age(t, "/created")),
    Column("expires", |t| text(t, "/expires")),
    Column("token", |t| text(t, "/token")),
];

const CREDENTIALS: &[Column] = &[
    Column("key", |c| text(c, "/key")),
    Column("hub", |c| text(c, "/hub")),
    Column("hub id", |c| text(c, "/hub_id")),
    Column("locations", |c| joined(c, "/locations")),
    Column("age", |c| age(c, "/created")),
    Column("secret", |c| text(c, "/secret")),
];

impl TokenCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { show, connect }) => {
                show.list(&connect.client()?.all("/tokens", &[])?, &TOKENS[..5]);
                Ok(())
            }
            Self::Create(CreateToken { name, role, expires, show, connect }) => {
                let role = match role {
                    RoleName::Viewer => "viewer",
                    RoleName::Operator => "operator",
                    RoleName::Admin => "admin",
                };
                let body = object([("name", name.into()), ("role", role.into()), ("expires", or_null(expires))]);
                let made = connect.client()?.post("/tokens", body)?;
                show.one(&made, |made| once(made, TOKENS));
                Ok(())
            }
            Self::Revoke(Revoke { id, connect }) => {
                connect.client()?.delete(&format!("/tokens/{}", escape(&id)))?;
                print(&format!("{id} is revoked\n"));
                Ok(())
            }
        }
    }
}

impl TicketCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        let Self::Create(CreateTicket { location, show, connect }) = self;
        let made = connect.client()?.post("/tickets", json!({"location": location}))?;
        show.one(&made, |made| {
            format!(
                "good until {} and for one machine:\n  muster-agent --controller {} --ca {} --ticket {}\n",
                text(made, "/expires"),
                joined(made, "/controllers").replace(", ", ","),
                text(made, "/ca"),
                text(made, "/ticket"),
            )
        });
        Ok(())
    }
}

impl IalCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        let command = match self {
            Self::Check(check) => return check.run(),
            Self::Credential(command) => command,
        };
        match command {
            CredentialCommand::List(List { show, connect }) => {
                show.list(&connect.client()?.all("/ial/credentials", &[])?, &CREDENTIALS[..5]);
                Ok(())
            }
            CredentialCommand::Create(CreateCredential { hub, hub_id, locations, show, connect }) => {
                let locations = Some(locations).filter(|codes| !codes.is_empty());
                let body =
                    object([("hub", hub.into()), ("hub_id", or_null(hub_id)), ("locations", or_null(locations))]);
                let made = connect.client()?.post("/ial/credentials", body)?;
                show.one(&made, |made| once(made, CREDENTIALS));
                Ok(())
            }
            CredentialCommand::Revoke(RevokeCredential { key, connect }) => {
                connect.client()?.delete(&format!("/ial/credentials/{}", escape(&key)))?;
                print(&format!("{key} is revoked\n"));
                Ok(())
            }
        }
    }
}

/// What was made, with a word about its secret.
fn once(made: &Value, columns: &[Column]) -> String {
    format!("{}The last line is shown only now; keep it safe.\n", lines(made, columns))
}
