//! A template for many machines, looked at before it is rolled out: what each would do, and what would change.

use axum::Json;
use axum::extract::State;
use futures_util::stream::{self, StreamExt};
use muster_protocol::MachineId;
use muster_protocol::desired::Desired;
use muster_protocol::to_agent::{Answer, Call};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::api::http::problem::Finding;
use crate::api::http::{Body, Problem, Refused, Viewer};
use crate::api::view::plan::{DiffView, PlanView};
use crate::api::{Api, CallError};
use crate::documents::{DocumentProblem, PROBLEM_LIMIT};
use crate::fleet::operation::confirmed;
use crate::fleet::rollout::check::{self, Prepared, Wrong};
use crate::fleet::rollout::name;
use crate::fleet::rollout::select::Selector;
use crate::fleet::{Refusal, State as FleetState, machine};
use crate::words::plain;

/// How many machines are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// How many machines a plan asks, and a difference is told of.
const TOLD_LIMIT: usize = 100;

/// Templates that are read at once, each perhaps for thousands of machines: the others wait.
static READERS: Semaphore = Semaphore::const_new(2);

/// The most findings in one refusal.
const FINDINGS: usize = 50;

/// Which machines are meant: all of what is said must hold.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectorBody {
    /// `key=value`, `key!=value`, `key`, `!key`, `key in (a,b)`, `key notin (a,b)`, with commas between.
    labels: Option<String>,
    /// Code of the location.
    location: Option<String>,
    /// Value of the label `role`.
    role: Option<String>,
    /// Every machine that is in: needed where nothing else is said.
    #[serde(default)]
    all: bool,
}

impl SelectorBody {
    pub(super) fn read(self) -> Result<Selector, Problem> {
        let labels = self.labels.as_deref().unwrap_or_default().parse();
        let labels = labels.map_err(|refusal| Problem::from(refusal).at("selector.labels"))?;
        let selector = Selector { labels, location: self.location, role: self.role };
        match (selector.is_all(), self.all) {
            (true, false) => {
                Err(Problem::invalid("selector", "say which machines are meant, or `all` with true for every one"))
            }
            (false, true) => {
                Err(Problem::invalid("selector.all", "all machines, or those that are selected: not both"))
            }
            _ => Ok(selector),
        }
    }
}

/// A template, and for whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateBody {
    /// netplan, Butane, or both in one, with `{{ … }}` where machines differ.
    document: String,
    /// For which machines.
    selector: SelectorBody,
    /// Tell of so many machines, 1 to 100; 20 where nothing is said.
    limit: Option<usize>,
}

impl TemplateBody {
    fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(20);
        match (1..=TOLD_LIMIT).contains(&limit) {
            true => Ok(limit),
            false => Err(Problem::invalid("limit", format!("must be 1 to {TOLD_LIMIT}, and is {limit}"))),
        }
    }
}

/// What is found out about several machines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlansView {
    /// How many machines are selected.
    selected: usize,
    /// How many of them are not told of.
    left_out: usize,
    /// The others, by their names.
    items: Vec<OnePlanView>,
}

/// What one machine would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanOfMachine)]
struct OnePlanView {
    /// Id of the machine.
    machine: String,
    /// Its name.
    name: String,
    /// What it would do; absent where it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanView>,
    /// Why there is no plan: it is offline, or it refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// How several machines would differ from what is desired of them now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DiffsView {
    /// How many machines are selected.
    selected: usize,
    /// For how many of them nothing would change.
    same: usize,
    /// How many of the others are not told of.
    left_out: usize,
    /// The rest, by their names.
    items: Vec<OneDiffView>,
}

/// How one machine would differ.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DiffOfMachine)]
struct OneDiffView {
    /// Id of the machine.
    machine: String,
    /// Its name.
    name: String,
    /// What would change.
    #[serde(flatten)]
    diff: DiffView,
}

/// Reads a template for every machine that is selected, on a thread for long work.
pub(super) async fn prepare(api: &Api, selector: Selector, text: String) -> Result<Vec<Prepared>, Problem> {
    let state = api.fleet.state();
    long(move || check::prepare(&state, &selector, &text)).await?.map_err(problem)
}

async fn long<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let failed = || Problem::internal("controller", Refusal::Internal.to_string());
    let _turn = READERS.acquire().await.map_err(|_| failed())?;
    tokio::task::spawn_blocking(work).await.map_err(|_| failed())
}

