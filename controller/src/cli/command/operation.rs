//! `muster operation`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::client::{escape, with_query};
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::{follow, took};
use crate::cli::show::{Column, Show, age, lines, machine, print, text};

/// `muster operation`
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one operation with its steps
    Show(One),
    /// Follow an operation to its end
    Watch(One),
    /// Take back an operation that nobody has begun
    Cancel(Cancel),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those of this machine
    #[arg(short, long)]
    machine: Option<String>,
    /// Only these: queued, running, succeeded, failed, cancelled, or unfinished
    #[arg(long)]
    state: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id, or unique beginning of one
    operation: String,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// Id, or unique beginning of one
    operation: String,
    #[command(flatten)]
    connect: Connect,
}

const COLUMNS: &[Column] = &[
    Column("id", |o| text(o, "/id").chars().take(8).collect()),
    Column("machine", machine),
    Column("description", |o| text(o, "/description")),
    Column("state", |o| match o["state"].as_str() {
        Some("running") => format!("running {}%", text(o, "/percent")),
        _ => text(o, "/state"),
    }),
    Column("age", |o| age(o, "/created")),
    Column("error", |o| text(o, "/error")),
];

const FACTS: &[Column] = &[
    Column("id", |o| text(o, "/id")),
    Column("machine", |o| format!("{} {}", text(o, "/machine_name"), text(o, "/machine"))),
    Column("description", |o| text(o, "/description")),
    Column("state", COLUMNS[3].1),
    Column("error", |o| text(o, "/error")),
    Column("outcome", |o| match (text(o, "/outcome"), text(o, "/reason")) {
        (outcome, reason) if reason.is_empty() => outcome,
        (outcome, reason) => format!("{outcome}: {reason}"),
    }),
    Column("took", took),
    Column("receipt", |o| text(o, "/receipt")),
    Column("asked by", |o| text(o, "/who")),
    Column("asked at", |o| text(o, "/created")),
    Column("ended at", |o| text(o, "/ended")),
];

fn people(operation: &Value) -> String {
    let mut out = lines(operation, FACTS);
    for step in operation["steps"].as_array().map(Vec::as_slice).unwrap_or_default() {
        out.push_str(&format!("  {}  {}\n", text(step, "/at"), text(step, "/text")));
    }
    out
}

impl OperationCommand {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self {
            Self::List(List { machine, state, limit, show, connect }) => {
                let limit = limit.to_string();
                let query =
                    [("machine", machine.as_deref()), ("state", state.as_deref()), ("limit", Some(limit.as_str()))];
                let mut page = connect.client()?.get(&with_query("/operations", &query))?;
                let Value::Array(items) = page["items"].take() else { return Ok(()) };
                show.list(&items, COLUMNS);
                Ok(())
            }
            Self::Show(One { operation, show, connect }) => {
                let operation = connect.client()?.get(&format!("/operations/{}", escape(&operation)))?;
                show.one(&operation, people);
                Ok(())
            }
            Self::Watch(One { operation, show, connect }) => {
                let client = connect.client()?;
                let operation = client.get(&format!("/operations/{}", escape(&operation)))?;
                show.one(&follow(&client, &operation)?, people);
                Ok(())
            }
            Self::Cancel(Cancel { operation, connect }) => {
                let path = format!("/operations/{}/cancel", escape(&operation));
                let operation = connect.client()?.post(&path, json!({}))?;
                print(&format!("{}: {}\n", text(&operation, "/description"), text(&operation, "/state")));
                Ok(())
            }
        }
    }
}
