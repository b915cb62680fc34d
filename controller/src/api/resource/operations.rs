//! Operations: durable work, seen and cancelled.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use muster_protocol::OperationId;
use tokio::time::{Instant, timeout_at};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::machines::Nothing;
use crate::api::Api;
use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::api::view::operation::{OperationView, state_word};
use crate::fleet::answered::Outcome;
use crate::fleet::record::Operation;
use crate::fleet::{Refusal, State as FleetState, machine, operation};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(cancel))
}

/// Operations, newest first.
#[utoipa::path(get, path = "/operations", tag = "operations",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("machine" = Option<String>, Query, description = "only those of this machine"),
        ("state" = Option<String>, Query, description = "only these: `queued`, `running`, …, or `unfinished`"),
    ),
    responses((status = 200, body = Page<OperationView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<OperationView>>, Problem> {
    const STATES: [&str; 6] = ["queued", "running", "succeeded", "failed", "cancelled", "unfinished"];
    let limit = params.limit()?;
    let cursor: Option<Position> = params.cursor()?;
    let machine = params.text("machine");
    let word = params.text("state");
    params.finish()?;
    if let Some(word) = word.as_deref().filter(|word| !STATES.contains(word)) {
        return Err(Problem::invalid("state", format!("must be one of {}, and is {word:?}", STATES.join(", "))));
    }
    let state = api.fleet.state();
    let machine = machine.map(|name| machine::lookup(&state, &name)).transpose()?;
    let takes = |record: &&Operation| {
        let in_state = |word: &str| match word {
            "unfinished" => !record.state.is_ended(),
            word => word == state_word(&record.state),
        };
        machine.is_none_or(|id| record.machine == id) && word.as_deref().is_none_or(in_state)
    };
    let mut records: Vec<&Operation> = state.operations.iter().filter(takes).collect();
    records.sort_by_key(|record| std::cmp::Reverse(Position::of(record)));
    let from = cursor.map_or(0, |cursor| records.partition_point(|record| Position::of(record) >= cursor));
    let rest = records.into_iter().skip(from);
    Ok(Json(Page::take(rest, limit, |r| Position::of(r).to_string(), |r| OperationView::of(&state, r))))
}

/// Where an operation stands in the list: by age, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    created_unix_ms: u64,
    id: OperationId,
}

impl Position {
    fn of(record: &Operation) -> Self {
        Self { created_unix_ms: record.created_unix_ms, id: record.id }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.created_unix_ms, self.id)
    }
}

impl std::str::FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (created, id) = text.split_once('.').ok_or(())?;
        Ok(Self { created_unix_ms: created.parse().map_err(drop)?, id: id.parse().map_err(drop)? })
    }
}

/// One operation. With `wait` the answer comes as soon as it differs from the one whose `ETag` is given as
/// `If-None-Match`, or 304 when the time is over.
#[utoipa::path(get, path = "/operations/{operation}", tag = "operations",
    params(
        ("operation" = String, Path, description = "id, or unique beginning of one"),
        ("wait" = Option<u64>, Query, description = "seconds to wait for news, at most 60"),
        ("If-None-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = OperationView), (status = 304, description = "no news"), Refused))]
async fn show(
    _: Viewer,
    State(api): State<Api>,
    Segment(name): Segment,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wait = params.wait()?;
    params.finish()?;
    let seen = etag::seen(&headers);
    let until = Instant::now() + wait;
    let mut news = api.fleet.watch();
    let id = lookup(&news.borrow(), &name)?;
    loop {
        let state = news.borrow_and_update().clone();
        let record = state.operations.get(&id).ok_or_else(|| not_found(&name))?;
        let tag = etag::of(record);
        if seen.as_ref() != Some(&tag) {
            return Ok((etag::header(&tag), Json(OperationView::of(&state, record))).into_response());
        }
        // An operation that has ended has no more news to wait for.
        let changed = match record.state.is_ended() {
            true => false,
            false => matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))),
        };
        if !changed {
            return Ok((StatusCode::NOT_MODIFIED, etag::header(&tag), ()).into_response());
        }
    }
}

/// Takes back an operation that nobody has begun.
#[utoipa::path(post, path = "/operations/{operation}/cancel", tag = "operations",
    params(
        ("operation" = String, Path, description = "id, or unique beginning of one"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 200, body = OperationView), Refused))]
async fn cancel(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<Nothing>,
) -> Result<Json<OperationView>, Problem> {
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let id = lookup(draft.state(), &name)?;
            operation::cancel(draft, id)?;
            Ok((id.to_string(), id.to_string()))
        })
        .await?;
    let (Outcome::Done(id) | Outcome::Repeated { subject: id }) = outcome;
    let state = api.fleet.state();
    let id = lookup(&state, &id)?;
    let record = state.operations.get(&id).ok_or_else(|| not_found(&id.to_string()))?;
    Ok(Json(OperationView::of(&state, record)))
}

/// Finds an operation by its id or a beginning of it, 4 characters at least.
fn lookup(state: &FleetState, text: &str) -> Result<OperationId, Refusal> {
    if let Ok(id) = text.parse::<OperationId>() {
        return state.operations.get(&id).map(|record| record.id).ok_or_else(|| not_found(text));
    }
    let begins = |record: &&Operation| text.len() >= 4 && record.id.to_string().starts_with(text);
    let mut found = state.operations.iter().filter(begins).map(|record| record.id);
    match (found.next(), found.next()) {
        (None, _) => Err(not_found(text)),
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err(Refusal::invalid("operation", format!("{text:?} begins more than one id; write more of it")))
        }
    }
}

fn not_found(text: &str) -> Refusal {
    Refusal::NotFound { kind: "operation", name: text.chars().take(80).collect() }
}
