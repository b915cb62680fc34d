//! Drives of a machine, and how they were.

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Page, Params, Problem, Refused, Segment, Viewer};
use crate::api::view::drive::DriveView;
use crate::fleet::machine;
use crate::fleet::record::DriveKey;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(disks))
}

/// How the drives of a machine are and were, with those that are gone for less than 90 days.
///
/// Drives that tell nothing of their health, virtual ones for one, are not here.
#[utoipa::path(get, path = "/machines/{machine}/disks", tag = "machines",
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<DriveView>), Refused))]
async fn disks(
    _: Viewer,
    State(api): State<Api>,
    Segment(name): Segment,
    mut params: Params,
) -> Result<Json<Page<DriveView>>, Problem> {
    let limit = params.limit()?;
    let disk: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    let machine = machine::lookup(&state, &name)?;
    let from = DriveKey { machine, disk };
    let drives = state.drives.after(&from).take_while(|drive| drive.key.machine == machine);
    Ok(Json(Page::take(drives, limit, |drive| drive.key.disk.clone(), |drive| DriveView::whole(&state, drive))))
}
