//! One case: how it is written, how it is carried out.

use std::collections::BTreeSet;

use muster_agent::plan::network::twin::Twin;
use muster_agent::plan::network::{Past, Step, differences, plan, revert, see};
use muster_controller::api::view::plan::PlanView;
use muster_controller::{cli, documents};
use muster_protocol::Digest;
use muster_protocol::desired;
use muster_protocol::to_agent::Plan;

use super::machine::{self, Machine, told};

/// The parts of a case in the order of its file; those after the plan are written and not read.
const PARTS: [&str; 3] = ["machine", "before", "desired"];

/// See the module.
#[derive(Default)]
pub struct Case {
    /// What it shows.
    sentence: String,
    machine: String,
    before: Option<String>,
    desired: String,
    /// Whether the document stands in the file.
    is_shown: bool,
}

/// What is planned.
pub enum Planned {
    /// There and back, as people are shown them.
    Steps { plan: String, revert: String },
    /// Why it does not fit the machine.
    Impossible(String),
}

impl Case {
    /// Reads a file.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut parts = text.split("\n## ");
        let sentence = parts.next().unwrap_or_default().trim().to_owned();
        let mut case = Self { sentence, is_shown: true, ..Self::default() };
        for part in parts {
            let (name, body) = part.split_once('\n').unwrap_or((part, ""));
            let body = format!("{}\n", body.trim_end());
            match name {
                "machine" => case.machine = body,
                "before" => case.before = Some(body),
                "desired" => case.desired = body,
                "plan" | "revert" | "impossible" => {}
                other => return Err(format!("there is no part {other:?}; there are {PARTS:?}")),
            }
        }
        if case.sentence.is_empty() || case.machine.is_empty() || case.desired.is_empty() {
            return Err(format!(
                "begins with a sentence, and has the parts {PARTS:?}; before is left out where nothing was"
            ));
        }
        Ok(case)
    }

    /// One of netplan's examples, on the machine that it speaks of.
    pub fn of_example(document: &str) -> Self {
        let parsed = documents::parse(document).expect("an example that is accepted").into_inner();
        let machine = machine::of_document(&parsed.network.expect("netplan's are about the network"));
        let (machine, desired) = (machine, document.to_owned());
        Self { machine, desired, ..Self::default() }
    }

    /// The file, with what is planned.
    pub fn write(&self, planned: &Planned) -> String {
        let mut out = String::new();
        if !self.sentence.is_empty() {
            out.push_str(&format!("{}\n\n", self.sentence));
        }
        out.push_str(&format!("## machine\n{}", self.machine));
        if self.is_shown {
            self.before.iter().for_each(|before| out.push_str(&format!("\n## before\n{before}")));
            out.push_str(&format!("\n## desired\n{}", self.desired));
        }
        match planned {
            Planned::Steps { plan, revert } => out.push_str(&format!("\n## plan\n{plan}\n## revert\n{revert}")),
            Planned::Impossible(why) => out.push_str(&format!("\n## impossible\n{why}\n")),
        }
        out
    }

    /// Plans it, and carries the plan and its revert out on the twin.
    ///
    /// Errors: something does not lead where it should.
    pub fn plan(&self) -> Result<Planned, String> {
        let Machine { mut twin, controllers } = Machine::read(&self.machine)?;
        let mut past = Past::default();
        see(&mut past.nics, twin.observe());
        if let Some(before) = &self.before {
            let before = network(before)?;
            let steps = plan(&before, &past, twin.observe(), &controllers).map_err(|why| format!("before: {why}"))?;
            carry_out(&mut twin, &steps).map_err(|why| format!("before: {why}"))?;
            past.in_force = Some(before);
        }
        let observed = twin.observe().clone();
        let desired = network(&self.desired)?;
        let steps = match plan(&desired, &past, &observed, &controllers) {
            Ok(steps) => steps,
            Err(why) => return Ok(Planned::Impossible(why.to_string())),
        };
        // From wherever the plan stops, back to what was.
        let mut back = Vec::new();
        for done in 0..=steps.len() {
            let mut twin = twin.clone();
            carry_out(&mut twin, &steps[..done]).map_err(|why| format!("applied: {why}"))?;
            back = revert(&observed, twin.observe());
            carry_out(&mut twin, &back).map_err(|why| format!("reverted after {done} steps: {why}"))?;
            same(&told(&observed), &told(twin.observe())).map_err(|why| {
                format!(
                    "reverted after {done} steps of\n{}by\n{}it is not as it was:\n{why}",
                    shown(&steps),
                    shown(&back)
                )
            })?;
        }
        carry_out(&mut twin, &steps)?;
        let left = differences(&desired, &past, twin.observe());
        let again = plan(&desired, &past, twin.observe(), &controllers).map_err(|why| why.to_string())?;
        if !left.is_empty() || !again.is_empty() {
            return Err(format!(
                "after\n{}there is still to do:\n{}\n{}",
                shown(&steps),
                left.join("\n"),
                shown(&again)
            ));
        }
        Ok(Planned::Steps { plan: shown(&steps), revert: shown(&back) })
    }
}

fn network(document: &str) -> Result<desired::Network, String> {
    let desired = documents::parse(document)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    desired.into_inner().network.ok_or_else(|| "the document has no network".to_owned())
}

fn carry_out(twin: &mut Twin, steps: &[Step]) -> Result<(), String> {
    steps
        .iter()
        .try_for_each(|step| twin.apply(&step.change))
        .map_err(|refused| format!("{refused}, in\n{}", shown(steps)))
}

fn same(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<(), String> {
    let lost = before.difference(after).map(|line| format!("- {line}\n"));
    let new = after.difference(before).map(|line| format!("+ {line}\n"));
    let difference: String = lost.chain(new).collect();
    if difference.is_empty() { Ok(()) } else { Err(difference) }
}

/// As `muster plan` shows it.
fn shown(steps: &[Step]) -> String {
    let steps = steps.iter().map(Step::describe).collect();
    let plan = PlanView::from(&Plan { steps, notices: vec![], digest: Digest::of_value(&()) });
    cli::plan_text(&serde_json::to_value(plan).expect("a view is JSON"))
}
