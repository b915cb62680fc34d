//! The controller itself: how it is, and the boot images it has.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Problem, Refused, Viewer};
use crate::api::view::Time;
use crate::api::view::machine::lifecycle;
use crate::api::{Api, Presence};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(status))
}

/// How the controller and its fleet are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Status)]
struct StatusView {
    /// Of the controller.
    version: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    started: Time,
    /// SHA-256 of the CA's certificate.
    ca: String,
    /// Machines by lifecycle.
    machines: BTreeMap<String, usize>,
    /// Machines that can be spoken with now.
    online: usize,
    /// Operations that are not over.
    operations: usize,
    /// Number of the newest event.
    events: u64,
}

/// How the controller and its fleet are.
#[utoipa::path(get, path = "/status", tag = "controller", responses((status = 200, body = StatusView), Refused))]
async fn status(_: Viewer, State(api): State<Api>) -> Result<Json<StatusView>, Problem> {
    let state = api.fleet.state();
    let mut machines = BTreeMap::new();
    let mut online = 0;
    for machine in state.machines.iter() {
        *machines.entry(lifecycle(&machine.lifecycle).to_owned()).or_default() += 1;
        online += usize::from(matches!(api.live.presence(machine.id), Presence::Online(_)));
    }
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        started: Time(api.site.started_unix_ms),
        ca: api.site.ca.to_string(),
        machines,
        online,
        operations: state.operations.iter().filter(|operation| !operation.state.is_ended()).count(),
        events: state.next_event() - 1,
    }))
}
