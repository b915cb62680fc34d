//! `muster plan`, `apply` and `diff`: documents in netplan's and Butane's words.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, encode};
use super::output::{Column, Output, table, text};
use super::{Failure, operation};

/// Which document for which machine.
#[derive(Args)]
struct Document {
    /// Id, unique beginning of an id, or name
    #[arg(long, short)]
    machine: String,
    /// netplan, Butane, or both in one file; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

impl Document {
    fn read(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let read = if self.file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(&self.file).map(|contents| text = contents)
        };
        read.map_err(|e| Failure::failed(format!("{}: {e}", self.file.display())))?;
        Ok(text)
    }

    fn path(&self, verb: &str) -> String {
        format!("/machines/{}/{verb}", encode(&self.machine))
    }
}

/// Show what a document would change on a machine, and change nothing
#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    document: Document,
    #[command(flatten)]
    output: Output,
}

impl Plan {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let plan = client.post(&self.document.path("plan"), json!({ "document": self.document.read()? }))?;
        self.output.one(&plan, show_plan);
        Ok(())
    }
}

fn show_plan(plan: &Value) -> String {
    const COLUMNS: [Column; 2] = [("IMPACT", impact), ("STEP", |step| text(step, "action"))];
    let steps = plan.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
    if steps.is_empty() {
        return "nothing to do: the machine is as the document says".into();
    }
    let mut out = table(&steps, &COLUMNS);
    if plan.get("destroys").and_then(Value::as_array).is_some_and(|disks| !disks.is_empty()) {
        let disks = text(plan, "destroys");
        out.push_str(&format!("destroys what is on {disks}; apply it with --permit-destroy\n"));
    }
    out
}

fn impact(step: &Value) -> String {
    match text(step, "impact").as_str() {
        "destroys" => format!("DESTROYS {}", text(step, "disk")),
        "control-path" => "confirmed or undone".into(),
        "interrupts" => "interrupts".into(),
        other => other.into(),
    }
}

/// Make a document what a machine should be
///
/// The machine confirms the change to the controller over the new configuration, or undoes it by itself.
/// What the document leaves out stays as it is.
#[derive(Args)]
pub(super) struct Apply {
    #[command(flatten)]
    document: Document,
    /// Allow the plan, which is shown first, to destroy what its disks carry
    #[arg(long)]
    permit_destroy: bool,
    /// Do not wait for the machine
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

impl Apply {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let document = self.document.read()?;
        let mut body = json!({ "document": document });
        if self.permit_destroy {
            let plan = client.post(&self.document.path("plan"), json!({ "document": document }))?;
            eprint!("{}", show_plan(&plan).trim_end().to_owned() + "\n");
            body["permit"] = json!({ "plan": plan["digest"], "disks": plan["destroys"] });
        }
        let operation = client.post(&self.document.path("apply"), body)?;
        operation::follow(client, operation, self.no_wait, &self.output)
    }
}

/// Show how a document differs from what a machine should be
#[derive(Args)]
pub(super) struct Diff {
    #[command(flatten)]
    document: Document,
    #[command(flatten)]
    output: Output,
}

impl Diff {
    pub fn run(self, client: &Client) -> Result<(), Failure> {
        let diff = client.post(&self.document.path("diff"), json!({ "document": self.document.read()? }))?;
        self.output.one(&diff, |diff| {
            let changes = diff.get("changes").and_then(Value::as_array).cloned().unwrap_or_default();
            if changes.is_empty() {
                return "no difference".into();
            }
            let lines = changes.iter().flat_map(|change| {
                let side = |sign: char, key: &str| {
                    let value = change.get(key).filter(|value| !value.is_null())?;
                    Some(format!("{sign} {}: {value}", text(change, "field")))
                };
                [side('-', "before"), side('+', "after")].into_iter().flatten()
            });
            lines.collect::<Vec<_>>().join("\n")
        });
        Ok(())
    }
}
