//! `muster plan`, `muster diff`, `muster apply`: for one machine here, for many in `fleet`, and what comes of that in
//! `rollout`.

mod fleet;
mod place;
pub mod replace;
pub mod rollout;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use self::fleet::{Pace, Selection};
use self::place::Placed;
use super::machine::path;
use crate::api::view::Time;
use crate::cli::ask;
use crate::cli::client::Client;
use crate::cli::connect::Connect;
use crate::cli::error::CliError;
use crate::cli::follow::{follow, took};
use crate::cli::show::{Show, aligned, print, text};
use crate::clock::now_unix_ms;

/// For a machine that has just left to come back.
const COMES_BACK: Duration = Duration::from_secs(5);

/// A document about a machine, or a template about many.
#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    whom: Whom,
    /// netplan, Butane, or both in one file, for many machines with {{ … }} where they differ; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// One machine, or which ones.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["machine", "labels", "location", "role", "all"])]
struct Whom {
    /// Id, unique beginning of an id, or name; for many machines give --selector, --location, --role or --all instead
    #[arg(short, long, conflicts_with_all = ["labels", "location", "role", "all"])]
    machine: Option<String>,
    #[command(flatten)]
    several: Selection,
}

impl Target {
    fn read(&self) -> Result<String, CliError> {
        ask::document(&self.file)
    }

    /// Where the one machine is found; `None` where it is about several.
    fn machine(&self) -> Option<String> {
        self.whom.machine.as_deref().map(path)
    }

    /// Where in the file the fields stand that machines speak of.
    fn placed(&self, document: &str) -> Placed {
        let file = self.file.display().to_string();
        match self.whom.machine {
            Some(_) => Placed::document(&file, document),
            None => Placed::template(&file, document),
        }
    }

