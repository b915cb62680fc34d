//! The resources, and the OpenAPI document that is made of the very routes that serve them.

mod access;
mod audit;
mod desired;
mod enrollment;
mod feed;
mod leases;
mod locations;
mod machines;
mod models;
mod operations;
mod site;
mod subnets;

use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, OpenApiBuilder, SecurityRequirement};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::http::problem::ProblemView;
use super::{Api, PREFIX};

pub use machines::wipe::WipeLevel;
pub use subnets::ReservationView;

/// All routes, without the prefix, and what they are.
pub(super) fn router() -> (Router<Api>, OpenApi) {
    let (router, paths) = OpenApiRouter::<Api>::new()
        .merge(machines::router())
        .merge(desired::router())
        .merge(operations::router())
        .merge(locations::router())
        .merge(models::router())
        .merge(leases::router())
        .merge(subnets::router())
        .merge(access::router())
        .merge(enrollment::router())
        .merge(feed::router())
        .merge(audit::router())
        .merge(site::router())
        .merge(access::ca::router())
        .split_for_parts();
    let document = described(paths);
    let served = document.clone();
    // The one answer that needs no token: it tells nothing of this fleet.
    let router = router.route("/openapi.json", get(move || async move { Json(served) }));
    (router, document)
}

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    router().1
}

fn described(mut paths: OpenApi) -> OpenApi {
    let with_prefix = std::mem::take(&mut paths.paths.paths)
        .into_iter()
        .map(|(path, item)| (format!("{PREFIX}{path}"), item))
        .collect();
    paths.paths.paths = with_prefix;
    paths.info.title = "Muster operator API".into();
    paths.info.version = env!("CARGO_PKG_VERSION").into();
    paths.info.description = Some(
        "Machines and what they should be. Refusals are problem documents (RFC 9457) with a stable `code` and the \
         `field` that is meant. Lists come in pages: give `next` as `cursor` to go on. Any POST may carry an \
         `Idempotency-Key`: for 24 hours a repetition repeats nothing. Reads of one thing carry an `ETag`; give it as \
         `If-Match` to change only what you saw. Every answer carries the request's `X-Request-Id`, the \
         caller's own where it gave one; the audit log has it too."
            .into(),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("a token, muster_…")).build();
    let components = paths.components.get_or_insert_with(Default::default);
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some("user `token`, a token as password"));
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    components.add_security_scheme("basic", SecurityScheme::Http(basic.build()));
    let mut problem = vec![(ProblemView::name().into_owned(), ProblemView::schema())];
    ProblemView::schemas(&mut problem);
    components.schemas.extend(problem);
    OpenApiBuilder::from(paths)
        .security(Some(["token", "basic"].map(|scheme| SecurityRequirement::new(scheme, Vec::<String>::new()))))
        .build()
}
