//! `muster token` and `muster ial`.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::Failure;
use super::client::{Client, encode};
use super::output::{Column, Output, text};

/// Who may use this controller
#[derive(Subcommand)]
pub(super) enum Token {
    /// All tokens, without their secrets
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a token; it is shown once
    Create {
        /// Whose, or what for
        name: String,
        /// What it may do
        #[arg(long, value_enum)]
        role: Role,
        /// Days that it is good; for ever where absent
        #[arg(long, value_name = "DAYS")]
        expires: Option<u32>,
        #[command(flatten)]
        output: Output,
    },
    /// Make a token useless at once
    Revoke {
        /// Its id, the first part of the token after `muster_`
        id: String,
    },
}

/// What a token may do; each may do what those before it may.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Role {
    /// Read
    Viewer,
    /// Change machines, addresses and locations
    Operator,
    /// Tokens and credentials as well
    Admin,
}

impl Token {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 5] = [
            ("ID", |t| text(t, "id")),
            ("NAME", |t| text(t, "name")),
            ("ROLE", |t| text(t, "role")),
            ("CREATED", |t| text(t, "created")),
            ("EXPIRES", |t| text(t, "expires")),
        ];
        match self {
            Self::List { output } => output.list(client.list("/tokens")?, &COLUMNS),
            Self::Create { name, role, expires, output } => {
                let role = match role {
                    Role::Viewer => "viewer",
                    Role::Operator => "operator",
                    Role::Admin => "admin",
                };
                let body = json!({ "name": name, "role": role, "expires_in_days": expires });
                // The token alone, so that it can go straight into a variable.
                output.one(&client.post("/tokens", body)?, |token| text(token, "token"));
            }
            Self::Revoke { id } => {
                client.delete(&format!("/tokens/{}", encode(&id)))?;
                println!("{id} is revoked");
            }
        }
        Ok(())
    }
}

/// What Cycle may use
#[derive(Subcommand)]
pub(super) enum Ial {
    /// Credentials for hubs
    #[command(subcommand)]
    Credential(Credential),
}

/// Credentials for hubs
#[derive(Subcommand)]
pub(super) enum Credential {
    /// All credentials, without their secrets
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a credential; its secret is shown once
    Create {
        /// Who will hold it; credentials of one hub see the same leases
        hub: String,
        /// Cycle's id of the only hub that may use it
        #[arg(long)]
        hub_id: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Make a credential useless at once
    Revoke {
        /// Its API key
        key: String,
    },
}

impl Ial {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        const COLUMNS: [Column; 4] = [
            ("API KEY", |c| text(c, "key")),
            ("HUB", |c| text(c, "hub")),
            ("HUB ID", |c| text(c, "hub_id")),
            ("CREATED", |c| text(c, "created")),
        ];
        let Self::Credential(command) = self;
        match command {
            Credential::List { output } => output.list(client.list("/ial/credentials")?, &COLUMNS),
            Credential::Create { hub, hub_id, output } => {
                let credential = client.post("/ial/credentials", json!({ "hub": hub, "hub_id": hub_id }))?;
                let base = client.base().to_owned();
                output.one(&credential, |c| {
                    format!("base URL  {base}\nAPI key   {}\nsecret    {}", text(c, "key"), text(c, "secret"))
                });
            }
            Credential::Revoke { key } => {
                client.delete(&format!("/ial/credentials/{}", encode(&key)))?;
                println!("{key} is revoked");
            }
        }
        Ok(())
    }
}
