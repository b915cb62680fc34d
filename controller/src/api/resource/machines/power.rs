//! Power: reboot and off, from inside the running machine.

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
use crate::fleet::{Refusal, machine};

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

/// Reboots or powers off, at most once for the boot that is up now.
///
/// `on` and `cycle` need something outside of the machine that can switch it on, which Muster cannot speak with yet;
/// they are refused with `cannot-switch-on`.
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
    let presence = api.live.presence(id);
    let action = match (body.value.action, &presence) {
        (Wish::Reboot, _) => PowerAction::Reboot,
        (Wish::Off, _) => PowerAction::Off,
        (Wish::On, Presence::Online(_)) => {
            return Err(Problem::conflict("action", "the machine is on already"));
        }
        (Wish::On, Presence::Offline { .. }) => {
            return Err(Problem::cannot_switch_on(
                "action",
                "a machine that is off hears nobody; press its button, or use its management controller",
            ));
        }
        (Wish::Cycle, _) => {
            return Err(Problem::cannot_switch_on(
                "action",
                "once it is off, nothing here can switch the machine on again; \"reboot\" restarts it without \
                 cutting its power",
            ));
        }
    };
    let boot = match presence {
        Presence::Online(session) => Some(session.boot),
        Presence::Offline { .. } => None,
    };
    let outcome = api
        .once(&caller, body.digest, move |draft| {
            // Only here, because a repeated request may well find its machine rebooting.
            let operation = machine::power(draft, id, action, boot.ok_or(Refusal::Offline)?)?;
            Ok((operation.id.to_string(), operation.id.to_string()))
        })
        .await?;
    accepted(&api, outcome)
}
