//! Boot media: which there are, and which of them let machines join.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use muster_protocol::Digest;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::api::http::{Body, Operator, Page, Params, Problem, Refused, Segment, Viewer};
use crate::api::resource::machines::Nothing;
use crate::api::view::medium::IsoView;
use crate::fleet::Refusal;
use crate::fleet::answered::Outcome;
use crate::fleet::iso::{self, Built};

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(show)).routes(routes!(revoke))
}

/// Boot media that were built for this controller, in the order of their ids.
#[utoipa::path(get, path = "/isos", tag = "controller",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<IsoView>), Refused))]
async fn list(_: Viewer, State(api): State<Api>, mut params: Params) -> Result<Json<Page<IsoView>>, Problem> {
    let limit = params.limit()?;
    let cursor: String = params.cursor()?.unwrap_or_default();
    params.finish()?;
    let state = api.fleet.state();
    let cas = in_force(&api);
    let view = |iso: &_| IsoView::of(&state, iso, &cas);
    Ok(Json(Page::take(state.isos.after(&cursor), limit, |iso| iso.id.clone(), view)))
}

/// One boot medium.
#[utoipa::path(get, path = "/isos/{id}", tag = "controller",
    params(("id" = String, Path)),
    responses((status = 200, body = IsoView), Refused))]
async fn show(_: Viewer, State(api): State<Api>, Segment(id): Segment) -> Result<Json<IsoView>, Problem> {
    view(&api, id)
}

fn view(api: &Api, id: String) -> Result<Json<IsoView>, Problem> {
    let state = api.fleet.state();
    let iso = state.isos.get(&id).ok_or(Refusal::NotFound { kind: "ISO", name: id })?;
    Ok(Json(IsoView::of(&state, iso, &in_force(api))))
}

/// The CAs that a medium may pin.
fn in_force(api: &Api) -> Vec<Digest> {
    let boot = api.pki.boot_made().map(|boot| boot.described().fingerprint);
    api.pki.authority().trusted().into_iter().chain(boot).collect()
}

/// A boot medium that was built. Its builder makes the site credential; the controller learns its digest alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IsoBody {
    /// Code of the location that it is for.
    location: String,
    /// Where its machines reach the controller's boot listener; 1 to 8.
    controllers: Vec<String>,
    /// Where it was written.
    file: String,
    /// Size.
    bytes: u64,
    /// SHA-256 of the medium, 64 hex digits.
    sha256: String,
    /// SHA-256 of the 32 bytes of its site credential, 64 hex digits.
    credential_sha256: String,
    /// SHA-256 of the CA's certificate that a sealed one pins, 64 hex digits.
    sealed_ca: Option<String>,
    /// SHA-256 of the boot CA's certificate that another one pins for its UEFI machines, 64 hex digits.
    boot_ca: Option<String>,
}

/// Takes note of a boot medium: from now on its site credential is good.
#[utoipa::path(post, path = "/isos", tag = "controller", request_body = IsoBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours")),
    responses((status = 201, body = IsoView), Refused))]
async fn add(
    Operator(caller): Operator,
    State(api): State<Api>,
    body: Body<IsoBody>,
) -> Result<impl IntoResponse, Problem> {
    let IsoBody { location, controllers, file, bytes, sha256, credential_sha256, sealed_ca, boot_ca } = body.value;
    let digest = |field: &'static str, text: &str| {
        text.parse::<Digest>().map_err(|_| Problem::invalid(field, "must be 64 hex digits"))
    };
    let (sha256, credential) = (digest("sha256", &sha256)?, digest("credential_sha256", &credential_sha256)?);
    let pinned = |field: &'static str, text: Option<String>, of: &dyn Fn(&Digest) -> bool| {
        let ca = text.map(|text| digest(field, &text)).transpose()?;
        let wrong = || Problem::invalid(field, "must be the fingerprint of a CA in force, as GET /api/v1/ca tells it");
        if ca.as_ref().is_none_or(of) { Ok(ca) } else { Err(wrong()) }
    };
    let sealed = pinned("sealed_ca", sealed_ca, &|ca| api.pki.authority().trusted().contains(ca))?;
    let is_boot_ca = |ca: &Digest| api.pki.boot_made().is_some_and(|boot| boot.described().fingerprint == *ca);
    let boot_ca = pinned("boot_ca", boot_ca, &is_boot_ca)?;
    if sealed.is_some() && boot_ca.is_some() {
        return Err(Problem::invalid("boot_ca", "is not for a sealed one, which asks nobody for anything"));
    }
    let built = Built { location, controllers, file, bytes, sha256, credential, sealed, boot_ca };
    let outcome =
        api.once(&caller, body.digest, move |draft| iso::add(draft, built).map(|iso| (iso.id.clone(), iso.id))).await?;
    let (Outcome::Done(id) | Outcome::Repeated { subject: id }) = outcome;
    Ok((StatusCode::CREATED, view(&api, id)?))
}

/// Makes a boot medium useless for joining, at once. Machines that are in the fleet stay in, and start from it as before.
#[utoipa::path(post, path = "/isos/{id}/revoke", tag = "controller",
    params(("id" = String, Path)),
    responses((status = 200, body = IsoView), Refused))]
async fn revoke(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(id): Segment,
    _: Body<Nothing>,
) -> Result<Json<IsoView>, Problem> {
    let iso = api.fleet.change(caller.author, move |draft| iso::revoke(draft, &id)).await?;
    view(&api, iso.id)
}
