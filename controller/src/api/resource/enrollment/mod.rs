//! Who may join: boot media with their credentials, and policies.

mod isos;
mod policies;

use utoipa_axum::router::OpenApiRouter;

use crate::api::Api;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().merge(policies::router()).merge(isos::router())
}
