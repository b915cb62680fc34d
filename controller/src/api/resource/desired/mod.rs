//! What a machine should be: plan, apply, diff, and what its kernel says now. What many should be is in `several` and
//! `rollouts`.

mod rollouts;
mod several;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use muster_protocol::desired::{Checked, Desired, Permit};
use muster_protocol::to_agent::{Answer, Call, Refusal as AgentRefusal};
use muster_protocol::{Digest, DiskId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Operator, Problem, Refused, Segment, Viewer, etag};
use crate::api::view::observed::ObservedView;
use crate::api::view::operation::OperationView;
use crate::api::view::plan::{DiffView, PlanView};
use crate::api::{Api, PREFIX};
use crate::documents;
use crate::fleet::answered::Outcome;
use crate::fleet::operation::confirmed;
use crate::fleet::record::Machine;
use crate::fleet::{Refusal, machine};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(desired))
        .routes(routes!(observed))
        .routes(routes!(plan))
        .routes(routes!(diff))
        .routes(routes!(apply))
        .merge(rollouts::router())
}

/// What a machine should be.
#[derive(Serialize, Deserialize, ToSchema)]
struct DesiredView {
    /// Orders the machine's desired states; 0 where nothing was ever asked of it. The `ETag`.
    generation: u64,
    /// The operation that brings it about.
    operation: Option<String>,
    /// In netplan's and Butane's words.
    document: serde_json::Value,
}

/// What the machine should be, in netplan's and Butane's words.
#[utoipa::path(get, path = "/machines/{machine}/desired", tag = "desired state",
    params(("machine" = String, Path, description = "id, unique beginning of an id, or name")),
    responses((status = 200, body = DesiredView), Refused))]
async fn desired(_: Viewer, State(api): State<Api>, Segment(name): Segment) -> Result<impl IntoResponse, Problem> {
    let state = api.fleet.state();
    let id = machine::lookup(&state, &name)?;
    let record = state.desired.get(&id);
    let view = DesiredView {
        generation: record.map_or(0, |record| record.generation.0),
        operation: record.map(|record| record.operation.to_string()),
        document: documents::render(&record.map(|record| record.desired.clone()).unwrap_or_default()),
    };
    Ok((etag::header(&view.generation.to_string()), Json(view)))
}

/// What the machine's kernel says now. The machine itself is asked.
#[utoipa::path(get, path = "/machines/{machine}/observed", tag = "desired state",
    params(("machine" = String, Path, description = "id, unique beginning of an id, or name")),
    responses((status = 200, body = ObservedView), Refused))]
async fn observed(_: Viewer, State(api): State<Api>, Segment(name): Segment) -> Result<Json<ObservedView>, Problem> {
    let id = machine::lookup(&api.fleet.state(), &name)?;
    match api.live.call(id, Call::Observe).await? {
        Answer::Observed(observed) => Ok(Json((&*observed).into())),
        other => Err(unexpected(other)),
    }
}

/// A document about one machine.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DocumentBody {
    /// netplan, Butane, or both in one: YAML or JSON, as a text, so that refusals can name its lines.
    document: String,
}

/// A document to apply.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    /// netplan, Butane, or both in one: YAML or JSON, as a text, so that refusals can name its lines.
    document: String,
    /// Leave to destroy what disks carry.
    permit: Option<PermitBody>,
}

/// Leave to destroy: what one plan does to these disks, and nothing else.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PermitBody {
    /// `digest` of the plan that was shown.
    plan: String,
    /// The disks that may lose what they carry, as the plan names them.
    disks: Vec<String>,
}

impl PermitBody {
    fn read(self) -> Result<Permit, Problem> {
        let plan: Digest = self.plan.parse().map_err(|e| Problem::invalid("permit.plan", format!("{e}")))?;
        let disk = |(i, text): (usize, &String)| {
            text.parse::<DiskId>().map_err(|e| Problem::invalid(format!("permit.disks[{i}]"), e.to_string()))
        };
        let disks = self.disks.iter().enumerate().map(disk).collect::<Result<_, _>>()?;
        Ok(Permit { plan, disks })
    }
}

fn parse(text: &str) -> Result<Checked<Desired>, Problem> {
    documents::parse(text).map_err(|mut problems| {
        // Once is enough.
        let is_tagged =
            |line: usize| text.lines().nth(line - 1).is_some_and(|line| line.contains("{{") || line.contains("{%"));
        let tagged = problems.iter().position(|problem| is_tagged(problem.line));
        if let Some(at) = tagged {
            problems[at].problem.push_str(TEMPLATE_HINT);
        }
        Problem::document(problems)
    })
}