fn problem(problem: check::Problem) -> Problem {
    let in_template = |fault: check::Fault, machine: Option<String>| Finding {
        machine,
        line: Some(fault.line),
        column: Some(fault.column),
        field: "template".into(),
        problem: plain(&fault.problem, PROBLEM_LIMIT),
    };
    let findings: Vec<Finding> = match problem {
        check::Problem::Refused(refusal) => return refusal.into(),
        check::Problem::Template(fault) => vec![in_template(fault, None)],
        check::Problem::Machines(wrong) => {
            let of_one = |(machine, wrong): (String, Wrong)| match wrong {
                Wrong::Template(fault) => vec![in_template(fault, Some(machine))],
                Wrong::Document { placed, unplaced } => {
                    let of_machine = |found| Finding { machine: Some(machine.clone()), ..found };
                    let placed = placed.into_iter().map(Finding::from);
                    placed.chain(unplaced.into_iter().map(in_document)).map(of_machine).collect()
                }
            };
            wrong.into_iter().flat_map(of_one).take(FINDINGS).collect()
        }
    };
    Problem::findings(findings)
}

/// What stands nowhere in the template for sure.
fn in_document(problem: DocumentProblem) -> Finding {
    let line = problem.line;
    let found = Finding { line: None, column: None, ..Finding::from(problem) };
    Finding { problem: format!("{} (line {line} of what the template gives for it)", found.problem), ..found }
}

/// What each machine would do for a template. The machines themselves are asked; nothing is changed.
#[utoipa::path(post, path = "/rollouts/plan", tag = "rollouts", request_body = TemplateBody,
    responses((status = 200, body = PlansView), Refused))]
pub(super) async fn plan(
    _: Viewer,
    State(api): State<Api>,
    body: Body<TemplateBody>,
) -> Result<Json<PlansView>, Problem> {
    let limit = body.value.limit()?;
    let prepared = prepare(&api, body.value.selector.read()?, body.value.document).await?;
    let state = api.fleet.state();
    let selected = prepared.len();
    let asked = prepared.into_iter().take(limit).map(|one| {
        let whole = machine::whole(&state, one.machine, one.desired.into_inner());
        ask(&api, &state, one.machine, whole)
    });
    let items: Vec<_> = stream::iter(asked.collect::<Vec<_>>()).buffered(ASKED_AT_ONCE).collect().await;
    Ok(Json(PlansView { selected, left_out: selected - items.len(), items }))
}

async fn ask(api: &Api, state: &FleetState, machine: MachineId, whole: Desired) -> OnePlanView {
    let (plan, problem) = match api.live.call(machine, Call::Plan(whole)).await {
        Ok(Answer::Planned(plan)) => (Some(PlanView::from(&plan)), None),
        Ok(Answer::Refused(why)) => (None, Some(format!("it refuses: {why}"))),
        Ok(Answer::Accepted | Answer::Observed(_)) => (None, Some("it answered something else".into())),
        Err(CallError::Offline) => (None, Some("it is offline".into())),
        Err(error) => (None, Some(error.to_string())),
    };
    OnePlanView { machine: machine.to_string(), name: name(state, machine), plan, problem }
}

/// How a template differs from what each machine is, or is on its way to. No machine is asked.
#[utoipa::path(post, path = "/rollouts/diff", tag = "rollouts", request_body = TemplateBody,
    responses((status = 200, body = DiffsView), Refused))]
pub(super) async fn diff(
    _: Viewer,
    State(api): State<Api>,
    body: Body<TemplateBody>,
) -> Result<Json<DiffsView>, Problem> {
    let limit = body.value.limit()?;
    let prepared = prepare(&api, body.value.selector.read()?, body.value.document).await?;
    let state = api.fleet.state();
    let told = long(move || {
        let mut told = DiffsView { selected: prepared.len(), same: 0, left_out: 0, items: Vec::new() };
        for one in prepared {
            let before = confirmed::in_force(&state, one.machine);
            let whole = machine::whole(&state, one.machine, one.desired.into_inner());
            if *before.desired == whole {
                told.same += 1;
            } else if told.items.len() == limit {
                told.left_out += 1;
            } else {
                let (machine, name) = (one.machine.to_string(), name(&state, one.machine));
                told.items.push(OneDiffView { machine, name, diff: DiffView::between(&before, &whole) });
            }
        }
        told
    });
    Ok(Json(told.await?))
}
