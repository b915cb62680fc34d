//! Leases: machines in the hands of Cycle's hubs. Hubs make and end them through the IAL; here operators see them, and bring
//! about what no hub will any more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::desired::accepted;
use super::machines::Nothing;
use crate::api::Api;
use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer};
use crate::api::view::Time;
use crate::api::view::operation::OperationView;
use crate::fleet::record::{Lease, LeaseState};
use crate::fleet::{Refusal, State as FleetState, lease, machine};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(end))
        .routes(routes!(clean))
        .routes(routes!(write_off))
}

/// A machine in a hub's hands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Lease)]
struct LeaseView {
    /// What Cycle calls its server's id.
    id: String,
    /// Who has it.
    hub: String,
    /// Cycle's own id of the server, empty where it gave none.
    cycle_server: String,
    /// Chosen by Cycle.
    hostname: String,
    /// The ordered model.
    model: String,
    /// The ordered location.
    location: String,
    /// The ordered zone, empty for any.
    zone: String,
    /// `seeking`, `preparing`, `ready`, `failed` or `ending`.
    state: String,
    /// Why a machine is sought or none was had.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Id of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    /// The machine's name; absent where it is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine_name: Option<String>,
    /// The machine's own addresses.
    addresses: Vec<String>,
    /// Ids of machines that could not be prepared.
    tried: Vec<String>,
    /// When it was ordered.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

impl LeaseView {
    fn of(fleet: &FleetState, lease: &Lease) -> Self {
        let machine = lease::seat_of(lease);
        let (state, why, seat) = match &lease.state {
            LeaseState::Seeking { why } => ("seeking", Some(why.clone()), None),
            LeaseState::Preparing { seat, .. } => ("preparing", None, Some(seat)),
            LeaseState::Ready { seat } => ("ready", None, Some(seat)),
            LeaseState::Failed { why } => ("failed", Some(why.clone()), None),
            LeaseState::Ending { .. } => ("ending", None, None),
        };
        Self {
            id: lease.id.clone(),
            hub: lease.hub.clone(),
            cycle_server: lease.cycle_server.clone(),
            hostname: lease.hostname.clone(),
            model: lease.model.clone(),
            location: lease.location.clone(),
            zone: lease.zone.clone(),
            state: state.into(),
            why,
            machine: machine.map(|id| id.to_string()),
            machine_name: machine.and_then(|id| fleet.machines.get(&id)).map(|machine| machine.name.clone()),
            addresses: seat.iter().flat_map(|seat| seat.addresses.iter().map(ToString::to_string)).collect(),
            tried: lease.tried.iter().map(ToString::to_string).collect(),
            created: Time(lease.created_unix_ms),
        }
    }
}

/// All leases that have not ended, by id.
#[utoipa::path(get, path = "/leases", tag = "leases",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("hub" = Option<String>, Query, description = "only those of this hub"),
    ),
    responses((status = 200, body = Page<LeaseView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<LeaseView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    let hub = params.text("hub");
    params.finish()?;
    let state = api.fleet.state();
    let leases = state.leases.after(&cursor).filter(|lease| hub.as_deref().is_none_or(|hub| hub == lease.hub));
    Ok(Json(Page::take(leases, limit, |lease| lease.id.clone(), |lease| LeaseView::of(&state, lease))))
}

/// One lease.
#[utoipa::path(get, path = "/leases/{lease}", tag = "leases",
    params(("lease" = String, Path)),
    responses((status = 200, body = LeaseView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(id): Segment) -> Result<Json<LeaseView>, Problem> {
    let state = api.fleet.state();
    let lease = state.leases.get(&id).ok_or(Refusal::NotFound { kind: "lease", name: id })?;
    Ok(Json(LeaseView::of(&state, lease)))
}

/// Ends a lease as if its hub had given the server back: the machine is wiped and available afterwards.
#[utoipa::path(post, path = "/leases/{lease}/end", tag = "leases",
    params(
        ("lease" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 204, description = "it has begun; the lease is gone when it is done"), Refused))]
async fn end(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(id): Segment,
    body: Body<Nothing>,
) -> Result<StatusCode, Problem> {
    let ending = |draft: &mut crate::fleet::Draft| {
        draft.need::<Lease>(&id)?;
        lease::decommission(draft, &id).map(|()| ((), id))
    };
    api.once(&caller, body.digest, ending).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Cleans a machine once more whose cleaning after a lease failed.
#[utoipa::path(post, path = "/machines/{machine}/clean", tag = "leases",
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 202, body = OperationView), Refused))]
async fn clean(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<Nothing>,
) -> Result<impl IntoResponse, Problem> {
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            let id = machine::lookup(draft.state(), &name)?;
            let operation = lease::clean_again(draft, id)?;
            Ok((operation.id.to_string(), operation.id.to_string()))
        })
        .await?;
    accepted(&api, outcome)
}

/// Takes a leased machine that will not come back out of the books: it is retired, its lease ends, its addresses are free.
/// Only for a box that is off for good; one that is on would share its address with another.
#[utoipa::path(post, path = "/machines/{machine}/write-off", tag = "leases",
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 204, description = "it is written off"), Refused))]
async fn write_off(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<Nothing>,
) -> Result<StatusCode, Problem> {
    let change = move |draft: &mut crate::fleet::Draft| {
        let id = machine::lookup(draft.state(), &name)?;
        lease::write_off(draft, id).map(|machine| ((), machine.id.to_string()))
    };
    api.once(&caller, body.digest, change).await?;
    Ok(StatusCode::NO_CONTENT)
}