    /// The file's name before each line of a refusal about it.
    fn named(&self, error: CliError) -> CliError {
        match error {
            CliError::Refused { code, detail } if code == "document-invalid" => {
                let file = self.file.display();
                let detail = detail.lines().map(|line| format!("{file}: {line}")).collect::<Vec<_>>().join("\n");
                CliError::Refused { code, detail }
            }
            other => other,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster plan -m kitchen -f storage.yaml
  muster plan -l rack=b2 -f network.yaml --limit 3")]
pub struct PlanArgs {
    #[command(flatten)]
    target: Target,
    /// Of many machines, ask so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "machine")]
    limit: u16,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    target: Target,
    /// Of many machines, tell of so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "machine")]
    limit: u16,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster apply -m kitchen -f network.yaml
  muster apply -m kitchen -f storage.yaml --permit-destroy
  muster apply -m kitchen -f storage.yaml --permit-destroy=serial:WD-WX12345
  muster apply -l role=web,rack!=b2 -f network.yaml --canary 2 --wave 10% --soak 2m")]
pub struct ApplyArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    pace: Pace,
    /// Permit what the plan destroys, or only what these disks carry; the plan is shown first
    #[arg(long, value_name = "DISK,…", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_delimiter = ',', conflicts_with_all = ["labels", "location", "role", "all"])]
    permit_destroy: Option<Vec<String>>,
    /// Do not ask before anything is destroyed; needed where nobody can be asked and no disk is named
    #[arg(short, long, conflicts_with_all = ["labels", "location", "role", "all"])]
    yes: bool,
    /// Do not wait until it is carried out
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

impl PlanArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let document = self.target.read()?;
        let client = self.connect.client()?;
        match self.target.machine() {
            Some(machine) => self.show.one(&plan(&client, &self.target, &machine, &document)?, steps),
            None => {
                let plans = self.target.whom.several.ask(&client, "plan", &document, self.limit);
                let plans = plans.map_err(|error| self.target.named(error))?;
                self.show.one(&self.target.placed(&document).plans(plans), fleet::plans);
            }
        }
        Ok(())
    }
}

fn plan(client: &Client, target: &Target, machine: &str, document: &str) -> Result<Value, CliError> {
    let plan = client.post(&format!("{machine}/plan"), json!({"document": document}));
    plan.map_err(|error| target.placed(document).error(target.named(error)))
}

/// A plan for people, from what the API answers.
pub fn steps(plan: &Value) -> String {
    let steps = plan["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let notices = plan["notices"].as_array().into_iter().flatten();
    let notices: String = notices.map(|notice| format!("note: {}\n", text(notice, ""))).collect();
    if steps.is_empty() {
        return format!("nothing to do: the machine is as desired\n{notices}");
    }
    let impact = |step: &Value| match step["impact"].as_str() {
        Some("addresses-change") => "addresses or routes change; who talks over them must anew".to_owned(),
        Some("link-drops") => "a link is away for seconds".to_owned(),
        Some("control-path") => "confirmed by reaching the controller, or undone".to_owned(),
        Some("destroys") => {
            let disks = step["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
            let names: Vec<&str> = disks.iter().filter_map(Value::as_str).collect();
            format!("DESTROYS what {} {}", names.join(", "), if names.len() == 1 { "carries" } else { "carry" })
        }
        _ => String::new(),
    };
    let rows: Vec<Vec<String>> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| vec![format!("{}.", i + 1), text(step, "/action"), impact(step)])
        .collect();
    aligned(&rows) + &notices
}

/// Whether the machine is there. One that left a moment ago is given one to come back: an approval has it dial
/// anew.
fn is_online(client: &Client, machine: &str) -> Result<bool, CliError> {
    let begun = Instant::now();
    loop {
        let presence = client.get(machine)?["presence"].take();
        let since = Time::parse(&text(&presence, "/since")).map_or(0, |Time(since)| since);
        let left_just_now = now_unix_ms().saturating_sub(since) < COMES_BACK.as_millis() as u64;
        if presence["state"] == "online" || !left_just_now || begun.elapsed() > COMES_BACK {
            return Ok(presence["state"] == "online");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl DiffArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let document = self.target.read()?;
        let client = self.connect.client()?;
        let (diff, people): (_, fn(&Value) -> String) = match self.target.machine() {
            Some(machine) => (client.post(&format!("{machine}/diff"), json!({"document": document})), changes),
            None => (self.target.whom.several.ask(&client, "diff", &document, self.limit), fleet::diffs),
        };
        self.show.one(&diff.map_err(|error| self.target.named(error))?, people);
        Ok(())
    }
}

/// A difference for people.
fn changes(diff: &Value) -> String {
    let changes = diff["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = diff.get("given_up").map(|how| given_up(how, diff)).unwrap_or_default();
    if changes.is_empty() {
        out.push_str("no difference\n");
    }
    for change in changes {
        out.push_str(&format!("{}\n", text(change, "/field")));
        for (sign, key) in [('-', "before"), ('+', "after")] {
            if let Some(value) = change.get(key) {
                out.push_str(&format!("  {sign} {value}\n"));
            }
        }
    }
    out
}

/// That what is desired of the machine is not what it is, and what a document is compared with instead.
fn given_up(how: &Value, diff: &Value) -> String {
    let became = match how["state"].as_str() {
        Some("refused") => "was refused",
        Some("reverted") => "was reverted",
        _ => "was not kept, and could not be undone",
    };
    let before = match diff["generation"].as_u64() {
        Some(0) | None => "a machine of which nothing was confirmed".to_owned(),
        Some(generation) => format!("generation {generation}, which was confirmed last"),
    };
    let why: Vec<String> =
        ["/reason", "/why"].map(|key| text(how, key)).into_iter().filter(|w| !w.is_empty()).collect();
    format!("generation {} {became}: {}; compared with {before}:\n", text(how, "/generation"), why.join(": "))
}

impl ApplyArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        let document = self.target.read()?;
        let client = self.connect.client()?;
        let Some(machine) = self.target.machine() else {
            let begun = self.target.whom.several.roll_out(&client, &document, &self.pace);
            let begun = begun.map_err(|error| self.target.named(error))?;
            let told = rollout::begun(&client, &begun, self.no_wait);
            return told.map_err(|error| self.target.placed(&document).error(error));
        };
        let permit = match &self.permit_destroy {
            None => None,
            Some(disks) => self.permit(&client, &machine, &document, disks)?,
        };
        let mut body = json!({"document": document});
        if let Some(permit) = permit {
            body["permit"] = permit;
        }
        let applied = client.post(&format!("{machine}/apply"), body);
        let operation = applied.map_err(|error| self.target.named(error))?;
        carried_out(&client, &machine, &operation, self.no_wait)
            .map_err(|error| self.target.placed(&document).error(error))
    }

    /// Shows the plan and answers the permit for what it destroys; `None` where it destroys nothing.
    fn permit(
        &self,
        client: &Client,
        machine: &str,
        document: &str,
        permitted: &[String],
    ) -> Result<Option<Value>, CliError> {
        let plan = plan(client, &self.target, machine, document)?;
        if !destroyed(&plan).is_empty() {
            eprint!("{}", steps(&plan));
        }
        permit(&plan, permitted, self.yes)
    }
}

/// The disks that a plan takes everything from.
fn destroyed(plan: &Value) -> Vec<String> {
    let disks = plan["destroys"].as_array().map(Vec::as_slice).unwrap_or_default();
    disks.iter().map(|disk| text(disk, "")).collect()
}

/// The permit for what a plan that was shown destroys, once that is meant; `None` where it destroys nothing.
fn permit(plan: &Value, permitted: &[String], yes: bool) -> Result<Option<Value>, CliError> {
    let permitted: Vec<&str> = permitted.iter().map(String::as_str).filter(|disk| !disk.is_empty()).collect();
    let names = destroyed(plan);
    if names.is_empty() {
        return Ok(None);
    }
    if let Some(other) = names.iter().find(|name| !permitted.is_empty() && !permitted.contains(&name.as_str())) {
        return Err(CliError::Failed(format!("the plan destroys what {other} carries, which was not permitted")));
    }
    let question = format!("What {} carry will be lost.", names.join(", "));
    // Disks that were named were thought of; without a name, somebody must say yes.
    let is_meant = yes || ask::is_meant(&question).unwrap_or(!permitted.is_empty());
    if !is_meant {
        let remedy = format!("write --permit-destroy={}, or add --yes", names.join(","));
        return Err(CliError::Failed(format!("not confirmed, nothing was changed; {remedy}")));
    }
    Ok(Some(json!({"plan": plan["digest"], "disks": plan["destroys"]})))
}

/// Follows what was applied to its end, where the machine is there and that is wanted.
fn carried_out(client: &Client, machine: &str, operation: &Value, no_wait: bool) -> Result<(), CliError> {
    let online = is_online(client, machine)?;
    if no_wait || !online {
        let why = if online { "" } else { "; the machine is offline and follows when it comes back" };
        let (generation, id) = (text(operation, "/generation"), text(operation, "/id"));
        print(&format!("generation {generation} is desired, operation {id}{why}\n"));
        return Ok(());
    }
    print(&done(&follow(client, operation)?));
    Ok(())
}

/// The last line of an apply that succeeded.
fn done(operation: &Value) -> String {
    let took = match took(operation) {
        took if took.is_empty() => took,
        took => format!(": {} in {took}", text(operation, "/outcome")),
    };
    format!("{}{took}\n", text(operation, "/receipt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_is_lost() {
        let plan = json!({"steps": [
            {"action": "add address 192.0.2.7/24 to eth0", "impact": "none"},
            {"action": "write a GPT", "impact": "destroys", "disks": ["serial:D1"]},
        ]});
        let said = steps(&plan);
        assert!(said.contains("2.  write a GPT                       DESTROYS what serial:D1 carries\n"), "{said}");
        assert_eq!(steps(&json!({"steps": []})), "nothing to do: the machine is as desired\n");
    }

    #[test]
    fn an_apply_ends_with_how_it_came_out_and_how_long_it_took() {
        let times = json!({"make_ms": 1_100, "prove_beside_ms": 2_000, "switch_ms": 300, "verify_ms": 0, "prove_ms": 849,
                           "revert_ms": 0, "total_ms": 4_249});
        let mut operation = json!({"receipt": "generation 3 is in force", "outcome": "confirmed", "times": times});
        assert_eq!(
            done(&operation),
            "generation 3 is in force: confirmed in 4.2 s \
             (made 1.1 s, proven beside 2.0 s, switched 0.3 s, proven 0.8 s)\n"
        );
        operation["times"].take();
        assert_eq!(done(&operation), "generation 3 is in force\n");
    }

    #[test]
    fn a_difference_shows_both_sides() {
        let diff = json!({"changes": [{"field": "network.ethernets.eth0.mtu", "before": 1500, "after": 9000}]});
        assert_eq!(changes(&diff), "network.ethernets.eth0.mtu\n  - 1500\n  + 9000\n");
    }
}
