//! `muster plan`, `muster diff`, `muster apply` over machines that are selected.

use clap::Args;
use serde_json::{Value, json};

use crate::api::http::when::seconds;
use crate::cli::client::{Client, object, or_null};
use crate::cli::error::CliError;
use crate::cli::show::text;
use crate::words::counted;

/// Which machines. All that is given must hold.
#[derive(Debug, Args)]
pub struct Selection {
    /// Those with these labels: key=value, key!=value, key, !key, key in (a,b), key notin (a,b), with commas between
    #[arg(id = "labels", short = 'l', long = "selector", value_name = "LABELS")]
    labels: Option<String>,
    /// Those at the location with this code
    #[arg(long, value_name = "CODE")]
    location: Option<String>,
    /// Those whose label role is this
    #[arg(long)]
    role: Option<String>,
    /// Every machine that is in
    #[arg(long, conflicts_with_all = ["labels", "location", "role"])]
    all: bool,
}

/// How a rollout goes on.
#[derive(Debug, Args)]
pub struct Pace {
    /// Of a rollout: machines of the first wave [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "machine")]
    canary: Option<u32>,
    /// Of a rollout: machines of each wave after it, a number or a share [default: 25%]
    #[arg(long, value_name = "N|N%", conflicts_with = "machine")]
    wave: Option<String>,
    /// Of a rollout: how long a wave's machines must be in contact before the next one begins [default: 30s]
    #[arg(long, value_name = "SPAN", value_parser = seconds, conflicts_with = "machine")]
    soak: Option<u64>,
    /// Of a rollout: machines that may fail after the first wave before it stops [default: 0]
    #[arg(long, value_name = "N", conflicts_with = "machine")]
    max_failures: Option<u32>,
}

impl Selection {
    fn body(&self) -> Value {
        let all = self.all.then_some(true);
        object([
            ("labels", or_null(self.labels.as_deref())),
            ("location", or_null(self.location.as_deref())),
            ("role", or_null(self.role.as_deref())),
            ("all", or_null(all)),
        ])
    }

    /// Asks what machines would do (`plan`), or what would change (`diff`).
    pub fn ask(&self, client: &Client, what: &str, document: &str, limit: u16) -> Result<Value, CliError> {
        let body = json!({"document": document, "selector": self.body(), "limit": limit});
        client.post(&format!("/rollouts/{what}"), body)
    }

    /// Begins a rollout.
    pub fn roll_out(&self, client: &Client, document: &str, pace: &Pace) -> Result<Value, CliError> {
        let body = object([
            ("document", json!(document)),
            ("selector", self.body()),
            ("canary", or_null(pace.canary)),
            ("wave", or_null(pace.wave.as_deref())),
            ("soak_s", or_null(pace.soak)),
            ("max_failures", or_null(pace.max_failures)),
        ]);
        client.post("/rollouts", body)
    }
}

/// Each machine's plan, for people.
pub fn plans(plans: &Value) -> String {
    let mut out = String::new();
    for item in items(plans) {
        match item.get("plan") {
            Some(plan) => out.push_str(&format!("{}:\n{}", text(item, "/name"), indented(&super::steps(plan)))),
            None => out.push_str(&format!("{}: no plan: {}\n", text(item, "/name"), text(item, "/problem"))),
        }
    }
    out + &left_out(plans, "were not asked")
}

/// Each machine's difference, for people.
pub fn diffs(diffs: &Value) -> String {
    let mut out = String::new();
    for item in items(diffs) {
        out.push_str(&format!("{}:\n{}", text(item, "/name"), indented(&super::changes(item))));
    }
    let same = diffs["same"].as_u64().unwrap_or(0) as usize;
    if same > 0 {
        out.push_str(&format!("no difference for {}\n", counted(same, "machine")));
    }
    out + &left_out(diffs, "differ as well")
}

fn items(body: &Value) -> &[Value] {
    body["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

fn left_out(body: &Value, what: &str) -> String {
    match body["left_out"].as_u64().unwrap_or(0) as usize {
        0 => String::new(),
        count => format!("{} more {what}; --limit tells of more\n", counted(count, "machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_many_machines_are_told_one_after_the_other() {
        let body = json!({"selected": 9, "left_out": 6, "items": [
            {"name": "m1", "plan": {"steps": [{"action": "add address 192.0.2.7/24 to eth0", "impact": "none"}]}},
            {"name": "m2", "plan": {"steps": []}},
            {"name": "m3", "problem": "it is offline"},
        ]});
        let expected = "m1:\n  1.  add address 192.0.2.7/24 to eth0\nm2:\n  nothing to do: the machine is as desired\n\
                        m3: no plan: it is offline\n6 machines more were not asked; --limit tells of more\n";
        assert_eq!(plans(&body), expected);
    }

    #[test]
    fn machines_without_a_difference_are_counted() {
        let changes = json!([{"field": "network.ethernets.lan.mtu", "before": 1500, "after": 9000}]);
        let body = json!({"selected": 3, "same": 2, "left_out": 0, "items": [{"name": "m1", "changes": changes}]});
        let expected = "m1:\n  network.ethernets.lan.mtu\n    - 1500\n    + 9000\nno difference for 2 machines\n";
        assert_eq!(diffs(&body), expected);
    }
}