/// Whoever gives a template to one machine has forgotten something.
const TEMPLATE_HINT: &str = "; {{ … }} and {% … %} are filled in only where machines are selected (--selector, --location, \
                             --role or --all in place of --machine; /rollouts in the API)";

/// What the machine would do for a document. The machine itself is asked; nothing is changed.
/// What the document leaves out stays as it is desired now.
#[utoipa::path(post, path = "/machines/{machine}/plan", tag = "desired state", request_body = DocumentBody,
    params(("machine" = String, Path, description = "id, unique beginning of an id, or name")),
    responses((status = 200, body = PlanView), Refused))]
async fn plan(
    _: Viewer,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<DocumentBody>,
) -> Result<Json<PlanView>, Problem> {
    let document = parse(&body.value.document)?;
    let state = api.fleet.state();
    let id = machine::lookup(&state, &name)?;
    let whole = machine::whole(&state, id, document.into_inner());
    match api.live.call(id, Call::Plan(whole)).await? {
        Answer::Planned(plan) => Ok(Json((&plan).into())),
        other => Err(unexpected(other)),
    }
}

/// How a document differs from what the machine is, or is on its way to. The machine is not asked.
/// Where it gave up what is desired of it, that is said, and the document is compared with what was confirmed last.
#[utoipa::path(post, path = "/machines/{machine}/diff", tag = "desired state", request_body = DocumentBody,
    params(("machine" = String, Path, description = "id, unique beginning of an id, or name")),
    responses((status = 200, body = DiffView), Refused))]
async fn diff(
    _: Viewer,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<DocumentBody>,
) -> Result<Json<DiffView>, Problem> {
    let document = parse(&body.value.document)?;
    let state = api.fleet.state();
    let id = machine::lookup(&state, &name)?;
    let whole = machine::whole(&state, id, document.into_inner());
    Ok(Json(DiffView::between(&confirmed::in_force(&state, id), &whole)))
}

/// Makes a document what the machine should be, and answers the operation that brings it about.
/// What the document leaves out stays as it is desired now. An offline machine follows when it comes back.
#[utoipa::path(post, path = "/machines/{machine}/apply", tag = "desired state", request_body = ApplyBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("If-Match" = Option<String>, Header, description = "the `ETag` of the desired state that was seen"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 202, body = OperationView), Refused))]
async fn apply(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<ApplyBody>,
) -> Result<impl IntoResponse, Problem> {
    let document = parse(&body.value.document)?;
    let permit = body.value.permit.map(PermitBody::read).transpose()?;
    let condition = caller.condition.clone();
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let id = machine::lookup(draft.state(), &name)?;
            let generation = draft.need::<Machine>(&id)?.generation;
            condition.check("desired state", Some(&generation.to_string()))?;
            let operation = machine::set_desired(draft, id, document, permit, None)?;
            Ok((operation.id.to_string(), operation.id.to_string()))
        })
        .await?;
    accepted(&api, outcome)
}

/// The answer to whatever begins an operation.
pub(in crate::api::resource) fn accepted(
    api: &Api,
    outcome: Outcome<String>,
) -> Result<impl IntoResponse + use<>, Problem> {
    let (Outcome::Done(id) | Outcome::Repeated { subject: id }) = outcome;
    let gone = || Refusal::NotFound { kind: "operation", name: id.clone() };
    let state = api.fleet.state();
    let record = id.parse().ok().and_then(|id| state.operations.get(&id)).ok_or_else(gone)?;
    let location = [(header::LOCATION, format!("{PREFIX}/operations/{id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(OperationView::of(&state, record))))
}

/// An agent said something else than what it was asked for.
pub(super) fn unexpected(answer: Answer) -> Problem {
    match answer {
        Answer::Refused(AgentRefusal::Invalid(problems)) => {
            let detail: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Problem::invalid("document", detail.join("; "))
        }
        Answer::Refused(refusal) => Problem::machine_refused("machine", refusal.to_string()),
        Answer::Planned(_) | Answer::Accepted | Answer::Observed(_) => {
            Problem::unanswered("machine", "the machine answered something else than what it was asked")
        }
    }
}
