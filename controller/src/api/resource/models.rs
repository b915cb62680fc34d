//! Server models: machines that are alike, and what operators say of them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer, etag};
use crate::api::{Api, Presence};
use crate::clock::now_unix_ms;
use crate::fleet::model::{self, CardChange, Count, Hypervisor, Model, Place};
use crate::fleet::record::ModelCard;
use crate::fleet::{Refusal, State as FleetState};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, change))
}

/// Machines that are alike in processors, memory, disks and NICs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Model)]
struct ModelView {
    /// Follows from the hardware, never changes.
    id: String,
    /// For people.
    name: String,
    /// For people.
    description: String,
    /// First of the two words that Cycle groups models by.
    category: String,
    /// Second of them.
    class: String,
    /// Thousandths of a dollar.
    hourly_mils: u64,
    /// Thousandths of a dollar.
    monthly_mils: u64,
    /// Whether every machine of it can run virtual machines.
    hypervisor: bool,
    /// Whether Cycle's software fits on it.
    compatible: bool,
    /// Machines by location.
    places: BTreeMap<String, PlaceView>,
}

/// Machines of one model at one location.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Place)]
struct PlaceView {
    /// Approved, not retired, not in maintenance.
    total: u64,
    /// Of them, those that an order would get now.
    free: u64,
    /// The same in those zones of the location that have any. A machine without a zone can be had in each, and counts in each.
    zones: BTreeMap<String, ZoneView>,
}

/// Machines of one model in one zone.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Zone)]
struct ZoneView {
    /// Approved, not retired, not in maintenance.
    total: u64,
    /// Of them, those that an order would get now.
    free: u64,
}

impl From<Model> for ModelView {
    fn from(model: Model) -> Self {
        let ModelCard { name, description, category, class, hourly_mils, monthly_mils, .. } = model.card;
        let zone = |(name, Count { total, free }): (String, Count)| (name, ZoneView { total, free });
        let place = |(code, at): (String, Place)| {
            let Place { count: Count { total, free }, zones } = at;
            (code, PlaceView { total, free, zones: zones.into_iter().map(zone).collect() })
        };
        Self {
            id: model.id,
            name,
            description,
            category,
            class,
            hourly_mils,
            monthly_mils,
            hypervisor: model.hypervisor == Hypervisor::Able,
            compatible: model.hardware.is_compatible(),
            places: model.places.into_iter().map(place).collect(),
        }
    }
}

fn all(api: &Api, state: &FleetState) -> Vec<Model> {
    model::list(state, &|id| matches!(api.live.presence(id), Presence::Online(_)), now_unix_ms())
}

/// All models, by id.
#[utoipa::path(get, path = "/models", tag = "models",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<ModelView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<ModelView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let models = all(&api, &api.fleet.state()).into_iter().filter(|model| model.id > cursor);
    Ok(Json(Page::take(models, limit, |m| m.id.clone(), Into::into)))
}

/// One model.
#[utoipa::path(get, path = "/models/{model}", tag = "models",
    params(("model" = String, Path)),
    responses((status = 200, body = ModelView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(id): Segment) -> Result<impl IntoResponse, Problem> {
    answer(&api, id)
}

/// What an operator says of a model; what is left out stays, an empty text goes back to the hardware's.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ModelChange {
    /// At most 64 bytes.
    name: Option<String>,
    /// At most 255 bytes.
    description: Option<String>,
    /// At most 64 bytes.
    category: Option<String>,
    /// At most 64 bytes.
    class: Option<String>,
    /// Thousandths of a dollar.
    hourly_mils: Option<u64>,
    /// Thousandths of a dollar.
    monthly_mils: Option<u64>,
}

/// Names and prices a model.
#[utoipa::path(patch, path = "/models/{model}", tag = "models", request_body = ModelChange,
    params(
        ("model" = String, Path),
        ("If-Match" = Option<String>, Header, description = "the `ETag` that was seen"),
    ),
    responses((status = 200, body = ModelView), Refused))]
async fn change(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(id): Segment,
    body: Body<ModelChange>,
) -> Result<impl IntoResponse, Problem> {
    let ModelChange { name, description, category, class, hourly_mils, monthly_mils } = body.value;
    let change = CardChange { name, description, category, class, hourly_mils, monthly_mils };
    let changed = api
        .fleet
        .change(caller.author, move |draft| {
            caller.condition.check("model", Some(&tag(draft.state(), &id)))?;
            model::describe(draft, &id, change)
        })
        .await?;
    answer(&api, changed.id)
}

/// What was said of a model; machines come and go without changing it.
fn tag(state: &FleetState, id: &str) -> String {
    etag::of(&state.models.get(&id.to_owned()))
}

fn answer(api: &Api, id: String) -> Result<impl IntoResponse + use<>, Problem> {
    let state = api.fleet.state();
    let found = all(api, &state).into_iter().find(|model| model.id == id);
    let model = found.ok_or_else(|| Refusal::NotFound { kind: "model", name: id.clone() })?;
    Ok((etag::header(&tag(&state, &id)), Json(ModelView::from(model))))
}
