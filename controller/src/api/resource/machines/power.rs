//! Power: from inside the running machine where its agent has a session, else from outside.

use axum::extract::State;
use axum::response::IntoResponse;
use muster_protocol::to_agent::PowerAction;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::http::{Body, Operator, Problem, Refused, Segment};
use crate::api::resource::desired::accepted;
use crate::api::view::operation::OperationView;
use crate::api::{Api, Presence};
use crate::fleet::machine;
use crate::fleet::machine::controls::Switch;
use crate::fleet::operation::switch;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(power))
}

/// What to do with a machine's power.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PowerBody {
    /// `reboot`, `off`, `on` or `cycle`.
    action: Wish,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Wish {
    Reboot,
    Off,
    On,
    Cycle,
}

/// Reboots or powers off, at most once for the boot that is up now; or switches the machine from outside.
///
/// `reboot` and `off` go to the agent where it has a session. Where it has none, and for `on` and `cycle`, the machine's BMC is
/// told, else its outlet; `on` is sent to its NICs where neither can be. Where none of them was named, `on` and `cycle` are
/// refused with `cannot-switch-on`, the others with `offline`.
#[utoipa::path(post, path = "/machines/{machine}/power", tag = "power", request_body = PowerBody,
    params(
        ("machine" = String, Path, description = "id, unique beginning of an id, or name"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats nothing for 24 hours"),
    ),
    responses((status = 202, body = OperationView), Refused))]
async fn power(
    Operator(caller): Operator,
    State(api): State<Api>,
    Segment(name): Segment,
    body: Body<PowerBody>,
) -> Result<impl IntoResponse, Problem> {
    let state = api.fleet.state();
    let id = machine::lookup(&state, &name)?;
    let boot = match api.live.presence(id) {
        Presence::Online(session) => Some(session.boot),
        Presence::Offline { .. } => None,
    };
    let wish = body.value.action;
    if matches!(wish, Wish::On) && boot.is_some() {
        return Err(Problem::conflict("action", "the machine is on already"));
    }
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            // Only here, because a repeated request may well find its machine rebooting.
            let operation = match (wish, boot) {
                (Wish::Reboot, Some(boot)) => machine::power(draft, id, PowerAction::Reboot, boot)?,
                (Wish::Off, Some(boot)) => machine::power(draft, id, PowerAction::Off, boot)?,
                (Wish::Reboot, None) => switch::ask(draft, id, Switch::Restart)?,
                (Wish::Off, None) => switch::ask(draft, id, Switch::Off)?,
                (Wish::On, _) => switch::ask(draft, id, Switch::On)?,
                (Wish::Cycle, _) => switch::ask(draft, id, Switch::Cycle)?,
            };
            Ok((operation.id.to_string(), operation.id.to_string()))
        })
        .await?;
    accepted(&api, outcome)
}
