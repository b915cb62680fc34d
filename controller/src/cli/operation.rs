//! `muster operation`, and waiting for what other commands have asked for.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, encode};
use super::output::{Column, Output, Progress, table, text};

/// How often a running operation is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Work that was asked for, and how far it is
#[derive(Subcommand)]
pub(super) enum Operation {
    /// All operations
    List {
        #[command(flatten)]
        output: Output,
    },
    /// One operation with its steps
    Show {
        /// Id, or unique beginning of it
        operation: String,
        #[command(flatten)]
        output: Output,
    },
    /// Wait until an operation is over; fails where it failed
    Watch {
        /// Id, or unique beginning of it
        operation: String,
        #[command(flatten)]
        output: Output,
    },
    /// Take an operation back that has not begun
    Cancel {
        /// Id, or unique beginning of it
        operation: String,
    },
}

const COLUMNS: [Column; 6] = [
    ("ID", |o| text(o, "id").chars().take(8).collect()),
    ("MACHINE", |o| text(o, "machine_name")),
    ("WHAT", |o| text(o, "description")),
    ("STATE", |o| text(o, "state")),
    ("%", |o| text(o, "percent")),
    ("BEGUN", |o| text(o, "created")),
];

impl Operation {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        match self {
            Self::List { output } => output.list(client.list("/operations")?, &COLUMNS),
            Self::Show { operation, output } => output.one(&client.get(&path(&operation))?, show),
            Self::Watch { operation, output } => {
                let operation = client.get(&path(&operation))?;
                return follow(client, operation, false, &output);
            }
            Self::Cancel { operation } => {
                client.post(&format!("{}/cancel", path(&operation)), json!({}))?;
                println!("cancelled");
            }
        }
        Ok(())
    }
}

fn path(operation: &str) -> String {
    format!("/operations/{}", encode(operation))
}

fn show(operation: &Value) -> String {
    const STEPS: [Column; 2] = [("WHEN", |s| text(s, "at")), ("STEP", |s| text(s, "text"))];
    let steps = operation.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = format!("{}: {}\n", summary(operation), text(operation, "id"));
    if !steps.is_empty() {
        out.push_str(&table(&steps, &STEPS));
    }
    out
}

fn summary(operation: &Value) -> String {
    let head = format!("{} on {}", text(operation, "description"), text(operation, "machine_name"));
    match text(operation, "state").as_str() {
        "failed" => format!("{head} failed: {}", text(operation, "error")),
        "succeeded" => format!("{head} succeeded: {}", text(operation, "receipt")),
        state => format!("{head} is {state}"),
    }
}

/// Waits for an operation and shows how it goes; fails where it fails.
pub(super) fn follow(client: &Client, mut operation: Value, no_wait: bool, output: &Output) -> Result<(), Failure> {
    let is_open = |operation: &Value| matches!(text(operation, "state").as_str(), "queued" | "running");
    let id = text(&operation, "id");
    let mut progress = Progress::default();
    while is_open(&operation) && !no_wait {
        let steps = operation.get("steps").and_then(Value::as_array);
        let step = steps.and_then(|steps| steps.last()).map(|step| text(step, "text"));
        let step = step.unwrap_or_else(|| "waiting for the machine".into());
        progress.at(&format!("{} {:>3} %  {step}", text(&operation, "description"), text(&operation, "percent")));
        std::thread::sleep(LOOK_EVERY);
        operation = client.get(&path(&id))?;
    }
    progress.done();
    match text(&operation, "state").as_str() {
        "failed" | "cancelled" => Err(Failure::Failed(summary(&operation))),
        _ => {
            output.one(&operation, summary);
            Ok(())
        }
    }
}
